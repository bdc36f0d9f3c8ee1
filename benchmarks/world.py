"""A PostgreSQL, a provider simulator and a house on them, for one measurement."""

import json
import secrets
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import orjson

from gateway import collecting
from gateway.access import accounts, keys
from gateway.billing import ledger
from gateway.calls.idempotency import Stored
from gateway.calls.intake import Intake, Submission
from gateway.house import House, build
from gateway.lanes.leases import LeaseKeeper
from gateway.lanes.works import Works
from gateway.providers.dialect import Endpoint
from gateway.webhooks.signing import new_secret
from local.postgres import temporary_postgres
from models import ids
from models.migrate import migrate
from models.session import transaction
from settings import load

MODEL = "gpt-4o-mini"
CREDIT_NANOS = 10**15
ACCEPT_AT_ONCE = 1000
PLENTY_A_MINUTE = 10**9


@dataclass(frozen=True, slots=True)
class World:
    """What a measurement works with. `key` is one of the account's, without limits."""

    environ: Mapping[str, str]
    house: House
    works: Works
    account_id: UUID
    key: str
    database_pid: int

    @property
    def url(self) -> str:
        """The database's."""
        return self.environ["DATABASE_URL"]

    def accept(self, count: int) -> None:
        """Makes that many small jobs, as an upload would."""
        intake = Intake()
        for start in range(0, count, ACCEPT_AT_ONCE):
            numbers = range(start, min(count, start + ACCEPT_AT_ONCE))
            with transaction(self.house.engine) as session:
                intake.accept(session, [self._submission(number) for number in numbers])
            intake.committed()

    def _submission(self, number: int) -> Submission:
        now = datetime.now(UTC)
        question = {"role": "user", "content": f"What will the weather be on day {number}?"}
        body = {"model": MODEL, "messages": [question], "max_tokens": 30}
        route = self.house.router.route(Endpoint.CHAT_COMPLETIONS, MODEL, body)
        return Submission(
            job_id=ids.new(),
            account_id=self.account_id,
            key_id=self.account_id,
            lane=("openai", "house", Endpoint.CHAT_COMPLETIONS.value, MODEL),
            model=MODEL,
            body=orjson.dumps(body),
            embedding_inputs=0,
            estimated_nanos=100_000,
            standard_nanos=200_000,
            prices=route.offer.prices,
            markup_bps=0,
            created_at=now,
            deadline_at=now + timedelta(hours=72),
            custom_id=None,
            metadata=None,
            webhook=None,
            answer=Stored(202, {}, b""),
        )


@contextmanager
def simulator(*knobs: str) -> Iterator[str]:
    """A provider simulator in a process of its own; its address."""
    arguments = [part for knob in knobs for part in ("--knob", knob)]
    process = subprocess.Popen(
        [sys.executable, "-m", "local.simulator", "--port", "0", *arguments],
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        port = json.loads(process.stdout.readline())["port"]
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)
        process.stdout.close()


def environ(url: str, provider_url: str) -> dict[str, str]:
    """The settings of a house on this database and this provider."""
    return {
        "DATABASE_URL": url,
        "REDIS_URL": "redis://127.0.0.1:1",
        "SECRET_KEY": secrets.token_hex(16),
        "ENCRYPTION_KEY": secrets.token_hex(16),
        "OPENAI_API_KEY": "simulated",
        "OPENAI_BASE_URL": f"{provider_url}/v1",
        "BATCH_WINDOW_SECONDS": "1",
        "BATCH_POLL_SECONDS": "1",
        "LOG_LEVEL": "ERROR",
    }


@contextmanager
def world(spool_root: Path) -> Iterator[World]:
    """A fresh database with one account, and a quick provider."""
    with (
        temporary_postgres() as postgres,
        simulator("batch_seconds=0.2", "batch_validating_seconds=0.1") as provider_url,
    ):
        url = postgres.create_database("bench")
        migrate(url)
        variables = environ(url, provider_url)
        house = build(load(variables), name="benchmark", pool_size=7)
        with transaction(house.engine) as session:
            account_id = accounts.create(session, house.webhook_vault, "bench", new_secret())
            ledger.deposit(session, account_id, CREDIT_NANOS, "for the benchmark")
            key = keys.create(
                session,
                house.digest,
                account_id,
                requests_per_minute=PLENTY_A_MINUTE,
                daily_nanos=CREDIT_NANOS,
                monthly_nanos=CREDIT_NANOS,
            )
        assert postgres.pid is not None
        collecting.spare_what_stays()
        yield World(variables, house, works(house, spool_root), account_id, key.text, postgres.pid)
        house.close()


def works(house: House, spool_root: Path) -> Works:
    """The worker's tools."""
    return Works(
        engine=house.engine,
        dialects=house.dialects,
        credentials=house.lane_credentials(),
        policy=house.policy,
        leases=LeaseKeeper(house.engine),
        tier_prices=house.catalogue.tier_prices,
        spool_root=spool_root,
    )
