"""Synchronous calls: held, run at a provider, settled.

The books are kept by whoever the door hands in (its writer), because a web process commits many
calls' holds and settlements together.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol
from uuid import UUID

from gateway.billing.ledger import Amounts, Charge
from gateway.billing.pricing import amounts
from gateway.calls.attempts import reach
from gateway.calls.idempotency import KeyedCall, Stored
from gateway.calls.record import Trail
from gateway.calls.routing import Route
from gateway.catalogue.rates import PriceSnapshot
from gateway.catalogue.usage import Usage
from gateway.providers.breaker import Breakers
from gateway.providers.dialect import Answer, Endpoint
from models import ids
from models.ids import Prefix

log = logging.getLogger(__name__)

TIMEOUT_SECONDS = 600.0
HOLD_SECONDS = 900
"""A call's hold outlives the longest call; what is still open then was left by a dead process."""
STANDARD = "standard"


@dataclass(frozen=True, slots=True)
class Call:
    """One synchronous call, ready to run.

    `route` is tried first, `fallbacks` after it. `estimated_nanos` is the ceiling in the standard
    lane at the dearest of them. `source` is what the caller calls the place that it came from.
    """

    id: UUID
    account_id: UUID
    key_id: UUID
    endpoint: Endpoint
    route: Route
    body: dict[str, Any]
    estimated_nanos: int
    markup_bps: int
    expires_at: datetime
    keyed: KeyedCall | None = None
    fallbacks: tuple[Route, ...] = ()
    source: str | None = None

    @property
    def routes(self) -> tuple[Route, ...]:
        """All routes, in the order in which they are tried."""
        return (self.route, *self.fallbacks)

    def prices(self, digest: str) -> PriceSnapshot:
        """The price snapshot of that digest, which is one of its routes'."""
        for route in self.routes:
            if route.offer.prices.digest == digest:
                return route.offer.prices
        tiers = [each for route in self.routes for each in route.offer.tiers.values()]
        return {each.digest: each for each in tiers}[digest]


@dataclass(frozen=True, slots=True)
class Outcome:
    """A finished call: the completion as its caller gets it, and what it cost (None: unpriced)."""

    body: dict[str, Any]
    charged_nanos: int | None


@dataclass(frozen=True, slots=True)
class Priced:
    """What a usage comes to under the prices of where it ran; no amounts where that is unknown."""

    prices: PriceSnapshot
    amounts: Amounts | None

    @property
    def charged_nanos(self) -> int | None:
        """What its caller pays."""
        return None if self.amounts is None else self.amounts.charged_nanos


@dataclass(frozen=True, slots=True)
class Given:
    """What the caller is given, and whether it is an earlier answer given again."""

    answer: Stored
    replayed: bool


class Books(Protocol):
    """Who keeps the money of synchronous calls. Methods return when it is committed."""

    def begin(self, call: Call) -> Stored | None:
        """Holds the call's ceiling; an earlier answer, if its idempotency key has one.

        Raises CallError.
        """
        ...

    def abandon(self, call: Call) -> None:
        """Releases the hold of a call that cost nothing, and frees its idempotency key."""
        ...

    def settle(self, call: Call, charge: Charge, answer: Stored) -> None:
        """Charges a call, and keeps its answer if it has a key; need not wait for the commit."""
        ...


def run(
    books: Books,
    call: Call,
    present: Callable[[Outcome], Stored],
    trail: Trail,
    breakers: Breakers,
    sleep: Callable[[float], None] = time.sleep,
) -> Given:
    """Runs a call. `present` makes the answer of what came of it.

    Raises CallError or ProviderError; in both cases nothing is charged.
    """

    def ask(route: Route) -> tuple[Route, Answer]:
        offer = route.offer
        return route, route.dialect.call(
            route.credential, call.endpoint, offer.model, call.body, TIMEOUT_SECONDS
        )

    earlier = books.begin(call)
    if earlier is not None:
        trail.replayed = True
        return Given(earlier, replayed=True)
    try:
        route, answer = reach(call.routes, ask, trail, breakers, sleep)
        priced = price(call, route, answer.usage, answer.service_tier)
        given = present(Outcome(_completion(call, answer), priced.charged_nanos))
    except BaseException:
        # Whatever ended it (a provider's refusal, a time-out, the process being stopped), there
        # is no answer, and so no charge.
        books.abandon(call)
        raise
    settle(books, call, route, answer.usage, priced, given, trail)
    return Given(given, replayed=False)


def price(call: Call, route: Route, usage: Usage | None, service_tier: str | None) -> Priced:
    """What a usage comes to at the provider that served, at the tier that it says it served at."""
    prices = route.offer.prices_at(service_tier)
    if usage is None or prices is None:
        return Priced(route.offer.prices, None)
    return Priced(prices, amounts(usage, prices, STANDARD, call.markup_bps))


def settle(
    books: Books,
    call: Call,
    route: Route,
    usage: Usage | None,
    priced: Priced,
    answer: Stored,
    trail: Trail,
) -> None:
    """Charges a call that `route` served; without a price, its hold goes to suspense."""
    offer = route.offer
    trail.settled(usage, priced.amounts)
    if priced.amounts is None:
        fields = {"provider": offer.provider, "model": offer.model, "alert": True}
        log.warning("call.unpriced", extra=fields)
    charge = Charge(
        hold_id=call.id,
        lane=STANDARD,
        provider=offer.provider,
        model=offer.model,
        price_id=priced.prices.digest,
        markup_bps=call.markup_bps,
        usage=usage or Usage(),
        amounts=priced.amounts,
    )
    books.settle(call, charge, answer)


def _completion(call: Call, answer: Answer) -> dict[str, Any]:
    """The completion under our id and the name that was asked for."""
    body = dict(answer.body)
    if call.endpoint is Endpoint.CHAT_COMPLETIONS:
        body["id"] = ids.show(Prefix.COMPLETION, call.id)
    body["model"] = call.route.name
    return body
