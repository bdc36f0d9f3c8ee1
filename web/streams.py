"""Streamed answers: one greenlet reads the provider, the request's own writes to the caller."""

from collections import deque
from collections.abc import Iterator, Mapping
from functools import partial

import gevent
from flask import Response, g
from gevent.event import Event

from gateway.calls import streaming
from gateway.calls.idempotency import Stored
from gateway.calls.realtime import STANDARD, Call
from gateway.calls.record import Trail
from gateway.calls.streaming import EVENT_STREAM, Unheard
from web import finished
from web.answers import NO_HEADERS, stored_response
from web.errors import failure, log_mistake
from web.in_flight import Work
from web.pace import Pace
from web.state import State
from web.surfaces import OPENAI, Encoder, Surface
from web.threads import in_background

COMMENT = b": still here\n\n"
MOST_WAITING = 256
"""Events that may wait for a caller who reads slowly."""
HEADERS: Mapping[str, str] = {
    "X-Lane": STANDARD,
    "Cache-Control": "no-cache",
    # nginx would collect the events otherwise.
    "X-Accel-Buffering": "no",
}


class Mailbox:
    """Hands events from the greenlet that reads to the one that writes, worded by `encode`."""

    def __init__(self, pace: Pace, encode: Encoder) -> None:
        self.encode = encode
        self._pace = pace
        self._events: deque[bytes] = deque()
        self._arrived = Event()
        self._taken = Event()
        self._unheard_bytes = 0
        self.has_ended = False
        self.is_left = False

    def hear(self, event: bytes) -> None:
        """See `streaming.Listener`. Waits for a caller who reads slowly, but not for ever."""
        if not self.is_left and (worded := self.encode(event)):
            self._events.append(worded)
            self._arrived.set()
            if len(self._events) >= MOST_WAITING:
                self._taken.clear()
                if not self._taken.wait(self._pace.stall_seconds):
                    self.leave()
        if self.is_left:
            self._unheard_bytes += len(event)
            if self._unheard_bytes > self._pace.drain_bytes:
                raise Unheard

    @property
    def is_over(self) -> bool:
        """Whether nothing will come, or nobody takes it."""
        return self.has_ended or self.is_left

    def take(self) -> bytes:
        """All events that wait, or the next; empty after a silence, or at the end."""
        if not self._events and not self.is_over:
            self._arrived.clear()
            self._arrived.wait(self._pace.comment_seconds)
        events = b"".join(self._events)
        self._events.clear()
        self._taken.set()
        return events

    def end(self) -> None:
        """Nothing more will come."""
        self.has_ended = True
        self._arrived.set()

    def leave(self) -> None:
        """Nobody takes anything any more."""
        self.is_left = True
        self._events.clear()
        self._taken.set()
        self._arrived.set()


def answer(
    parts: State,
    call: Call,
    headers: Mapping[str, str] = NO_HEADERS,
    surface: Surface = OPENAI,
) -> Response:
    """The stream of a call, once it has begun or has been silent for long.

    Raises what the call raised before its first piece, if nothing has left by then.
    """
    mailbox = Mailbox(parts.pace, surface.encoder())
    run = partial(_run, parts, call, mailbox, Trail(), g.request_id)
    work = Work(parts.in_flight, run, mailbox.end)
    first = mailbox.take()
    if mailbox.has_ended and not first:
        earlier = work.result()
        assert earlier is not None  # a stream that was not replayed has said something
        return stored_response(earlier, surface, replayed=True)
    events = _events(first, mailbox, work, surface)
    response = Response(events, headers={**HEADERS, **headers}, mimetype=EVENT_STREAM)
    response.call_on_close(partial(_leave, parts, mailbox, work))
    return response


def _run(
    parts: State, call: Call, mailbox: Mailbox, trail: Trail, request_id: str
) -> Stored | None:
    http_status = 200
    try:
        return streaming.run(
            parts.writer, call, mailbox, _error_event, trail, parts.house.breakers, gevent.sleep
        )
    except Exception as error:
        http_status = failure(error).status_code
        raise
    finally:
        finished.tell(parts, call, trail, request_id, http_status, streamed=True)


def _error_event(error: Exception) -> bytes:
    return b"data: " + failure(error).get_data() + b"\n\n"


def _events(
    first: bytes, mailbox: Mailbox, work: Work[Stored | None], surface: Surface
) -> Iterator[bytes]:
    """The events as they come, a comment where none does, and what ended them early.

    Or an earlier answer, whose look-up has outlasted a silence.
    """
    yield first or COMMENT
    while events := mailbox.take() or (b"" if mailbox.is_over else COMMENT):
        yield events
    error = Unheard() if mailbox.is_left else work.error
    if error is not None:
        log_mistake(error)
        yield mailbox.encode(_error_event(error))
    elif (earlier := work.result()) is not None:
        yield surface.answer(earlier).body


def _leave(parts: State, mailbox: Mailbox, work: Work[Stored | None]) -> None:
    """The caller has got everything, or has left; what is left to read is for the bill."""
    mailbox.leave()
    if not mailbox.has_ended:
        in_background(_drain, parts, work)


def _drain(parts: State, work: Work[Stored | None]) -> None:
    if not work.is_over(parts.pace.drain_seconds):
        work.end(Unheard())
