"""The Flask app on a real database, with the simulator as its provider, and its customers."""

import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar
from uuid import UUID

import gevent
import orjson
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import Engine, text
from werkzeug.test import TestResponse

from gateway.access import accounts, keys
from gateway.access.audit_log import Actor
from gateway.access.scopes import ALL_SCOPES, Scope
from gateway.billing import audit, ledger
from gateway.billing.ledger import Amounts, Charge
from gateway.billing.prices import NANO_PER_USD
from gateway.catalogue.usage import Usage
from gateway.lanes import endings
from gateway.lanes.endings import Ending
from gateway.providers.breaker import Breakers
from gateway.webhooks.signing import new_secret
from models import ids
from models.audit import ActorKind
from models.ids import Prefix
from models.session import connect, transaction
from models.states import JobStatus
from settings import Settings
from tests.contract.simulator_process import SimulatorProcess
from tests.integration.documented_client import DocumentedClient
from web import create_app
from web.auth import KeyRing, WidgetKeyRing
from web.limits import Limiter, limiter
from web.metrics import DatabaseGauges
from web.own_keys import OwnKeys
from web.request_log import RequestLog
from web.state import EXTENSION, State
from web.threads import Readers
from web.waiters import Waiters
from web.writer import Writer

T = TypeVar("T")

CHAT = "/v1/chat/completions"
EMBEDDINGS = "/v1/embeddings"
SAYS_HI = [{"role": "user", "content": "hi"}]
CHAT_BODY: Mapping[str, Any] = {"model": "openai/gpt-4o-mini", "messages": SAYS_HI}
ASYNC_BODY: Mapping[str, Any] = {**CHAT_BODY, "prefer_async": True}
EMBEDDING_BODY: Mapping[str, Any] = {"model": "text-embedding-3-small", "input": "hi"}
COMPLETION = b'{"id":"chatcmpl-1","object":"chat.completion","choices":[],"usage":{"x":1}}'
USED = Usage(output=10)
# gpt-4o-mini's output: $0.30 a million tokens in the batch lane, $0.60 in the standard one.
CHARGED_NANOS, LIST_NANOS = 3_000, 6_000
CLOSE_SECONDS = 5.0
OPERATOR = Actor(ActorKind.OPERATOR, name="tester")
PLENTY_A_MINUTE = 10**6


@dataclass(frozen=True, slots=True)
class Customer:
    """An account and its key."""

    account_id: UUID
    key_id: UUID
    api_key: str


