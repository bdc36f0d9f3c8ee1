"""What a test of provider batches works with: accounts, jobs, a provider, and the worker's steps.

Every step is what an actor would do when it is rung for. `pass_time` takes the place of waiting:
it makes everything due and ends every lease, as a sweep finds it after a while.
"""

import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, event, text

from gateway.access.credentials import DATA_KEY, OwnKey, open_key
from gateway.access.vault import Vault
from gateway.billing import ledger
from gateway.billing.ledger import Charge
from gateway.billing.pricing import PriceBook, amounts
from gateway.calls.idempotency import Stored
from gateway.calls.intake import Intake, LaneKey, Submission
from gateway.catalogue.rates import PriceSnapshot, Rates
from gateway.catalogue.usage import Usage
from gateway.lanes import (
    cancellation,
    doubt,
    due,
    grouping,
    ingestion,
    orphans,
    polling,
    submission,
)
from gateway.lanes.cancellation import Cancellation
from gateway.lanes.credentials import Credentials
from gateway.lanes.leases import LeaseKeeper
from gateway.lanes.works import LanePolicy, Works
from gateway.providers.dialect import Credential, Dialect, ProviderError
from models import ids
from models.accounts import Account
from models.ledger import Balance
from models.migrate import sqlalchemy_url
from models.session import connect, transaction
from tests.integration.fake_batches import USAGE, Answering, FakeBatch, succeeded
from tests.integration.fake_dialect import FakeDialect, Killed
from tests.integration.lane_records import Records

CHAT = "/v1/chat/completions"
HOLD_NANOS = 1_000
LINE_NANOS = 330
"""What a line with the fake's usual usage is charged: 300 in the batch lane, and the markup."""
COST_NANOS = 300
MARKUP_BPS = 1_000
STANDARD = Rates(
    input=2_000, cache_read=1_000, cache_write_short=2_500, cache_write_long=4_000, output=8_000
)
PRICES = PriceSnapshot(STANDARD, STANDARD.scaled(Decimal("0.5")), "test")
PRIORITY = PriceSnapshot(STANDARD.scaled(Decimal(2)), None, "test, in a hurry")
NOTHING = Stored(202, {}, b"{}")
PROMPT_POLICY = LanePolicy(
    window=timedelta(0),
    ripe_requests=1_000,
    poll_interval=timedelta(0),
    doubt=timedelta(seconds=120),
)
"""Cuts whatever waits, and looks at a batch whenever asked to."""
KEY_VAULT = Vault("k" * 32, DATA_KEY)
"""Of the data keys that customers' own provider keys are sealed under."""
OPEN_STATES = frozenset({"queued", "submitted", "in_progress", "cancelling"})


