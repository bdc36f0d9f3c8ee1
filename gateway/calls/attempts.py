"""Reaching a provider: here again, at the next one, or no more. The choice itself is pure."""

import logging
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import TypeVar

from gateway.calls.errors import CallError, OwnKeyRefused
from gateway.calls.record import Trail
from gateway.calls.routing import Route
from gateway.net.retry import delay_seconds
from gateway.providers.breaker import Breaker, Breakers
from gateway.providers.dialect import (
    ProviderError,
    Rejected,
    StreamBroken,
    Unauthorized,
    Unavailable,
)

log = logging.getLogger(__name__)

T = TypeVar("T")

ATTEMPTS = 3
"""At one provider."""
FIRST_RETRY_SECONDS = 0.5
PATIENCE_SECONDS = 60.0
"""How long a caller is kept waiting for another try, whatever the provider's Retry-After says."""
SWITCH_SECONDS = 2.0
"""How long one provider is waited for while there is another to ask."""
NOT_FOUND = 404


@dataclass(frozen=True, slots=True)
class Again:
    """The same provider is asked again after that long."""

    wait_seconds: float


class Move(Enum):
    """The same provider is not asked again."""

    NEXT_PROVIDER = auto()
    GIVE_UP = auto()


def choose(
    error: ProviderError,
    *,
    attempt: int,
    elapsed_seconds: float,
    routes_left: int,
    jitter: float,
) -> Again | Move:
    """What to do after failed attempt number `attempt` (the first is 0) at one provider.

    `elapsed_seconds` is how long the caller has waited, `routes_left` how many other providers
    could be asked, `jitter` a number from 0 to 1. What a provider refuses the others would refuse
    too, except a model that it has no longer. One that did not answer in time is not asked again.
    """
    has_patience = elapsed_seconds < PATIENCE_SECONDS
    elsewhere = Move.NEXT_PROVIDER if routes_left and has_patience else Move.GIVE_UP
    if isinstance(error, Rejected):
        return elsewhere if error.status == NOT_FOUND else Move.GIVE_UP
    if not isinstance(error, Unavailable) or is_timeout(error):
        return elsewhere
    wait_seconds = delay_seconds(
        attempt,
        retry_after_seconds=error.retry_after_seconds,
        base_seconds=FIRST_RETRY_SECONDS,
        cap_seconds=PATIENCE_SECONDS,
        jitter=jitter,
    )
    too_long = routes_left > 0 and wait_seconds > SWITCH_SECONDS
    too_late = elapsed_seconds + wait_seconds > PATIENCE_SECONDS
    if attempt + 1 >= ATTEMPTS or too_long or too_late:
        return elsewhere
    return Again(wait_seconds)


def is_timeout(error: ProviderError) -> bool:
    """Whether the provider was given up on, rather than answering with an error."""
    return isinstance(error, Unavailable | StreamBroken) and error.code == "timeout"


def reach(
    routes: Sequence[Route],
    ask: Callable[[Route], T],
    trail: Trail,
    breakers: Breakers,
    sleep: Callable[[float], None],
) -> T:
    """What the first provider answers that does, in the order of `routes`; one at least.

    A provider whose circuit is open is passed over. Raises the last provider's ProviderError, or
    OwnKeyRefused for what it says of a customer's own key.
    """
    began = time.monotonic()
    last: ProviderError | None = None
    whose = routes[0]
    for place, route in enumerate(routes):
        breaker = breakers.of(route.credential)
        attempt = 0
        was_asked = False
        while breaker.allows():
            was_asked = True
            try:
                return _try_once(route, ask, trail, breaker)
            except ProviderError as error:
                last, whose = error, route
            choice = choose(
                last,
                attempt=attempt,
                elapsed_seconds=time.monotonic() - began,
                routes_left=len(routes) - place - 1,
                jitter=random.random(),
            )
            if choice is Move.GIVE_UP:
                raise _told(last, whose)
            if choice is Move.NEXT_PROVIDER:
                break
            sleep(choice.wait_seconds)
            attempt += 1
        if not was_asked:
            passed_over = breaker.refusal(route.offer.provider)
            trail.tried(route, passed_over, 0.0)
            last = last or passed_over
    assert last is not None
    raise _told(last, whose)


def _try_once(route: Route, ask: Callable[[Route], T], trail: Trail, breaker: Breaker) -> T:
    began = time.monotonic()
    try:
        answer = ask(route)
    except ProviderError as error:
        breaker.record(error)
        trail.tried(route, error, time.monotonic() - began)
        _alarm(route, error)
        raise
    breaker.record(None)
    trail.tried(route, None, time.monotonic() - began)
    return answer


def _told(error: ProviderError, route: Route) -> ProviderError | CallError:
    """What its caller hears of a provider's last word."""
    if isinstance(error, Unauthorized) and not route.credential.is_house:
        return OwnKeyRefused(route.offer.provider, error.message)
    return error


def _alarm(route: Route, error: ProviderError) -> None:
    """A key of ours that is not accepted is the operator's to mend, even if another one serves."""
    if isinstance(error, Unauthorized) and route.credential.is_house:
        fields = {"provider": route.offer.provider, "http_status": error.status, "alert": True}
        log.error("provider.unauthorized", extra=fields)
