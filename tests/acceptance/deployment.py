"""The whole service on this machine: the Procfile's processes and what they need, to be hurt."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import httpx
import psycopg

from local.environment import complete, simulated_providers
from local.postgres import EmbeddedPostgres
from local.processes import free_port, tail
from local.redis import EmbeddedRedis
from local.supervisor import Supervisor, read_procfile
from tests.acceptance.simulator import Simulator

ROOT = Path(__file__).resolve().parents[2]
FORMATION = ("web", "worker", "scheduler")
MARKUP_PERCENT = "12.5"
DOUBT_SECONDS = 6
METRICS_TOKEN = "token-of-the-metrics-0123456789ab"
SETTINGS: Mapping[str, str] = {
    "WEB_CONCURRENCY": "2",
    "BATCH_WINDOW_SECONDS": "2",
    "BATCH_POLL_SECONDS": "1",
    "BATCH_MAX_REQUESTS": "200",
    "BATCH_DOUBT_SECONDS": str(DOUBT_SECONDS),
    "SWEEP_SECONDS": "2",
    "PRICE_MARKUP_PERCENT": MARKUP_PERCENT,
    "WEBHOOK_ALLOW_PRIVATE": "true",
    "METRICS_TOKEN": METRICS_TOKEN,
}
ACCOUNTS = 3
START_SECONDS = 60.0
LOG_TAIL_CHARACTERS = 3000

# What a run leaves behind; accounts, keys, lanes and prices stay, for processes remember them.
_FORGET = """
    TRUNCATE jobs, job_bodies, job_results, idempotency_keys, provider_batches, lines,
        orphan_batches, batch_cancellations, standard_runs, ticks, holds, key_spending,
        settlements, daily_usage, reconciliations, events, deliveries, delivery_attempts,
        request_log CASCADE;
    DELETE FROM transfers WHERE kind <> 'deposit';
    UPDATE balances SET debits_nanos = 0, held_nanos = 0;
"""
_UNSETTLED = """
    SELECT (SELECT count(*) FROM jobs WHERE completed_at IS NULL),
           (SELECT count(*) FROM provider_batches WHERE status <> 'done'),
           (SELECT count(*) FROM deliveries WHERE status = 'pending'),
           (SELECT count(*) FROM orphan_batches WHERE booked_at IS NULL)