class Web:
    """A web process without its socket. Its greenlets run in the thread that asks it."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.app: Flask = create_app(settings)
        self.app.test_client_class = DocumentedClient
        self.engine: Engine = connect(settings.sqlalchemy_url, pool_size=4, name="web-test")

    @property
    def state(self) -> State:
        """The parts of the process."""
        parts: State = self.app.extensions[EXTENSION]
        return parts

    def renew(self) -> None:
        """Forgets what the process remembers of its database, as a new process would."""
        parts = self.state
        # Nobody else would close the connection that listens.
        parts.waiters.close()
        readers = Readers(parts.house.engine)
        request_log = RequestLog(readers, parts.metrics.observe_log_drops)
        self.app.extensions[EXTENSION] = replace(
            parts,
            house=replace(parts.house, breakers=Breakers()),
            writer=Writer(parts.house.engine),
            readers=readers,
            keys=KeyRing(parts.house.digest, readers),
            widget_keys=WidgetKeyRing(parts.house.widget_key_digest, readers),
            own_keys=OwnKeys(parts.house, readers),
            waiters=Waiters(self.settings.postgres_url),
            gauges=DatabaseGauges(readers),
            limiter=limiter(self.settings),
            request_log=request_log,
            observers=[parts.metrics.observe_call, request_log],
        )

    def close_circuits(self) -> None:
        """Forgets that providers have failed."""
        parts = self.state
        house = replace(parts.house, breakers=Breakers())
        self.app.extensions[EXTENSION] = replace(parts, house=house)

    def with_limiter(self, limiter: Limiter) -> None:
        """Counts requests otherwise, until the process is renewed."""
        self.app.extensions[EXTENSION] = replace(self.state, limiter=limiter)

    def close(self) -> None:
        """Lets go of the database."""
        self.state.close(CLOSE_SECONDS)
        self.engine.dispose()

    def customer(
        self,
        credit_usd: float = 10.0,
        *,
        requests_per_minute: int | None = PLENTY_A_MINUTE,
        daily_nanos: int | None = None,
        monthly_nanos: int | None = None,
        scopes: Collection[Scope] = ALL_SCOPES,
    ) -> Customer:
        """A new account with that credit; its key has these limits, or the default where None."""
        house = self.state.house
        with transaction(self.engine) as session:
            account_id = accounts.create(session, house.webhook_vault, "customer", new_secret())
            key = keys.create(
                session,
                house.digest,
                account_id,
                scopes=scopes,
                requests_per_minute=requests_per_minute,
                daily_nanos=daily_nanos,
                monthly_nanos=monthly_nanos,
            )
            if credit_usd:
                ledger.deposit(session, account_id, round(credit_usd * NANO_PER_USD), "test")
        return Customer(account_id, key.id, key.text)

    def client(self, customer: Customer | None, **headers: str) -> FlaskClient:
        """A client with that customer's key, or none."""
        client = self.app.test_client()
        if customer is not None:
            client.environ_base["HTTP_AUTHORIZATION"] = f"Bearer {customer.api_key}"
        for name, value in headers.items():
            client.environ_base[f"HTTP_{name.upper()}"] = value
        return client

    def submit(self, customer: Customer, **fields: Any) -> UUID:
        """An accepted job's id."""
        response = self.client(customer).post(CHAT, json={**ASYNC_BODY, **fields})
        assert response.status_code == 202, response.text
        return job_uuid(response)

    def end(
        self, job_id: UUID, status: JobStatus = JobStatus.COMPLETED, *, unpriced: bool = False
    ) -> None:
        """Brings a job to its end, as the lanes do: its result, its money, the notification."""
        ending = {
            JobStatus.COMPLETED: lambda: self._completion(job_id, unpriced),
            JobStatus.FAILED: lambda: endings.rejected(job_id, "The provider said no."),
            JobStatus.EXPIRED: lambda: endings.expired(job_id),
            JobStatus.CANCELLED: lambda: endings.cancelled(job_id),
        }[status]()
        with transaction(self.engine) as session:
            assert endings.finish(session, [ending]) == {job_id}
        endings.announce(self.engine)

    def _completion(self, job_id: UUID, unpriced: bool) -> Ending:
        (price_id,) = self.column("SELECT price_id FROM jobs WHERE id = :id", id=job_id)
        charge = Charge(
            hold_id=job_id,
            lane="batch",
            provider="openai",
            model="gpt-4o-mini",
            price_id=price_id,
            markup_bps=0,
            usage=USED,
            amounts=None if unpriced else Amounts(CHARGED_NANOS, CHARGED_NANOS, LIST_NANOS),
        )
        return Ending(job_id, JobStatus.COMPLETED, 200, COMPLETION, charge)

    def column(self, query: str, **parameters: object) -> list[Any]:
        """The first column of what a query finds."""
        with self.engine.connect() as connection:
            return list(connection.scalars(text(query), parameters))

    def count(self, table: str) -> int:
        """The rows of a table."""
        (number,) = self.column(f"SELECT count(*) FROM {table}")
        assert isinstance(number, int)
        return number

    def available_nanos(self, customer: Customer) -> int:
        """What the customer could spend now."""
        (available,) = self.column(
            "SELECT credits_nanos - debits_nanos - held_nanos FROM balances WHERE account_id = :id",
            id=customer.account_id,
        )
        assert isinstance(available, int)
        return available

    def settled(self) -> None:
        """Returns once nothing is being written in the background any more."""
        assert self.state.writer.drain(CLOSE_SECONDS)

    def assert_books_are_clean(self) -> None:
        """Every invariant of the ledger holds."""
        self.settled()
        assert audit.verify(self.engine).violations == []


@contextmanager
def make_web(
    database_url: str, redis_url: str, simulator: SimulatorProcess | None, **settings: Any
) -> Iterator[Web]:
    """A web process; the simulator is its OpenAI and its Anthropic."""
    providers: dict[str, str] = {}
    if simulator is not None:
        providers = {
            "openai_api_key": "sim-openai",
            "openai_base_url": simulator.openai_url,
            "anthropic_api_key": "sim-anthropic",
            "anthropic_base_url": simulator.url,
        }
    made = Settings.model_validate(
        {
            "database_url": database_url,
            "redis_url": redis_url,
            "secret_key": "s" * 32,
            "encryption_key": "e" * 32,
            "webhook_allow_private": True,
            **providers,
            **settings,
        }
    )
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    web = Web(made)
    # The app made the root logger its own.
    root.handlers[:], root.level = handlers, level
    try:
        yield web
    finally:
        web.close()


def at_once(calls: Sequence[Callable[[], T]]) -> list[T]:
    """What the calls return, each made by a greenlet of its own; raises what one of them raised."""
    greenlets = [gevent.spawn(call) for call in calls]
    gevent.joinall(greenlets, raise_error=True)
    return [greenlet.get() for greenlet in greenlets]


def job_uuid(response: TestResponse) -> UUID:
    """The id of the job that a 202 is about."""
    job_id = ids.parse(Prefix.JOB, response.headers["Location"].rpartition("/")[2])
    assert job_id is not None
    return job_id


def job_path(job_id: UUID, rest: str = "") -> str:
    """Where a job is read."""
    return f"/v1/jobs/{ids.show(Prefix.JOB, job_id)}{rest}"


def error_of(response: TestResponse) -> dict[str, Any]:
    """The error object, its shape and code checked."""
    body = orjson.loads(response.data)
    assert body.keys() == {"error"}
    error: dict[str, Any] = body["error"]
    assert error.keys() == {"type", "message", "code", "param"}
    assert error["code"] == response.status_code
    assert isinstance(error["message"], str)
    assert error["message"]
    assert response.mimetype == "application/json"
    assert response.headers["X-Request-Id"].startswith("req_")
    return error
