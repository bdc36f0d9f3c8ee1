"""Calls without a network or a database: scripted dialects, and books that note what they hear."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from gateway.billing.ledger import Charge
from gateway.calls.idempotency import KeyedCall, Stored
from gateway.calls.realtime import Call
from gateway.calls.routing import Route
from gateway.catalogue.catalogue import load
from gateway.catalogue.usage import Usage
from gateway.net.http import HttpClients
from gateway.providers.dialect import (
    HOUSE,
    Answer,
    Credential,
    Dialect,
    Endpoint,
    StreamPiece,
)
from gateway.providers.openai import OpenAI

ID = UUID(int=7)
USAGE = Usage(input_uncached=100, output=10)
ANSWER = Answer({"id": "theirs", "model": "gpt-4o-mini-2024"}, USAGE)
FIRST = StreamPiece(
    b'{"id":"theirs","model":"gpt-4o-mini-2024","choices":[{"delta":{"role":"a"}}]}'
)
SECOND = StreamPiece(b'{"id":"theirs","model":"gpt-4o-mini-2024","choices":[{"delta":{}}]}')
LAST = StreamPiece(
    b'{"id":"theirs","model":"gpt-4o-mini-2024","choices":[],"usage":{"total_tokens":110}}',
    USAGE,
    usage_only=True,
)
Step = StreamPiece | BaseException


class Scripted(OpenAI):
    """OpenAI's dialect, whose calls end as told, and whose streams take these steps."""

    def __init__(self, *ends: Answer | BaseException | list[Step]) -> None:
        super().__init__(HttpClients())
        self.ends = list(ends)
        self.calls = 0
        self.closed = 0

    def call(self, *_: Any, **__: Any) -> Answer:
        end = self._next()
        assert isinstance(end, Answer)
        return end

    def stream(self, *_: Any, **__: Any) -> AbstractContextManager[Iterator[StreamPiece]]:
        return self._streamed()

    @contextmanager
    def _streamed(self) -> Iterator[Iterator[StreamPiece]]:
        steps = self._next()
        assert isinstance(steps, list)
        try:
            yield _taken(steps)
        finally:
            self.closed += 1

    def _next(self) -> Answer | list[Step]:
        self.calls += 1
        end = self.ends.pop(0)
        if isinstance(end, BaseException):
            raise end
        return end


def _taken(steps: list[Step]) -> Iterator[StreamPiece]:
    for step in steps:
        if isinstance(step, BaseException):
            raise step
        yield step


class Notes:
    """Books that note what they are told."""

    def __init__(self, earlier: Stored | None = None) -> None:
        self.earlier = earlier
        self.notes: list[str] = []
        self.charge: Charge | None = None
        self.kept: Stored | None = None

    def begin(self, call: Call) -> Stored | None:
        self.notes.append(f"begin {call.id.int}")
        return self.earlier

    def abandon(self, call: Call) -> None:
        self.notes.append(f"abandon {call.id.int}")

    def settle(self, call: Call, charge: Charge, answer: Stored) -> None:
        self.notes.append(f"settle {call.id.int}")
        self.charge, self.kept = charge, answer


def route_to(dialect: Dialect, provider: str = "openai") -> Route:
    """A route to `openai/gpt-4o-mini` at a provider that has its price."""
    model = load().resolve("gpt-4o-mini")
    assert model is not None
    credential = Credential(provider, HOUSE, "sk-1", "http://127.0.0.1:1")
    return Route("openai/gpt-4o-mini", model, model.offers[0], dialect, credential)


def call_with(
    *dialects: Dialect,
    endpoint: Endpoint = Endpoint.CHAT_COMPLETIONS,
    keyed: bool = False,
    **body: Any,
) -> Call:
    """A call that the first of the dialects is asked to answer, and then the others."""
    # A breaker is the provider account's, so each needs one of its own.
    route, *fallbacks = [
        route_to(dialect, f"openai-{place}" if place else "openai")
        for place, dialect in enumerate(dialects)
    ]
    account_id = UUID(int=1)
    return Call(
        id=ID,
        account_id=account_id,
        key_id=UUID(int=2),
        endpoint=endpoint,
        route=route,
        fallbacks=tuple(fallbacks),
        body=body,
        estimated_nanos=10**6,
        markup_bps=1_000,
        expires_at=datetime.now(UTC) + timedelta(minutes=15),
        keyed=KeyedCall(account_id, "key", b"digest", ID, None) if keyed else None,
    )
