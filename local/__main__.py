"""`python -m local`: the whole service on this machine, until Ctrl-C or SIGTERM."""

import contextlib
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import httpx

import settings
from local.demo import ensure_demo, instructions
from local.environment import complete, simulated_providers, wants_simulator, write_exports
from local.postgres import EmbeddedPostgres
from local.processes import FolderLock, LocalServiceError, free_port, open_log, tail
from local.redis import EmbeddedRedis
from local.supervisor import Supervisor, read_procfile

ROOT = Path(__file__).resolve().parent.parent
STATE = ROOT / ".local"
LOGS = STATE / "log"
READY_TIMEOUT_SECONDS = 60.0

_LOOK_SECONDS = 0.2
_EMBEDDED = {"DATABASE_URL": "postgresql://embedded", "REDIS_URL": "redis://embedded"}


class _Interrupted(Exception):
    """Asked to stop while still starting."""


def say(sentence: str) -> None:
    """Print a line at once, also into a pipe."""
    print(sentence, flush=True)


class LocalService:
    """Everything that runs, in the order in which `close` stops it."""

    def __init__(self, environ: Mapping[str, str], stop: threading.Event) -> None:
        self._given = environ
        self._stop = stop
        self._cleanup = contextlib.ExitStack()
        self._servers: dict[str, EmbeddedPostgres | EmbeddedRedis] = {}

    def start(self) -> None:
        """Start all of it and return when it answers; raises LocalServiceError, SettingsError."""
        lock = FolderLock(STATE / "lock", "bin/run")
        lock.acquire()
        self._cleanup.callback(lock.release)
        # A bad value is refused before anything starts.
        port = settings.load(complete(self._given, _EMBEDDED, STATE)).port
        _refuse_busy_port(port)
        # 1. What the processes need: the simulator first, it loads while the databases start.
        services = self._start_simulator() if wants_simulator(self._given) else {}
        services |= self._start_servers()
        environ = complete(self._given, services, STATE)
        write_exports(environ, STATE / "env")
        # 2. The Procfile's lines, `release` to its end before the others.
        self._check_interrupt()
        _release(environ)
        self._check_interrupt()
        processes = Supervisor(
            ROOT / "Procfile", environ, log_directory=LOGS, restart=True, say=say
        )
        self._cleanup.callback(processes.close)
        base_url = f"http://127.0.0.1:{port}"
        processes.start("web")
        # All at once they would only keep each other from starting: web is what is waited for.
        self._wait_until_ready(base_url, processes.log_path("web"))
        for name in ("worker", "scheduler"):
            processes.start(name)
        # 3. Somebody to use it.
        demo = ensure_demo(STATE / "demo.json", base_url, environ)
        say(instructions(demo, base_url))
        say(f"Logs: {LOGS}. Operator commands: `. .local/env`, then `flask --app web --help`.")
        say("Ctrl-C stops everything; the data stays.")

    def run(self) -> None:
        """Wait until asked to stop; start an embedded server that died again."""
        while not self._stop.wait(_LOOK_SECONDS):
            for name, server in self._servers.items():
                if not server.running():
                    say(f"{name} died; starting it again (see {LOGS})")
                    server.stop()
                    server.start()

    def close(self) -> None:
        """Stop the processes, then what they need."""
        self._cleanup.close()

    def _start_simulator(self) -> dict[str, str]:
        port = free_port()
        state = shlex.quote(str(STATE / "simulator.state"))
        supervisor = Supervisor(
            ROOT / "Procfile",
            complete(self._given, {}, STATE),
            log_directory=LOGS,
            restart=True,
            say=say,
        )
        self._cleanup.callback(supervisor.close)
        supervisor.start_command(
            "simulator",
            f"python -m local.simulator --host 127.0.0.1 --port {port} --state {state}",
        )
        return simulated_providers(port)

    def _start_servers(self) -> dict[str, str]:
        urls: dict[str, str] = {}
        if not self._given.get("REDIS_URL"):
            redis = EmbeddedRedis(STATE / "redis", log_path=LOGS / "redis.log")
            self._cleanup.callback(redis.stop)
            urls["REDIS_URL"] = redis.start()
            self._servers["redis"] = redis
        if not self._given.get("DATABASE_URL"):
            postgres = EmbeddedPostgres(STATE / "postgres", log_path=LOGS / "postgres.log")
            self._cleanup.callback(postgres.stop)
            urls["DATABASE_URL"] = postgres.start()
            self._servers["postgres"] = postgres
            if not postgres.data_directory.is_relative_to(STATE):
                say(
                    f"PostgreSQL's data is in {postgres.data_directory}: it does not run as root, "
                    f"and no other user can enter {STATE}."
                )
        return urls

    def _wait_until_ready(self, base_url: str, log_path: Path) -> None:
        deadline = time.monotonic() + READY_TIMEOUT_SECONDS
        with httpx.Client(base_url=base_url, timeout=5, trust_env=False) as client:
            while not _is_ready(client):
                if time.monotonic() > deadline:
                    raise LocalServiceError(
                        f"The web process was not ready within {READY_TIMEOUT_SECONDS:.0f} s; "
                        f"{log_path} ends with: {tail(log_path)}"
                    )
                self._stop.wait(0.1)
                self._check_interrupt()

    def _check_interrupt(self) -> None:
        if self._stop.is_set():
            raise _Interrupted


def _refuse_busy_port(port: int) -> None:
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError as error:
        raise LocalServiceError(
            f"Port {port} cannot be used ({os.strerror(error.errno or 0)}); set PORT to another."
        ) from error


def _release(environ: Mapping[str, str]) -> None:
    log_path = LOGS / "release.log"
    command = ["/bin/sh", "-c", f"exec {read_procfile(ROOT / 'Procfile')['release']}"]
    with open_log(log_path) as log:
        # A session of its own: Ctrl-C at the terminal must not cut a migration.
        done = subprocess.run(
            command,
            env=dict(environ),
            cwd=ROOT,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            check=False,
        )
    if done.returncode != 0:
        raise LocalServiceError(f"The database could not be migrated: {tail(log_path)}")


def _is_ready(client: httpx.Client) -> bool:
    try:
        checks = client.get("/ready").json().get("checks", {})
    except (httpx.TransportError, ValueError):
        return False
    return all(checks.get(name) == "ok" for name in ("database", "migrations"))


def main() -> int:
    """Returns the exit status: 0 when asked to stop, 1 when something keeps it from starting."""
    stop = threading.Event()
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, lambda *_: stop.set())
    STATE.mkdir(exist_ok=True)
    service = LocalService(os.environ, stop)
    try:
        service.start()
        service.run()
    except _Interrupted:
        return 0
    except (LocalServiceError, settings.SettingsError) as error:
        print(error, file=sys.stderr)
        return 1
    finally:
        service.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
