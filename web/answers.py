"""Answers in one piece: given when they are there, and kept alive while they are not."""

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType

import gevent
import orjson
from flask import Response, g
from gevent.event import Event

from gateway.billing.prices import format_usd
from gateway.calls import realtime
from gateway.calls.idempotency import Stored
from gateway.calls.realtime import STANDARD, Books, Call, Given, Outcome
from gateway.calls.record import Trail
from gateway.providers.fields import mapping
from web import finished
from web.errors import failure, log_mistake
from web.in_flight import Work
from web.pace import Pace
from web.state import State
from web.surfaces import OPENAI, Surface

JSON = "application/json"
NO_HEADERS: Mapping[str, str] = MappingProxyType({})


def answer(
    parts: State,
    call: Call,
    headers: Mapping[str, str] = NO_HEADERS,
    surface: Surface = OPENAI,
) -> Response:
    """The answer of a call, or the beginning of one that takes long; raises what it raised."""
    headers_left = Event()
    work = start(parts, call, headers, is_late=headers_left.is_set)
    if work.is_over(parts.pace.quiet_seconds):
        return given_response(work.result(), surface)
    headers_left.set()
    padded = _padded(work, parts.pace, surface)
    return Response(padded, headers={"X-Lane": STANDARD, **headers}, mimetype=JSON)


def start(
    parts: State,
    call: Call,
    headers: Mapping[str, str] = NO_HEADERS,
    *,
    books: Books | None = None,
    is_told: Callable[[], bool] = lambda: True,
    is_late: Callable[[], bool] = lambda: False,
) -> Work[Given]:
    """Runs a call in a greenlet of its own; `headers` are for its answer, besides the usual.

    `books` are the writer's unless said; `is_told` decides at the end whether the observers are.
    `is_late` says whether the headers have left, so that the usage has to tell the cost.
    """
    trail, request_id = Trail(), g.request_id
    kept_by = books or parts.writer

    def present(outcome: Outcome) -> Stored:
        shown, body = {"X-Lane": STANDARD, **headers}, outcome.body
        if outcome.charged_nanos is not None:
            cost_usd = shown["X-Cost-Usd"] = format_usd(outcome.charged_nanos)
            if is_late():
                body = {**body, "usage": {**mapping(body.get("usage")), "cost_usd": cost_usd}}
        return Stored(200, shown, orjson.dumps(body))

    def run() -> Given:
        http_status = 200
        try:
            given = realtime.run(kept_by, call, present, trail, parts.house.breakers, gevent.sleep)
            http_status = given.answer.http_status
            return given
        except Exception as error:
            http_status = failure(error).status_code
            raise
        finally:
            if is_told():
                finished.tell(parts, call, trail, request_id, http_status, streamed=False)

    return Work(parts.in_flight, run)


def given_response(given: Given, surface: Surface = OPENAI) -> Response:
    """What the caller is given."""
    return stored_response(given.answer, surface, replayed=given.replayed)


def stored_response(
    stored: Stored, surface: Surface = OPENAI, *, replayed: bool = False
) -> Response:
    """An answer as it is kept, or given again."""
    told = surface.answer(stored)
    response = Response(told.body, told.http_status, mimetype=JSON)
    response.headers.update(dict(told.headers))
    if replayed:
        response.headers["Idempotent-Replayed"] = "true"
    return response


def _padded(work: Work[Given], pace: Pace, surface: Surface) -> Iterator[bytes]:
    """Spaces, which JSON allows before a value, and then the answer or the error object."""
    yield b" "
    while not work.is_over(pace.padding_seconds):
        yield b" "
    if work.error is not None:
        log_mistake(work.error)
        yield failure(work.error, flat=surface.tells_flat_errors).get_data()
    else:
        yield surface.answer(work.result().answer).body
