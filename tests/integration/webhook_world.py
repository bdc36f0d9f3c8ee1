"""A database, an account, a courier and a sink: what a test of deliveries works with."""

import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import Engine, Row, func, insert, select, text, update

from gateway.net.guard import Dialler
from gateway.webhooks import endpoints
from gateway.webhooks.delivery import Courier
from gateway.webhooks.endpoints import EndpointView
from gateway.webhooks.events import JobEvent, record
from gateway.webhooks.signing import new_secret
from gateway.webhooks.transport import GuardedTransport
from models import ids
from models.accounts import Account
from models.jobs import Job, JobResult
from models.migrate import sqlalchemy_url
from models.session import connect, transaction
from models.states import JobStatus
from models.webhooks import Delivery, DeliveryAttempt
from tests.integration.webhook_sink import Sink

APPLICATION_NAME = "courier-test"
RESULT = b'{"id": "chatcmpl-1", "choices": []}'


class Unsealed:
    """A vault that seals nothing: what is stored is the secret itself."""

    def seal(self, _owner: UUID, secret: str) -> bytes:
        return secret.encode()

    def open(self, _owner: UUID, sealed: bytes) -> str:
        return sealed.decode()


UNSEALED = Unsealed()


@dataclass(frozen=True, slots=True)
class World:
    """`secret` is the account's; `cleanup` runs at the end of the test."""

    engine: Engine
    account: UUID
    secret: str
    sink: Sink
    courier: Courier
    cleanup: ExitStack

    def make_courier(self, *, timeout_seconds: float = 10.0, **options: Any) -> Courier:
        """Another worker's courier."""
        courier = _courier(self.engine, timeout_seconds, options)
        self.cleanup.callback(courier.close)
        return courier

    def happen(
        self, *urls: str, account: UUID | None = None, result: bytes = RESULT, **webhook: Any
    ) -> list[UUID]:
        """A completed job for each URL, with its event and delivery. Returns the jobs' ids."""
        hooks = [{"url": url, **webhook} for url in urls]
        job_ids, deliveries = self.complete(hooks, account=account, result=result)
        assert deliveries == len(urls)
        return job_ids

    def complete(
        self,
        hooks: Sequence[dict[str, Any] | None] = (None,),
        *,
        account: UUID | None = None,
        result: bytes = RESULT,
    ) -> tuple[list[UUID], int]:
        """A completed job for each webhook; the jobs' ids, and the number of deliveries."""
        owner = account or self.account
        job_ids = [ids.new() for _ in hooks]
        common = {
            "account_id": owner,
            "key_id": owner,
            "lane_id": 1,
            "status": JobStatus.COMPLETED,
            "endpoint": "/v1/chat/completions",
            "model": "openai/gpt-4o-mini",
            "custom_id": "row-1",
            "job_metadata": {"team": "blue"},
            "body_bytes": 2,
            "standard_nanos": 2,
            "price_id": "p",
            "markup_bps": 0,
            "completed_at": func.now(),
            "deadline_at": func.now(),
        }
        jobs = [{**common, "id": job_id} for job_id in job_ids]
        results = [{"job_id": job_id, "http_status": 200, "body": result} for job_id in job_ids]
        events = [
            JobEvent(owner, job_id, "job.completed", hook)
            for job_id, hook in zip(job_ids, hooks, strict=True)
        ]
        with transaction(self.engine) as session:
            session.execute(insert(Job).values(jobs))
            session.execute(insert(JobResult), results)
            return job_ids, record(session, events)

    def endpoint(
        self,
        path: str,
        *,
        account: UUID | None = None,
        event_types: Sequence[str] = ("job.completed",),
        sink: Sink | None = None,
        include_result: bool = False,
    ) -> tuple[UUID, str]:
        """An endpoint at a path of the sink, and its secret."""
        with transaction(self.engine) as session:
            made, secret = endpoints.create(
                session,
                UNSEALED,
                account or self.account,
                name=path,
                url=(sink or self.sink).url(path),
                event_types=event_types,
                include_result=include_result,
            )
        return made.id, secret

    def change(self, endpoint_id: UUID, **changes: Any) -> EndpointView:
        """What its owner changes of an endpoint."""
        with transaction(self.engine) as session:
            changed = endpoints.change(session, self.account, endpoint_id, changes)
        assert changed is not None
        return changed

    def look(self, endpoint_id: UUID) -> EndpointView:
        """The endpoint as its owner reads it."""
        with transaction(self.engine) as session:
            found = endpoints.get(session, self.account, endpoint_id)
        assert found is not None
        return found

    def deliveries(self) -> list[Row[Any]]:
        """All of them, oldest first, with `due_in_seconds`."""
        seconds = func.extract("epoch", Delivery.due_at - func.now()).label("due_in_seconds")
        query = select(Delivery.__table__, seconds).order_by(Delivery.id)
        with self.engine.connect() as connection:
            return list(connection.execute(query))

    def attempts(self) -> list[Row[Any]]:
        """All of them, in the order of their numbers."""
        query = select(DeliveryAttempt.__table__).order_by(DeliveryAttempt.number)
        with self.engine.connect() as connection:
            return list(connection.execute(query))

    def let_time_pass(self) -> None:
        """Makes every delivery due, and ends every lease."""
        past = func.now() - text("interval '1 second'")
        leased = Delivery.leased_until.is_not(None)
        with transaction(self.engine) as session:
            session.execute(update(Delivery).values(due_at=past))
            session.execute(update(Delivery).where(leased).values(leased_until=past))

    def age(self, seconds: float) -> None:
        """Moves all that has happened so far into the past, as if so much time had gone by."""
        moments = {
            "deliveries": ("due_at", "leased_until", "created_at", "finished_at"),
            "webhook_endpoints": ("failing_since", "disabled_at", "old_secret_until"),
            "events": ("created_at",),
        }
        with transaction(self.engine) as session:
            for table, columns in moments.items():
                changes = ", ".join(
                    f"{name} = {name} - make_interval(secs => :seconds)" for name in columns
                )
                session.execute(text(f"UPDATE {table} SET {changes}"), {"seconds": seconds})


@contextmanager
def make_world(database_url: str) -> Iterator[World]:
    """The world of one test, on an empty database."""
    with ExitStack() as cleanup:
        engine = connect(sqlalchemy_url(database_url), pool_size=6, name=APPLICATION_NAME)
        cleanup.callback(engine.dispose)
        courier = _courier(engine, 10.0, {})
        cleanup.callback(courier.close)
        # Closed before the couriers, so that none of them waits for what hangs in it.
        with ExitStack() as workers:
            sink = Sink()
            workers.callback(sink.close)
            secret = new_secret()
            account = make_account(engine, secret)
            yield World(engine, account, secret, sink, courier, cleanup)


def make_account(engine: Engine, secret: str) -> UUID:
    """An account whose sealed secret is the secret itself."""
    account_id = ids.new()
    with transaction(engine) as session:
        session.add(Account(id=account_id, name="a", webhook_secret=secret.encode()))
    return account_id


def wait_until(holds: Callable[[], bool], seconds: float = 10.0) -> None:
    """Returns when the condition holds; fails when it does not in time."""
    ends_at = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < ends_at, "it did not happen in time"
        time.sleep(0.01)


def _courier(engine: Engine, timeout_seconds: float, options: dict[str, Any]) -> Courier:
    usual: dict[str, Any] = {
        "allow_private": True,
        "transport": GuardedTransport(Dialler(True), timeout_seconds=timeout_seconds),
        "rng": random.Random(7),
    }
    return Courier(engine, UNSEALED.open, **(usual | options))
