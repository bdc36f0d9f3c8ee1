"""Streamed calls: held, passed on piece by piece as they come, settled by what was counted.

Whoever listens may leave at any time; the provider bills nevertheless, so the rest is read for
the sake of the bill. What was never counted is not guessed: its hold goes to suspense.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Protocol

import orjson

from gateway.billing.prices import format_usd
from gateway.calls.attempts import reach
from gateway.calls.idempotency import Stored
from gateway.calls.realtime import STANDARD, TIMEOUT_SECONDS, Books, Call, Priced, price, settle
from gateway.calls.record import Trail
from gateway.calls.routing import Route
from gateway.catalogue.usage import Usage
from gateway.providers.breaker import Breakers
from gateway.providers.dialect import ProviderError, StreamBroken, StreamPiece
from gateway.providers.fields import decode_object, mapping
from gateway.providers.relabel import Relabel
from models import ids
from models.ids import Prefix

EVENT_STREAM = "text/event-stream"
DONE = b"data: [DONE]\n\n"
_NO_USAGE_YET = b',"usage":null'
"""What OpenAI puts into every chunk of a stream that will tell its usage, as we always ask."""


class Unheard(Exception):
    """Raised into a stream whose caller has left, when the time to read on for its bill is over."""


class Listener(Protocol):
    """Who the pieces are for."""

    def hear(self, event: bytes) -> None:
        """One event, framed. Raises Unheard once nobody listens and enough has been read."""
        ...


def run(
    books: Books,
    call: Call,
    listener: Listener,
    tell_error: Callable[[Exception], bytes],
    trail: Trail,
    breakers: Breakers,
    sleep: Callable[[float], None] = time.sleep,
) -> Stored | None:
    """Runs a streamed call to its end; an earlier answer, if its idempotency key has one.

    Raises CallError, or ProviderError before the first piece: then nothing is charged. From the
    first piece on the call is charged or suspended, whatever else is raised: StreamBroken, Unheard,
    or what stopped the process. `tell_error` makes the event that ends a kept answer then.
    """
    earlier = books.begin(call)
    if earlier is not None:
        trail.replayed = True
        return earlier
    _Stream(books, call, listener, tell_error, trail).run(breakers, sleep)
    return None


class _Stream:
    """One streamed call, from its hold to its settlement."""

    def __init__(
        self,
        books: Books,
        call: Call,
        listener: Listener,
        tell_error: Callable[[Exception], bytes],
        trail: Trail,
    ) -> None:
        self._books = books
        self._call = call
        self._listener = listener
        self._tell_error = tell_error
        self._trail = trail
        self._relabel = Relabel(ids.show(Prefix.COMPLETION, call.id), call.route.name)
        self._route = call.route
        options = mapping(call.body.get("stream_options"))
        self._shows_usage = options.get("include_usage") is True
        self._has_begun = False
        self._last: StreamPiece | None = None
        self._told: list[bytes] = []

    def run(self, breakers: Breakers, sleep: Callable[[float], None]) -> None:
        try:
            with ExitStack() as stack:

                def ask(route: Route) -> Iterator[StreamPiece]:
                    self._route = route
                    return stack.enter_context(
                        route.dialect.stream(
                            route.credential, route.offer.model, self._call.body, TIMEOUT_SECONDS
                        )
                    )

                pieces = reach(self._call.routes, ask, self._trail, breakers, sleep)
                self._has_begun = True
                for piece in pieces:
                    self._tell(piece)
        except BaseException as error:
            # What goes wrong after the usage, the last piece, takes nothing from anybody.
            if self._last is None:
                if self._has_begun and isinstance(error, ProviderError):
                    breakers.of(self._route.credential).record(error)
                self._break_off(error)
                raise
        self._finish()

    def _tell(self, piece: StreamPiece) -> None:
        self._trail.said_something()
        if piece.usage_only:
            self._last = piece
            return
        data = piece.data if self._shows_usage else piece.data.replace(_NO_USAGE_YET, b"", 1)
        try:
            self._say(b"data: " + self._relabel(data) + b"\n\n")
        except ValueError:
            raise StreamBroken("a chunk of the stream is not a JSON object") from None

    def _say(self, event: bytes) -> None:
        if self._call.keyed is not None:
            self._told.append(event)
        self._listener.hear(event)

    def _finish(self) -> None:
        """The end of a stream that came to its end; not all of them tell a usage.

        Settled before the last words are said: a keyed call that is repeated right after them
        finds its answer.
        """
        last = self._last
        usage = None if last is None else last.usage
        tier = None if last is None else last.service_tier
        priced = price(self._call, self._route, usage, tier)
        ending = DONE
        if last is not None and self._shows_usage:
            ending = self._usage_event(last, priced.charged_nanos) + DONE
        self._settle(usage, priced, ending)
        self._listener.hear(ending)

    def _break_off(self, error: BaseException) -> None:
        """What came before an answer began costs nothing, unless its caller walked away from it."""
        if not self._has_begun and not isinstance(error, Unheard):
            self._books.abandon(self._call)
            return
        ending = self._tell_error(error) if isinstance(error, Exception) else b""
        unpriced = price(self._call, self._route, None, None)
        self._settle(None, unpriced, ending)

    def _settle(self, usage: Usage | None, priced: Priced, ending: bytes) -> None:
        told = [*self._told, ending] if self._call.keyed is not None else ()
        headers = {"Content-Type": EVENT_STREAM, "X-Lane": STANDARD}
        kept = Stored(200, headers, b"".join(told))
        settle(self._books, self._call, self._route, usage, priced, kept, self._trail)

    def _usage_event(self, last: StreamPiece, charged_nanos: int | None) -> bytes:
        """The usage as the provider told it, and what it cost: the headers left before that."""
        chunk = decode_object(self._relabel(last.data))
        if charged_nanos is not None:
            cost = {"cost_usd": format_usd(charged_nanos)}
            chunk["usage"] = {**mapping(chunk.get("usage")), **cost}
        return b"data: " + orjson.dumps(chunk) + b"\n\n"