@dataclass
class World(Records):
    """A database with one provider, or several."""

    works: Works
    dialect: FakeDialect
    prices: PriceBook = field(default_factory=PriceBook)
    kills: int = 0
    failures: int = 0
    _account: UUID | None = None

    # Customers.

    def account(self, credit_nanos: int = 10**12) -> UUID:
        """A new account with credit."""
        account_id = ids.new()
        with transaction(self.engine) as session:
            session.add(Account(id=account_id, name="a", webhook_secret=b"sealed"))
            session.flush()
            session.add(Balance(account_id=account_id))
            session.flush()
            if credit_nanos:
                ledger.deposit(session, account_id, credit_nanos, "opening credit")
        return account_id

    @property
    def usual_account(self) -> UUID:
        """The account of jobs that name none."""
        self._account = self._account or self.account()
        return self._account

    def accept(self, count: int = 1, **options: Any) -> list[UUID]:
        """Jobs as intake makes them; for `options` see `submissions`."""
        submissions = self.submissions(count, **options)
        with transaction(self.engine) as session:
            told = Intake().accept(session, submissions)
        assert told == [NOTHING] * count
        return [each.job_id for each in submissions]

    def submissions(
        self,
        count: int = 1,
        *,
        account: UUID | None = None,
        model: str = "model-a",
        provider: str | None = None,
        hold_nanos: int = HOLD_NANOS,
        age: timedelta = timedelta(0),
        deadline: timedelta = timedelta(hours=72),
        size: int = 0,
        embedding_inputs: int = 0,
        webhook: dict[str, Any] | None = None,
        prices: PriceSnapshot = PRICES,
        credential: str = "house",
        markup_bps: int = MARKUP_BPS,
    ) -> list[Submission]:
        """Calls as intake is given them; `age` is how long ago they came."""
        lane: LaneKey = (provider or self.dialect.name, credential, CHAT, model)
        created_at = datetime.now(UTC) - age
        return [
            Submission(
                job_id=ids.new(),
                account_id=account or self.usual_account,
                key_id=account or self.usual_account,
                lane=lane,
                model=f"maker/{model}",
                body=question(number, size),
                embedding_inputs=embedding_inputs,
                estimated_nanos=hold_nanos,
                standard_nanos=2 * hold_nanos,
                prices=prices,
                markup_bps=markup_bps,
                created_at=created_at,
                deadline_at=created_at + deadline,
                custom_id=None,
                metadata=None,
                webhook=webhook,
                answer=NOTHING,
            )
            for number in range(count)
        ]

    def cancel(self, job_id: UUID, account: UUID | None = None) -> Cancellation:
        """As the API does it, and what it rings for."""
        with transaction(self.engine) as session:
            cancelled = cancellation.cancel(session, account or self.usual_account, job_id)
        cancellation.cancel_due(self.works)
        return cancelled

    # The worker's steps.

    def cut(self) -> list[UUID]:
        """All lanes; the batches that were formed."""
        with transaction(self.engine) as session:
            lane_ids = grouping.lane_ids(session)
        return [
            batch_id for lane_id in lane_ids for batch_id in grouping.cut_lane(self.works, lane_id)
        ]

    def form(self, count: int = 1, **options: Any) -> UUID:
        """One formed batch of fresh jobs."""
        self.accept(count, **options)
        (batch_id,) = self.cut()
        return batch_id

    def submit(self, batch_id: UUID) -> None:
        submission.submit(self.works, batch_id)

    def resolve(self, batch_id: UUID) -> None:
        doubt.resolve(self.works, batch_id)

    def poll(self) -> list[UUID]:
        return polling.poll_due(self.works)

    def ingest(self, batch_id: UUID) -> bool:
        return ingestion.ingest(self.works, self.prices, batch_id)

    def cancel_batches(self) -> None:
        cancellation.flag_overdue(self.works)
        cancellation.cancel_due(self.works)

    def settle_orphans(self) -> None:
        orphans.settle_due(self.works, self.prices)

    def watch(self) -> None:
        orphans.watch(self.works)

    def submitted(self, count: int = 1, **options: Any) -> tuple[UUID, FakeBatch]:
        """A batch that is at the provider, and the provider's side of it."""
        before = set(self.dialect.made)
        batch_id = self.form(count, **options)
        self.submit(batch_id)
        (external_id,) = set(self.dialect.made) - before
        return batch_id, self.dialect.made[external_id]

    def ended(
        self, count: int = 1, answering: Answering = succeeded, *also: bytes, **options: Any
    ) -> tuple[UUID, FakeBatch]:
        """A batch that waits to be ingested."""
        batch_id, batch = self.submitted(count, **options)
        batch.end(answering, *also)
        assert self.poll() == [batch_id]
        return batch_id, batch

    def pass_time(self) -> None:
        """Everything is due, leases have run out, and what we wait for began 50 seconds earlier."""
        with transaction(self.engine) as session:
            session.execute(
                text(
                    "UPDATE provider_batches SET due_at = now(), "
                    "leased_until = leased_until - interval '1 hour', "
                    "intent_at = intent_at - interval '50 seconds', "
                    "ended_at = ended_at - interval '50 seconds', lost_intents = ARRAY("
                    "SELECT lost - interval '50 seconds' FROM unnest(lost_intents) AS lost) "
                    "WHERE status <> 'done'"
                )
            )
            session.execute(text("UPDATE orphan_batches SET due_at = now()"))
            session.execute(text("UPDATE batch_cancellations SET due_at = now()"))

    def expire_lease(self, batch_id: UUID) -> None:
        """Whoever holds the batch was stopped for longer than its lease."""
        with transaction(self.engine) as session:
            session.execute(
                text(
                    "UPDATE provider_batches SET leased_until = now() - interval '1 second', "
                    "due_at = now() WHERE id = :id"
                ),
                {"id": batch_id},
            )

    def steal(self, batch_id: UUID) -> None:
        """Another worker takes the batch after its lease ran out, and is at work on it."""
        with transaction(self.engine) as session:
            session.execute(
                text(
                    "UPDATE provider_batches SET epoch = epoch + 1, "
                    "leased_until = now() + interval '30 seconds' WHERE id = :id"
                ),
                {"id": batch_id},
            )

    def sweep(self) -> None:
        """One round of everything that the clock rings for; a killed step is the sweep's next."""
        self.pass_time()
        self.survive(self.cut)
        with transaction(self.engine) as session:
            formed = due.batches(session, "formed", "uploading")
            doubtful = due.batches(session, "submitting", "in_doubt")
            ended = due.batches(session, "ingesting")
        for batch_id in formed:
            self.survive(self.submit, batch_id)
        for batch_id in doubtful:
            self.survive(self.resolve, batch_id)
        for batch_id in ended:
            self.survive(self.ingest, batch_id)
        for batch_id in self.survive(self.poll) or ():
            self.survive(self.ingest, batch_id)
        self.survive(self.cancel_batches)
        self.survive(self.watch)
        self.survive(self.settle_orphans)

    def survive(self, step: Any, *arguments: Any) -> Any:
        """What an actor's message comes to: its failure or its process's end is the sweep's."""
        try:
            return step(*arguments)
        except Killed:
            self.kills += 1
        except ProviderError:
            self.failures += 1
        return None

    def settle_down(self, answering: Answering = succeeded, *, sweeps: int = 30) -> None:
        """Sweeps until every job has ended and every orphan is booked; the provider answers."""
        for _ in range(sweeps):
            if not self._is_restless():
                return
            for batch in self.dialect.running:
                batch.end(answering)
            self.sweep()
        raise AssertionError(f"jobs: {self.jobs()}, batches: {self.batch_states()}")

    def _is_restless(self) -> bool:
        unbooked = self.rows("SELECT 1 FROM orphan_batches WHERE booked_at IS NULL")
        unfinished = self.rows("SELECT 1 FROM provider_batches WHERE status <> 'done'")
        return bool(OPEN_STATES & self.jobs().keys() or unbooked or unfinished)


