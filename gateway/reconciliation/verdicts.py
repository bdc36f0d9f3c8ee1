"""The arithmetic of reconciliation: a provider's total divided by what accounts for it. Pure.

Tokens are compared, and only what is left over is priced: no rounding can look like a difference.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

from gateway.billing.prices import PICO_PER_NANO
from gateway.catalogue.rates import Rates

LONGEST = 2**62
"""More input than any call has, so that every tier is looked at."""


class Tokens(NamedTuple):
    """Sums over calls, in the classes that providers' totals tell: written cache is uncached."""

    input_uncached: int = 0
    cache_read: int = 0
    output: int = 0

    def beyond(self, other: Self) -> Self:
        """What there is of each class more than in `other`."""
        return type(self)(*(max(0, a - b) for a, b in zip(self, other, strict=True)))

    def plus(self, other: Self) -> Self:
        """The sum of both, class by class."""
        return type(self)(*(a + b for a, b in zip(self, other, strict=True)))


NO_TOKENS = Tokens()


@dataclass(frozen=True, slots=True)
class Told:
    """What a provider counted; `tokens` is None where it only counts answers."""

    requests: int | None
    tokens: Tokens | None


@dataclass(frozen=True, slots=True)
class Booked:
    """What is known here of the same calls.

    `settled` was priced at `settled_nanos`; `near` was settled too, but may count for another day
    at the provider. The rest is money at most: `aside_nanos` was booked without a charge or lies
    in suspense, `in_flight_nanos` is held for what is not settled yet.
    """

    requests: int = 0
    settled: Tokens = NO_TOKENS
    settled_nanos: int = 0
    near: Tokens = NO_TOKENS
    aside_nanos: int = 0
    in_flight_nanos: int = 0
    in_flight_requests: int = 0
    is_orphan: bool = False

    def plus(self, other: Self) -> Self:
        """The sum of both; neither is an orphan."""
        return type(self)(
            requests=self.requests + other.requests,
            settled=self.settled.plus(other.settled),
            settled_nanos=self.settled_nanos + other.settled_nanos,
            near=self.near.plus(other.near),
            aside_nanos=self.aside_nanos + other.aside_nanos,
            in_flight_nanos=self.in_flight_nanos + other.in_flight_nanos,
            in_flight_requests=self.in_flight_requests + other.in_flight_requests,
        )


@dataclass(frozen=True, slots=True)
class Verdict:
    """A provider's total in nano-USD, divided; see `models.reconciliation`."""

    explained_nanos: int = 0
    in_flight_nanos: int = 0
    orphaned_nanos: int = 0
    unexplained_nanos: int = 0
    excess_nanos: int = 0
    unexplained_requests: int = 0

    @property
    def provider_nanos(self) -> int:
        """The whole of it."""
        return (
            self.explained_nanos
            + self.in_flight_nanos
            + self.orphaned_nanos
            + self.unexplained_nanos
        )

    @property
    def is_clean(self) -> bool:
        """Whether everything is accounted for."""
        return not (self.unexplained_nanos or self.excess_nanos or self.unexplained_requests)


def divide(told: Told, booked: Booked, rates: Sequence[Rates]) -> Verdict:
    """Accounts for what a provider counted; `rates` are those that its calls may have."""
    if booked.is_orphan:
        used = 0 if told.tokens is None else worth(told.tokens, rates)
        return Verdict(orphaned_nanos=max(used, booked.aside_nanos))
    if told.tokens is None:
        return _by_requests(told, booked)
    surplus = told.tokens.beyond(booked.settled)
    excess = min(worth(booked.settled.beyond(told.tokens), rates), booked.settled_nanos)
    left = worth(surplus.beyond(booked.near), rates)
    explained = booked.settled_nanos - excess + worth(surplus, rates) - left
    aside = min(left, booked.aside_nanos)
    if aside and left - aside <= max(booked.requests, told.requests or 0):
        # What was kept aside was rounded line by line.
        aside = left
    left -= aside
    in_flight = min(left, booked.in_flight_nanos)
    left -= in_flight
    unknown = not rates and any(surplus) and not booked.in_flight_requests
    return Verdict(
        explained_nanos=explained + aside,
        in_flight_nanos=in_flight,
        unexplained_nanos=left,
        excess_nanos=excess,
        unexplained_requests=max(1, (told.requests or 0) - booked.requests) if unknown else 0,
    )


def _by_requests(told: Told, booked: Booked) -> Verdict:
    """Where only answers are counted, money is what the books say and answers must agree."""
    counted = booked.requests if told.requests is None else told.requests
    missing = max(0, counted - booked.requests - booked.in_flight_requests)
    return Verdict(
        explained_nanos=booked.settled_nanos + booked.aside_nanos,
        unexplained_requests=missing + max(0, booked.requests - counted),
    )


def worth(tokens: Tokens, rates: Sequence[Rates]) -> int:
    """The least that these tokens can have cost, in nano-USD, at the lowest of the rates."""
    tiers = [tier for each in rates for tier in each.up_to(LONGEST)]
    if not tiers:
        return 0
    pico = (
        tokens.input_uncached * min(tier.input for tier in tiers)
        + tokens.cache_read * min(tier.cache_read for tier in tiers)
        + tokens.output * min(tier.output for tier in tiers)
    )
    return (2 * pico + PICO_PER_NANO) // (2 * PICO_PER_NANO)
