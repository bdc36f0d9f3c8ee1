"""Calls in suspense, priced where their provider's totals leave no doubt about what they used."""

from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from gateway.billing import suspense
from gateway.billing.pricing import PriceBook, amounts
from gateway.catalogue.rates import Rates
from gateway.catalogue.usage import Usage
from gateway.reconciliation.books import BatchBooks
from gateway.reconciliation.verdicts import Told

_TERMS = text("SELECT price_id, lane, markup_bps FROM settlements WHERE id = :id AND unpriced")


@dataclass(frozen=True, slots=True)
class Remainder:
    """What is left of a batch's total when all its other calls are taken off."""

    hold_id: UUID
    usage: Usage


def remainder(told: Told, batch: BatchBooks) -> Remainder | None:
    """The usage of a batch's one call without usage; None unless it is certain.

    Every answer that the provider counted must be known here, none of them late, and all the
    others priced.
    """
    booked = batch.booked
    if (
        told.tokens is None
        or told.requests != booked.requests
        or batch.late_lines
        or not batch.is_final
        or len(batch.in_suspense) != 1
        or any(booked.settled.beyond(told.tokens))
    ):
        return None
    left = told.tokens.beyond(booked.settled)
    usage = Usage(left.input_uncached, left.cache_read, output=left.output)
    return Remainder(batch.in_suspense[0], usage)


def price(session: Session, prices: PriceBook, found: Remainder) -> bool:
    """Charges the call; False if it is in suspense no more, or what was written to caches matters.

    No provider's total tells written cache from other input.
    """
    terms = session.execute(_TERMS, {"id": found.hold_id}).one_or_none()
    if terms is None:
        return False
    snapshot = prices.load(session, [terms.price_id])[terms.price_id]
    rates = snapshot.batch
    if rates is None or not _writes_like_input(rates, found.usage):
        return False
    come_to = amounts(found.usage, snapshot, terms.lane, terms.markup_bps)
    return suspense.charge(session, suspense.Finding(found.hold_id, found.usage, come_to))


def _writes_like_input(rates: Rates, usage: Usage) -> bool:
    tier = rates.at(usage.input_total)
    return not usage.input_uncached or tier.input == tier.cache_write_short == tier.cache_write_long