def charge_of(hold_id: UUID, usage: Usage | None = USAGE, batch_id: UUID | None = None) -> Charge:
    """What a usage costs at the world's prices, in the batch lane."""
    return Charge(
        hold_id=hold_id,
        lane="batch",
        provider="fake",
        model="model-a",
        price_id=PRICES.digest,
        markup_bps=MARKUP_BPS,
        usage=usage or Usage(),
        amounts=None if usage is None else amounts(usage, PRICES, "batch", MARKUP_BPS),
        batch_id=batch_id,
    )


def question(number: int, size: int = 0) -> bytes:
    """A body as intake stores it, padded to `size` bytes."""
    content = f"question {number}"
    body = json.dumps({"messages": [{"role": "user", "content": content}]})
    return body[:-1].encode() + b" " * max(0, size - len(body)) + b"}"


def credential_of(key: OwnKey) -> Credential:
    """A customer's own, at any of the providers in memory."""
    opener = partial(open_key, KEY_VAULT, key)
    return Credential(key.provider, key.reference, opener, "http://provider.invalid")


def _policy(changes: dict[str, Any]) -> LanePolicy:
    values: dict[str, Any] = {
        name.removesuffix("_seconds"): timedelta(seconds=value)
        if name.endswith("_seconds")
        else value
        for name, value in changes.items()
    }
    return replace(PROMPT_POLICY, **values)


def _stay_dead(_connection: Connection) -> None:
    """Who was killed commits nothing on the way out: no lease is given back, nothing is noted."""
    if isinstance(sys.exc_info()[1], Killed):
        raise Killed


@contextmanager
def opened(
    database_url: str,
    *dialects: FakeDialect,
    pool_size: int = 8,
    **policy: Any,
) -> Iterator[World]:
    """A world on this database; the first of the dialects is the usual one.

    `policy` is what differs from `PROMPT_POLICY`, times in seconds.
    """
    engine = connect(sqlalchemy_url(database_url), pool_size=pool_size, name="lanes-test")
    event.listen(engine, "commit", _stay_dead)
    spoken: dict[str, Dialect] = {each.name: each for each in dialects or (FakeDialect(),)}
    credentials = {
        (name, "house"): Credential(name, "house", "sk-fake", "http://provider.invalid")
        for name in spoken
    }
    first = next(iter(spoken.values()))
    assert isinstance(first, FakeDialect)
    with tempfile.TemporaryDirectory(prefix="offpeak-spool-") as spool:
        works = Works(
            engine,
            spoken,
            Credentials(engine, credentials, credential_of),
            _policy(policy),
            LeaseKeeper(engine),
            lambda _provider, _model, tier: PRIORITY if tier == "priority" else None,
            Path(spool),
        )
        yield World(engine, works, first)
    engine.dispose()