"""


@dataclass(frozen=True, slots=True)
class Account:
    """A customer of the deployment: its key, and the secret its webhooks are signed with."""

    id: str
    api_key: str
    webhook_secret: str


class NotSettled(AssertionError):
    """Work was left over; the message counts it."""


class Deployment:
    """PostgreSQL, Redis, the simulator, and the Procfile's processes under short settings.

    Nothing is restarted that dies by itself: that would hide it. Use as a context manager, from
    one thread that lives as long as the deployment.
    """

    formation: Sequence[str] = FORMATION

    def __init__(self, settings: Mapping[str, str] = SETTINGS) -> None:
        self._settings = settings
        self._directory = Path(tempfile.mkdtemp(prefix="offpeak-acceptance-"))
        self._directory.chmod(0o711)  # PostgreSQL's user must be able to pass, when we are root.
        self._cleanup = contextlib.ExitStack()
        self._cleanup.callback(shutil.rmtree, self._directory, ignore_errors=True)
        self.logs = self._directory / "log"
        self.postgres = EmbeddedPostgres(self._directory / "postgres", durable=False)
        self.redis = EmbeddedRedis(self._directory / "redis")
        self.base_url = f"http://127.0.0.1:{free_port()}"
        self.accounts: list[Account] = []

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._cleanup.close()
            raise
        return self

    def __exit__(self, *_exc: object) -> None:
        self._cleanup.close()

    def _start(self) -> None:
        port = free_port()
        self._environ = self._make_environ(port)
        self.processes = Supervisor(ROOT / "Procfile", self._environ, log_directory=self.logs)
        self._cleanup.callback(self.processes.close)
        self.processes.start_command("simulator", f"python -m local.simulator --port {port}")
        self.simulator = Simulator(f"http://127.0.0.1:{port}")
        self._cleanup.callback(self.simulator.close)
        self._release()
        for name in self.formation:
            self.start(_process_of(name), name)
        made = self._make_accounts()
        self.wait_ready()
        self.accounts = [self._known(each["account_id"], each["api_key"]) for each in made]

    def _make_environ(self, simulator_port: int) -> dict[str, str]:
        """The environment of all processes, with nothing of our own in it."""
        scratch = self._directory / "tmp"
        scratch.mkdir()
        given = {
            "PATH": os.environ["PATH"],
            "PORT": self.base_url.rpartition(":")[2],
            "TMPDIR": str(scratch),
            **self._settings,
        }
        return complete(given, self._start_services(simulator_port), self._directory)

    def _start_services(self, simulator_port: int) -> dict[str, str]:
        """Starts the databases; the variables that tell where they and the simulator are."""
        data = self.postgres.data_directory.parent
        self._cleanup.callback(shutil.rmtree, data, ignore_errors=True)
        self._cleanup.callback(self.postgres.stop)
        self._cleanup.callback(self.redis.stop)
        return {
            **simulated_providers(simulator_port),
            "REDIS_URL": self.redis.start(),
            "DATABASE_URL": self.postgres.start(),
        }

    def _release(self) -> None:
        done = self._run("/bin/sh", "-c", f"exec {read_procfile(ROOT / 'Procfile')['release']}")
        assert done.returncode == 0, done.stdout + done.stderr
        self.logs.mkdir(exist_ok=True)
        self.log_path("release").write_text(done.stdout + done.stderr)

    def command(self, *arguments: str) -> tuple[int, dict[str, Any]]:
        """One operator command: its exit status and its answer, the last line it prints."""
        done = self._run("flask", "--app", "web", *arguments, "--json")
        assert done.stdout, done.stderr
        answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return done.returncode, answer

    def _make_accounts(self) -> list[dict[str, str]]:
        made = self._run(sys.executable, "-m", "tests.acceptance.customers", str(ACCOUNTS))
        assert made.returncode == 0, made.stdout + made.stderr
        return [json.loads(line) for line in made.stdout.splitlines() if "api_key" in line]

    def _known(self, account_id: str, api_key: str) -> Account:
        with self.client(api_key) as client:
            secret = client.get("/v1/webhook_secret").raise_for_status().json()["secret"]
        return Account(account_id, api_key, secret)

    def _run(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, env=self._environ, cwd=ROOT, capture_output=True, text=True, check=False
        )

    def client(self, api_key: str) -> httpx.Client:
        """An HTTP client of the gateway that uses this key."""
        return httpx.Client(
            base_url=self.base_url,
            headers={"Authorization": f"Bearer {api_key}"},
            timeout=30,
            trust_env=False,
        )

    def database(self) -> psycopg.Connection:
        """A connection of the auditor's, each statement a transaction of its own."""
        return psycopg.connect(
            self.postgres.url(), autocommit=True, application_name="auditor", connect_timeout=5
        )

    def start(self, process: str, name: str | None = None) -> str:
        """Start one more of a Procfile's line; its name."""
        return self.processes.start(process, name=name)

    @contextlib.contextmanager
    def besides(self, **more: int) -> Iterator[list[str]]:
        """So many more of each process while the block runs; the names of all that run then."""
        names = [f"{process}-{number + 2}" for process in more for number in range(more[process])]
        for name in names:
            self.start(_process_of(name), name)
        try:
            yield [*FORMATION, *names]
        finally:
            self.processes.stop(*names)

    def kill(self, name: str) -> None:
        """SIGKILL a process with all that it started, and start it again at once."""
        self.processes.signal(name, signal.SIGKILL, group=True)
        self.processes.wait(name, START_SECONDS)
        self.start(_process_of(name), name)

    def wait_ready(self) -> None:
        """Until web, with database and migrations, scheduler and Redis are all well."""
        with httpx.Client(base_url=self.base_url, timeout=5, trust_env=False) as client:
            until(lambda: _status(client) == "ok", START_SECONDS, "the service is ready")

    def wait_settled(self, timeout_seconds: float) -> float:
        """Until nothing is left to do: jobs, batches, webhooks, orphans. The seconds it took.

        Raises NotSettled.
        """
        began = time.monotonic()
        with self.database() as connection:
            while any(left := connection.execute(_UNSETTLED).fetchone() or ()):
                if time.monotonic() - began > timeout_seconds:
                    message = "{} jobs, {} batches, {} webhooks and {} orphans are left".format(
                        *left
                    )
                    raise NotSettled(f"{message} after {timeout_seconds:.0f} s")
                time.sleep(0.2)
        return time.monotonic() - began

    def reset(self) -> None:
        """Forget all work of earlier tests, here and at the simulator; start what is not there."""
        self.simulator.reset()
        for name in FORMATION:
            if name not in self.processes.names or not self.processes.alive(name):
                self.start(name)
        with self.database() as connection:
            connection.execute(_FORGET)
        self.wait_ready()

    def secrets(self) -> Iterator[str]:
        """What no log may tell: the house's keys and passwords, and the customers'."""
        yield from (value for name, value in self._environ.items() if name.endswith("_KEY"))
        yield str(urlsplit(self.redis.url()).password)
        for account in self.accounts:
            yield from (account.api_key, account.webhook_secret)

    def log_path(self, name: str) -> Path:
        """Where the output of one process goes, over all its restarts."""
        return self.logs / f"{name}.log"

    def log_tails(self) -> dict[str, str]:
        """The end of every log, by its process."""
        paths = [*sorted(self.logs.glob("*.log")), *sorted(self._directory.glob("*.log"))]
        return {path.stem: tail(path, LOG_TAIL_CHARACTERS) for path in paths}


def _process_of(name: str) -> str:
    return name.partition("-")[0]


def _status(client: httpx.Client) -> str | None:
    try:
        status: str | None = client.get("/ready").json().get("status")
    except (httpx.TransportError, ValueError):
        return None
    return status


def until(condition: Callable[[], bool], timeout_seconds: float, what: str) -> None:
    """Wait for a condition; AssertionError with `what` if it does not come true in time."""
    end = time.monotonic() + timeout_seconds
    while not condition():
        assert time.monotonic() < end, f"not within {timeout_seconds:g} s: {what}"
        time.sleep(0.05)
