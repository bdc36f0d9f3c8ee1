"""A provider in this process, whose answers take as long as a test wants."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any

import gevent
import orjson

from gateway.calls.routing import Router
from gateway.catalogue.usage import Usage
from gateway.net.http import HttpClients
from gateway.providers.dialect import Answer, ProviderError, StreamPiece
from gateway.providers.openai import OpenAI
from tests.integration.web_world import Web
from web.pace import Pace
from web.state import EXTENSION

USAGE = Usage(input_uncached=100, output=10)
# gpt-4o-mini: $0.15 and $0.60 a million tokens.
CHARGED_NANOS = 100 * 150 + 10 * 600
HURRY = Pace(
    quiet_seconds=0.1,
    padding_seconds=0.05,
    comment_seconds=0.1,
    stall_seconds=0.1,
    drain_seconds=2.0,
    drain_bytes=1_000_000,
)


class SlowDialect(OpenAI):
    """OpenAI's dialect without its network; sleeps where that would wait.

    A stream waits for `first_seconds`, then says `pieces` pieces, `piece_seconds` apart, and its
    usage. `error` is raised instead: by a call at its end, by a stream after `error_after` pieces.
    """

    def __init__(
        self,
        *,
        first_seconds: float = 0.0,
        piece_seconds: float = 0.0,
        pieces: int = 3,
        error: ProviderError | None = None,
        error_after: int = 0,
    ) -> None:
        super().__init__(HttpClients())
        self.first_seconds = first_seconds
        self.piece_seconds = piece_seconds
        self.pieces = pieces
        self.error = error
        self.error_after = error_after
        self.told = 0
        self.is_asked = False

    def call(self, *_: Any, **__: Any) -> Answer:
        self.is_asked = True
        gevent.sleep(self.first_seconds)
        if self.error is not None:
            raise self.error
        return Answer({"id": "theirs", "object": "chat.completion", "choices": []}, USAGE)

    def stream(self, *_: Any, **__: Any) -> AbstractContextManager[Iterator[StreamPiece]]:
        return self._streamed()

    @contextmanager
    def _streamed(self) -> Iterator[Iterator[StreamPiece]]:
        self.is_asked = True
        gevent.sleep(self.first_seconds)
        if self.error is not None and self.error_after == 0:
            raise self.error
        yield self._pieces()

    def _pieces(self) -> Iterator[StreamPiece]:
        for number in range(self.pieces):
            if number:
                gevent.sleep(self.piece_seconds)
            if self.error is not None and number == self.error_after:
                raise self.error
            self.told += 1
            yield StreamPiece(chunk(choices=[{"index": 0, "delta": {"content": f"{number} "}}]))
        yield StreamPiece(chunk(choices=[], usage={"total_tokens": 110}), USAGE, usage_only=True)


def chunk(**fields: Any) -> bytes:
    """A chunk as OpenAI writes it."""
    return orjson.dumps({"id": "theirs", "model": "gpt-4o-mini-2024-07-18", **fields})


def served_by(web: Web, dialect: OpenAI, pace: Pace = HURRY) -> Callable[[], None]:
    """Lets the dialect stand for OpenAI's, at that pace; what it returns undoes that."""
    parts = web.state
    house = parts.house
    dialects = {**house.dialects, dialect.name: dialect}
    router = Router(house.catalogue, dialects, house.credentials)
    house = replace(house, dialects=dialects, router=router)
    web.app.extensions[EXTENSION] = replace(parts, house=house, pace=pace)

    def undo() -> None:
        now = web.state
        before = replace(now.house, dialects=parts.house.dialects, router=parts.house.router)
        web.app.extensions[EXTENSION] = replace(now, house=before, pace=parts.pace)

    return undo
