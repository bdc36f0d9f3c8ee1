"""Runs the Procfile's processes as children: starts, signals, restarts and stops them."""

import contextlib
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from local.processes import kill_group, spawn

# The Procfile's processes drain within 25 s of SIGTERM; what needs longer is hung.
GRACE_SECONDS = 28.0

_LOOK_SECONDS = 0.1
_BACKOFF_MIN_SECONDS = 0.5
_BACKOFF_MAX_SECONDS = 30.0
_HEALTHY_AFTER_SECONDS = 60.0
_PROCFILE_LINE = re.compile(r"^([A-Za-z0-9_-]+):\s*(.+)$")


def read_procfile(path: Path) -> dict[str, str]:
    """The Procfile's commands by process type, in the file's order."""
    matches = (_PROCFILE_LINE.match(line) for line in path.read_text().splitlines())
    return {match[1]: match[2].strip() for match in matches if match}


@dataclass
class _Child:
    name: str
    command: str
    environ: Mapping[str, str]
    process: subprocess.Popen[bytes]
    started_at: float
    wanted: bool = True
    quick_deaths: int = 0
    restart_at: float | None = None

    def backoff_seconds(self) -> float:
        return min(_BACKOFF_MIN_SECONDS * 2.0**self.quick_deaths, _BACKOFF_MAX_SECONDS)


class Supervisor:
    """Named child processes, each the leader of its own group, logging to `<name>.log`.

    With `restart=True` a child that dies is started again after a back-off, and `say` is told
    in a sentence. Children run in the Procfile's folder with exactly the environment given, and
    end with this process even if it is killed (on Linux). Methods take a child's name and raise
    KeyError for an unknown one. Safe to call from any thread.
    """

    def __init__(
        self,
        procfile: Path,
        environ: Mapping[str, str],
        *,
        log_directory: Path,
        restart: bool = False,
        say: Callable[[str], None] | None = None,
    ) -> None:
        self._commands = read_procfile(procfile)
        self._directory = procfile.resolve().parent
        self._environ = dict(environ)
        self._log_directory = log_directory
        self._restart = restart
        self._say = say or (lambda _: None)
        self._children: dict[str, _Child] = {}
        self._lock = threading.RLock()
        self._stopping = threading.Event()
        self._watcher: threading.Thread | None = None
        # A child gets its death signal when the thread that spawned it ends: one thread spawns
        # all of them, and lives as long as the supervisor.
        self._spawner = ThreadPoolExecutor(1, thread_name_prefix="spawner")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        frames: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def names(self) -> list[str]:
        """Names of all children started so far, in that order."""
        with self._lock:
            return list(self._children)

    def start(
        self, process: str, *, name: str | None = None, environ: Mapping[str, str] | None = None
    ) -> str:
        """Start one instance of a Procfile line; returns its name, the process type by default.

        `environ` is added to the supervisor's. A name may be used again once its child is gone.
        """
        return self.start_command(name or process, self._commands[process], environ=environ)

    def start_command(
        self, name: str, command: str, *, environ: Mapping[str, str] | None = None
    ) -> str:
        """Start any shell command as a child; returns its name."""
        with self._lock:
            known = self._children.get(name)
            if known is not None and (known.restart_at or known.process.poll() is None):
                raise ValueError(f"{name} is running already")
            merged = {**self._environ, **(environ or {})}
            process = self._spawn(name, command, merged)
            self._children[name] = _Child(name, command, merged, process, time.monotonic())
            if self._restart and self._watcher is None:
                self._watcher = threading.Thread(target=self._watch, name="watcher", daemon=True)
                self._watcher.start()
        return name

    def pid(self, name: str) -> int:
        """The child's process id, also its group's; of the dead one if it is dead."""
        return self._children[name].process.pid

    def log_path(self, name: str) -> Path:
        """Where the child's output goes."""
        return self._log_directory / f"{name}.log"

    def alive(self, name: str) -> bool:
        """Whether the child runs at this moment."""
        return self._children[name].process.poll() is None

    def signal(self, name: str, signum: int, *, group: bool = False) -> None:
        """Signal the child, or with `group` all that it started too; nothing if it is dead."""
        process = self._children[name].process
        if group:
            kill_group(process, signal.Signals(signum))
        else:
            process.send_signal(signum)

    def wait(self, name: str, timeout_seconds: float) -> int:
        """Wait until the child, as it runs now, exits; its status, -N for signal N.

        Raises subprocess.TimeoutExpired.
        """
        return self._children[name].process.wait(timeout_seconds)

    def stop(self, *names: str, grace_seconds: float = GRACE_SECONDS) -> dict[str, int]:
        """SIGTERM to all these at once, SIGKILL to what is left after the grace; their statuses."""
        with self._lock:
            children = [self._children[name] for name in names]
            for child in children:
                child.wanted = False
                child.restart_at = None
        deadline = time.monotonic() + grace_seconds
        for child in children:
            child.process.send_signal(signal.SIGTERM)
        for child in children:
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.process.wait(max(0.0, deadline - time.monotonic()))
        return {child.name: _bury(child) for child in children}

    def stop_all(self, grace_seconds: float = GRACE_SECONDS) -> dict[str, int]:
        """Stop every child; their statuses by name."""
        return self.stop(*self.names, grace_seconds=grace_seconds)

    def close(self) -> None:
        """Stop every child and the supervisor's own threads; it cannot be used afterwards."""
        self.stop_all()
        self._stopping.set()
        if self._watcher is not None:
            self._watcher.join()
        self._spawner.shutdown()

    def _spawn(
        self, name: str, command: str, environ: Mapping[str, str]
    ) -> subprocess.Popen[bytes]:
        # A shell reads the line, as on the platforms that Procfiles come from.
        argv = ["/bin/sh", "-c", f"exec {command}"]
        return self._spawner.submit(
            spawn,
            argv,
            log_path=self.log_path(name),
            environ=environ,
            directory=self._directory,
        ).result()

    def _watch(self) -> None:
        while not self._stopping.wait(_LOOK_SECONDS):
            with self._lock:
                self._look(self._children.values())

    def _look(self, children: Iterable[_Child]) -> None:
        now = time.monotonic()
        for child in children:
            if not child.wanted or child.process.poll() is None:
                continue
            if child.restart_at is None:
                self._plan_restart(child, now)
            elif now >= child.restart_at:
                child.restart_at = None
                child.started_at = now
                child.process = self._spawn(child.name, child.command, child.environ)

    def _plan_restart(self, child: _Child, now: float) -> None:
        healthy = now - child.started_at >= _HEALTHY_AFTER_SECONDS
        child.quick_deaths = 0 if healthy else child.quick_deaths
        delay_seconds = child.backoff_seconds()
        child.quick_deaths += 1
        child.restart_at = now + delay_seconds
        self._say(
            f"{child.name} {_ending(_bury(child))}; starting it again in {delay_seconds:g} s "
            f"(see {self.log_path(child.name)})"
        )


def _bury(child: _Child) -> int:
    """Kill what is left of a child's group, the child included, and give its status."""
    kill_group(child.process)
    return child.process.wait()


def _ending(status: int) -> str:
    if status >= 0:
        return f"exited with status {status}"
    return f"was killed by {signal.Signals(-status).name}"
