"""How long provider batches take, from those that ended last. They are everybody's alike."""

from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import text
from sqlalchemy.orm import Session

KNOWN_FROM = 20
"""How many batches or calls of a provider make a measurement."""

# The lanes' newest batches, by an index each; one that was cancelled tells nothing.
_NEWEST = f"""
    lanes CROSS JOIN LATERAL (
        SELECT created_at, submitted_at, ended_at, done_at FROM provider_batches
        WHERE lane_id = lanes.id AND ended_at IS NOT NULL AND submitted_at IS NOT NULL
          AND NOT EXISTS (SELECT FROM batch_cancellations WHERE batch_id = provider_batches.id)
        ORDER BY id DESC LIMIT {5 * KNOWN_FROM}
    ) AS b
"""
_QUICK = text(
    f"""
    SELECT lanes.provider, count(*) AS known,
           percentile_cont(0.1) WITHIN GROUP (
               ORDER BY extract(epoch FROM b.ended_at - b.submitted_at)::float) AS quick
    FROM {_NEWEST} GROUP BY lanes.provider
    """
)
_WHOLE = text(
    f"""
    SELECT count(*) AS known,
           percentile_cont(ARRAY[0.5, 0.9]) WITHIN GROUP (
               ORDER BY extract(epoch FROM b.done_at - b.created_at)::float) AS shares
    FROM {_NEWEST} WHERE lanes.provider = :provider AND b.done_at IS NOT NULL
    """
)


@dataclass(frozen=True, slots=True)
class Spread:
    """How long one batch in two, and nine in ten, take at most; None where none was seen."""

    half: timedelta | None
    most: timedelta | None
    batches: int


def quick_batches(session: Session) -> dict[str, timedelta]:
    """By provider, what one batch in ten does not even take at the provider."""
    return {
        row.provider: timedelta(seconds=row.quick)
        for row in session.execute(_QUICK)
        if row.known >= KNOWN_FROM
    }


def spread(session: Session, provider: str) -> Spread:
    """How long a provider's batches take, from being cut to having all their results here."""
    row = session.execute(_WHOLE, {"provider": provider}).one()
    half, most = (timedelta(seconds=each) for each in row.shares) if row.known else (None, None)
    return Spread(half, most, row.known)
