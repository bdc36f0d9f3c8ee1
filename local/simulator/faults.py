"""The faults of a single HTTP answer: what is refused, cut, dropped or slowed.

A fault that cuts an answer is decided before the work starts, so that the meter knows whether
the caller will learn what it used.

    Dropped         the connection is closed without an answer
"""

import errno
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import gevent
import orjson
from flask import Response

from local.simulator.errors import ApiError
from local.simulator.knobs import Knobs

_RATE_LIMITS: Final = ("rate_limit", "rate_limit_create", "rate_limit_upload", "rate_limit_poll")


class Dropped(Exception):
    """The connection is closed without an answer."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What will befall the answer that is about to be made."""

    drop: bool = False
    fail: bool = False
    half: bool = False
    drip: bool = False
    stream_error: bool = False

    @property
    def cuts(self) -> bool:
        """Whether the caller will not see the whole answer."""
        return self.drop or self.fail or self.half


CALM: Final = Plan()


def before(knobs: Knobs, operation: str) -> Plan:
    """Refuse, drop or delay a request, or say what will happen to its answer.

    Raises ApiError or Dropped. `operation` is the route's name.
    """
    settings = knobs.settings
    hangs = knobs.strikes("hang", operation) if knobs.is_set("hang") else True
    if settings.hang_seconds and hangs:
        gevent.sleep(settings.hang_seconds)
    if knobs.calm:
        return CALM
    if knobs.strikes("create_drop_before", operation):
        raise Dropped
    for name in _RATE_LIMITS:
        if knobs.strikes(name, operation):
            raise _rate_limited(knobs)
    if knobs.strikes("server_error", operation):
        raise ApiError(settings.server_error_status, "The server had an error.")
    if knobs.strikes("retention_expired", operation):
        raise ApiError(404, "No such file: it is past its retention.", param="id")
    return Plan(
        drop=knobs.strikes("create_drop_after", operation),
        fail=knobs.strikes("create_500_after", operation),
        half=_is_cut(knobs, operation),
        drip=knobs.strikes("drip", operation),
        stream_error=knobs.strikes("stream_error", operation),
    )


def _is_cut(knobs: Knobs, operation: str) -> bool:
    half = knobs.strikes("half_response", operation)
    return knobs.strikes("truncate_download", operation) or half


def _rate_limited(knobs: Knobs) -> ApiError:
    settings = knobs.settings
    out_of_money = settings.rate_limit_code == "insufficient_quota"
    wait = settings.retry_after
    return ApiError(
        429,
        "You exceeded your current quota." if out_of_money else "Rate limit reached.",
        code=settings.rate_limit_code,
        kind="insufficient_quota" if out_of_money else None,
        headers={} if wait is None else {"retry-after": f"{wait:g}"},
    )


def misreport(knobs: Knobs) -> str | None:
    """How the next finished answer lies about its usage: missing, negative or, if None, not."""
    if knobs.calm:
        return None
    if knobs.strikes("missing_usage"):
        return "missing"
    return "negative" if knobs.strikes("negative_usage") else None


def misreported(body: dict[str, Any], how: str | None) -> dict[str, Any]:
    """The answer with its usage left out or negated."""
    if how == "missing":
        return {name: value for name, value in body.items() if name != "usage"}
    if how == "negative":
        return body | {"usage": _negated(body["usage"])}
    return body


def _negated(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _negated(part) for name, part in value.items()}
    return -value if isinstance(value, int) else value


def after(plan: Plan, response: Response, knobs: Knobs, provider: str) -> Response:
    """The answer as the caller will get it."""
    if plan.drop:
        return dropped()
    if plan.fail:
        body = ApiError(500, "The server had an error.").body(provider, None)
        return Response(orjson.dumps(body), status=500, mimetype="application/json")
    if plan.half:
        response.response = _half(response.iter_encoded(), response.content_length)
    if plan.drip:
        response.response = _drip(response.iter_encoded(), knobs.settings.drip_seconds)
    return response


def dropped() -> Response:
    """An answer whose making closes the connection before a byte of it is sent."""
    return Response(_hang_up())


def _hang_up() -> Iterator[bytes]:
    # pywsgi takes this for the peer's own reset: it sends nothing more and closes the socket.
    raise ConnectionResetError(errno.ECONNRESET, "closed on purpose")
    yield b""


def _half(chunks: Iterable[bytes], length_bytes: int | None) -> Iterator[bytes]:
    """The first half of a body, under the headers of the whole, and then a closed connection."""
    if length_bytes is None:
        chunks = list(chunks)
        length_bytes = sum(map(len, chunks))
    left_bytes = length_bytes // 2
    for chunk in chunks:
        if left_bytes > 0:
            yield chunk[:left_bytes]
        left_bytes -= len(chunk)
        if left_bytes <= 0:
            break
    yield from _hang_up()


def _drip(chunks: Iterable[bytes], pause_seconds: float) -> Iterator[bytes]:
    for chunk in chunks:
        for position in range(len(chunk)):
            yield chunk[position : position + 1]
            gevent.sleep(pause_seconds)
