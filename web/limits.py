"""Requests a minute at the door: counted in Redis, and by each process for itself without it.

A call waits for Redis no longer than `TIMEOUT_SECONDS`, and only the first ones do that find it
gone: from then on this process counts alone, until Redis has answered a ping. What arrives
together is counted in one round trip, so one connection is enough.
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import redis
from flask import Request, Response, g
from gevent.event import AsyncResult

from gateway.access import widget_keys
from gateway.access.keys import Identity
from gateway.access.limits import (
    Bucket,
    Count,
    Counts,
    LocalCounts,
    RedisCounts,
    Verdict,
    buckets_of,
    judge,
)
from settings import Settings
from web.auth import widget_key
from web.client_address import client_address
from web.errors import ApiError
from web.threads import in_background
from workers.bell import redis_client

log = logging.getLogger(__name__)

TIMEOUT_SECONDS = 0.2
COOL_DOWN_SECONDS = 2.0
GROUP_SIZE = 256
LIMITED = ("/v1/", "/ai/")
READ_ROUTES = frozenset(
    {
        "/v1/jobs/<job_id>",
        "/v1/jobs/<job_id>/events",
        "/v1/jobs/<job_id>/result",
        "/v1/chat/completions/<completion_id>",
        "/ai/batch/<job_id>",
    }
)
"""Where one looks for what one waits for; these have a bucket of their own."""


@dataclass(frozen=True, slots=True)
class _Item:
    """One call, and who waits to hear of it."""

    buckets: Sequence[Bucket]
    verdict: "AsyncResult[Verdict]"


class Limiter:
    """Judges calls. `is_shared` says whether all processes count together."""

    def __init__(
        self,
        shared: Counts,
        answers: Callable[[], bool],
        *,
        clock: Callable[[], float] = time.time,
        cool_down_seconds: float = COOL_DOWN_SECONDS,
    ) -> None:
        self._shared = shared
        self._answers = answers
        self._local = LocalCounts()
        self._clock = clock
        self._cool_down_seconds = cool_down_seconds
        self._waiting: list[_Item] = []
        self._draining = False
        self._away = False
        self._ask_again_at = 0.0

    def judge(self, buckets: Sequence[Bucket]) -> Verdict:
        """Counts one call, if it may be made."""
        item = _Item(buckets, AsyncResult())
        if self._draining:
            self._waiting.append(item)
        else:
            self._judge_alone(item)
        verdict: Verdict | None = item.verdict.get()
        assert verdict is not None  # without a timeout it waits until there is one
        return verdict

    def is_shared(self) -> bool:
        """Whether Redis counts; while it does not, it is asked again every few seconds."""
        if self._away and time.monotonic() >= self._ask_again_at:
            self._ask_again_at = time.monotonic() + self._cool_down_seconds
            in_background(self._ask)
        return not self._away

    def _ask(self) -> None:
        if self._answers():
            self._away = False
            log.info("limits.shared_again")

    def _judge_alone(self, item: _Item) -> None:
        """Counts a call where nobody is counting, and leaves who comes meanwhile to a greenlet."""
        self._draining = True
        try:
            self._judge([item])
        finally:
            self._draining = bool(self._waiting)
            if self._draining:
                in_background(self._drain)

    def _drain(self) -> None:
        try:
            while self._waiting:
                group, self._waiting = self._waiting[:GROUP_SIZE], self._waiting[GROUP_SIZE:]
                self._judge(group)
        finally:
            self._draining = False

    def _judge(self, group: Sequence[_Item]) -> None:
        now = self._clock()
        counts = self._take([item.buckets for item in group], now)
        for item, held in zip(group, counts, strict=True):
            item.verdict.set(judge(item.buckets, held, now))

    def _take(self, calls: Sequence[Sequence[Bucket]], now: float) -> Sequence[Sequence[Count]]:
        if self.is_shared():
            try:
                return self._shared.take(calls, now)
            except (redis.RedisError, OSError) as error:
                self._away = True
                self._ask_again_at = time.monotonic() + self._cool_down_seconds
                log.warning("limits.counted_alone", extra={"error": type(error).__name__})
        return self._local.take(calls, now)


def limiter(settings: Settings) -> Limiter:
    """The limiter of one process; nothing connects yet."""
    counts = RedisCounts(redis_client(settings, TIMEOUT_SECONDS))
    return Limiter(counts, counts.answer)


def limit(limiter: Limiter, identity: Identity, request: Request, *, trust_proxy: bool) -> None:
    """Counts a call of this caller; raises the 429. A visitor of a page counts by their address."""
    if not request.path.startswith(LIMITED):
        return
    key = widget_key()
    if key is None:
        buckets = buckets_of(identity, reading=_is_reading(request))
    else:
        buckets = widget_keys.buckets_of(key, client_address(request, trust_proxy=trust_proxy))
    verdict: Verdict = limiter.judge(buckets)
    g.verdict = verdict
    if not verdict.admitted:
        seconds = verdict.retry_after_seconds
        raise ApiError(
            429,
            f"Rate limit exceeded. Please retry after {seconds} seconds.",
            headers={"Retry-After": str(seconds)},
        )


def add_headers(response: Response) -> None:
    """Tells the caller how much is left, in OpenAI's words."""
    verdict: Verdict | None = g.get("verdict")
    if verdict is not None:
        response.headers["x-ratelimit-limit-requests"] = str(verdict.limit)
        response.headers["x-ratelimit-remaining-requests"] = str(verdict.remaining)
        response.headers["x-ratelimit-reset-requests"] = f"{verdict.reset_seconds}s"


def _is_reading(request: Request) -> bool:
    if request.method not in ("GET", "HEAD") or request.url_rule is None:
        return False
    rule = request.url_rule.rule
    return rule in READ_ROUTES or (rule == "/v1/jobs" and "ids" in request.args)
