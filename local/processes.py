"""Child processes that do not outlive their parent, and folders that one process owns."""

import contextlib
import ctypes
import fcntl
import os
import pwd
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TextIO

import psutil

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_LOG_MAX_BYTES = 20_000_000


class LocalServiceError(Exception):
    """Something on this machine keeps the service from starting; the message is a sentence."""


def spawn(
    argv: Sequence[str],
    *,
    log_path: Path,
    environ: Mapping[str, str] | None = None,
    directory: Path | None = None,
    user: str | None = None,
    death_signal: signal.Signals = signal.SIGTERM,
) -> subprocess.Popen[bytes]:
    """Start a program as the leader of its own process group, its output appended to a file.

    On Linux the kernel sends it `death_signal` when the *thread* that called this ends, so call
    it from a thread that lives as long as the child should. Elsewhere a killed parent leaves it.
    """
    account = pwd.getpwnam(user) if user is not None else None
    with open_log(log_path) as log:
        return subprocess.Popen(
            list(argv),
            env=dict(environ) if environ is not None else None,
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            user=account.pw_uid if account else None,
            group=account.pw_gid if account else None,
            extra_groups=[] if account else None,
            preexec_fn=_follower_of(os.getpid(), death_signal),
        )


def open_log(path: Path) -> TextIO:
    """A log to append to; one grown too long is moved aside, replacing the one moved before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and path.stat().st_size > _LOG_MAX_BYTES:
        path.replace(path.with_suffix(".old"))
    return path.open("a")


def _follower_of(parent_pid: int, death_signal: signal.Signals) -> Callable[[], None] | None:
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None, use_errno=True).prctl

    def follow() -> None:
        prctl(_PR_SET_PDEATHSIG, int(death_signal), 0, 0, 0)
        if os.getppid() != parent_pid:  # It died before the kernel was asked to tell.
            os._exit(1)

    return follow


def kill_group(process: subprocess.Popen[bytes], signum: signal.Signals = signal.SIGKILL) -> None:
    """Signal a child's whole process group; also what its exited leader left behind."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signum)


def stop_child(
    process: subprocess.Popen[bytes], signum: signal.Signals, *, grace_seconds: float
) -> None:
    """Ask a child to end, wait, and kill what is left of its group."""
    if process.poll() is None:
        process.send_signal(signum)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(grace_seconds)
    kill_group(process)
    process.wait()


def stop_orphan(
    pid_file: Path, mark: str, signum: signal.Signals, *, grace_seconds: float = 30
) -> None:
    """End the server that an earlier, killed parent left running in this folder, if there is one.

    `mark` is a text in its command line. A stale file, whose number may by now belong to any
    other process, is removed.
    """
    try:
        pid = int(pid_file.read_text().split(maxsplit=1)[0])
        orphan = psutil.Process(pid)
        if mark not in " ".join(orphan.cmdline()):
            raise psutil.NoSuchProcess(pid)
        orphan.send_signal(signum)
        if not wait_gone([orphan], grace_seconds):
            orphan.kill()
            wait_gone([orphan], grace_seconds)
    except (FileNotFoundError, IndexError, ValueError, psutil.NoSuchProcess):
        pid_file.unlink(missing_ok=True)


def is_gone(process: psutil.Process) -> bool:
    """Whether it ended; whoever inherited it may not have asked for its status yet."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def wait_gone(processes: Sequence[psutil.Process], timeout_seconds: float) -> bool:
    """Wait until processes that are not our own children ended; whether they did."""
    deadline = time.monotonic() + timeout_seconds
    while not all(is_gone(process) for process in processes):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


class FolderLock:
    """Makes a folder one process's own; the kernel frees it when that process is gone."""

    def __init__(self, path: Path, owner: str) -> None:
        self._path = path
        self._owner = owner
        self._file: TextIO | None = None

    def acquire(self) -> None:
        """Raises LocalServiceError when somebody else has it."""
        file = self._path.open("a")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise LocalServiceError(
                f"Another {self._owner} is running in {self._path.parent}; stop it first."
            ) from None
        self._file = file

    def release(self) -> None:
        """Does nothing if it is not held."""
        if self._file is not None:
            self._file.close()
            self._file = None


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on at this moment."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def tail(path: Path, characters: int = 600) -> str:
    """The end of a log, to show beside an error."""
    if not path.exists():
        return ""
    return path.read_text(errors="replace")[-characters:].strip()
