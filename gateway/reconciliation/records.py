"""The rows of reconciliation: written by every run, read by its report and by the gauges."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, NamedTuple

from sqlalchemy import RowMapping, func, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from gateway.reconciliation.verdicts import Told, Verdict
from models.reconciliation import Reconciliation, TotalsSource

KEPT_DAYS = 400
IDENTITY = ("day", "provider", "source", "subject")

_FIRST_DAY = text("SELECT (now() AT TIME ZONE 'UTC')::date - (:days - 1)")
_FINAL = text(
    """
    SELECT subject FROM reconciliations
    WHERE day >= :first AND provider = :provider AND source = :source AND is_final
    """
)
_OFF = text(
    """
    SELECT day, provider, source, model, sum(unexplained_nanos + excess_nanos)::bigint AS nanos,
           sum(unexplained_requests)::bigint AS requests
    FROM reconciliations
    WHERE day >= :first
      AND (unexplained_nanos > 0 OR excess_nanos > 0 OR unexplained_requests > 0)
    GROUP BY day, provider, source, model
    """
)
_TOTALS = text(
    """
    SELECT day, provider, source, model, count(*) AS subjects,
           sum(provider_requests)::bigint AS provider_requests,
           sum(provider_input_tokens)::bigint AS provider_input_tokens,
           sum(provider_output_tokens)::bigint AS provider_output_tokens,
           sum(provider_nanos)::bigint AS provider_nanos,
           sum(explained_nanos)::bigint AS explained_nanos,
           sum(in_flight_nanos)::bigint AS in_flight_nanos,
           sum(orphaned_nanos)::bigint AS orphaned_nanos,
           sum(unexplained_nanos)::bigint AS unexplained_nanos,
           sum(excess_nanos)::bigint AS excess_nanos,
           sum(unexplained_requests)::bigint AS unexplained_requests,
           max(checked_at) AS checked_at
    FROM reconciliations WHERE day >= :first
    GROUP BY day, provider, source, model ORDER BY day DESC, provider, source, model
    """
)
_UNEXPLAINED = text(
    """
    SELECT day, provider, source, model, subject, provider_requests, unexplained_nanos,
           excess_nanos, unexplained_requests
    FROM reconciliations
    WHERE day >= :first
      AND (unexplained_nanos > 0 OR excess_nanos > 0 OR unexplained_requests > 0)
    ORDER BY unexplained_nanos + excess_nanos DESC, subject LIMIT :limit
    """
)
_FORGET = text(f"DELETE FROM reconciliations WHERE day < current_date - {KEPT_DAYS}")


@dataclass(frozen=True, slots=True)
class Comparison:
    """One subject (a batch's id at the provider, or a model's lane), and what came of it."""

    day: date
    provider: str
    source: TotalsSource
    model: str
    subject: str
    told: Told
    verdict: Verdict
    is_final: bool


class Off(NamedTuple):
    """How much of a model's day is unexplained or booked in excess."""

    nanos: int
    requests: int


def final_subjects(session: Session, provider: str, source: TotalsSource, first: date) -> set[str]:
    """What has been compared for good since a day."""
    where = {"first": first, "provider": provider, "source": source.value}
    return set(session.scalars(_FINAL, where))


def write(session: Session, comparisons: Sequence[Comparison]) -> None:
    """Writes comparisons in the place of earlier ones of the same subjects."""
    if not comparisons:
        return
    statement = insert(Reconciliation)
    values = [_values(each) for each in comparisons]
    session.execute(
        statement.on_conflict_do_update(
            index_elements=IDENTITY,
            set_={
                "checked_at": func.now(),
                **{name: statement.excluded[name] for name in values[0].keys() - set(IDENTITY)},
            },
        ),
        values,
    )


def _values(comparison: Comparison) -> dict[str, Any]:
    told, verdict = comparison.told, comparison.verdict
    tokens = told.tokens
    return {
        "day": comparison.day,
        "provider": comparison.provider,
        "source": comparison.source,
        "model": comparison.model,
        "subject": comparison.subject,
        "provider_requests": told.requests,
        "provider_input_tokens": tokens and tokens.input_uncached + tokens.cache_read,
        "provider_output_tokens": tokens and tokens.output,
        "provider_nanos": verdict.provider_nanos,
        "explained_nanos": verdict.explained_nanos,
        "in_flight_nanos": verdict.in_flight_nanos,
        "orphaned_nanos": verdict.orphaned_nanos,
        "unexplained_nanos": verdict.unexplained_nanos,
        "excess_nanos": verdict.excess_nanos,
        "unexplained_requests": verdict.unexplained_requests,
        "is_final": comparison.is_final,
    }


def off_by_model(session: Session, first: date) -> dict[tuple[date, str, str, str], Off]:
    """What does not agree since a day, by day, provider, source and model."""
    return {
        (row.day, row.provider, row.source, row.model): Off(row.nanos, row.requests)
        for row in session.execute(_OFF, {"first": first})
    }


def first_day(session: Session, days: int) -> date:
    """The first of the last so many UTC days."""
    first: date = session.execute(_FIRST_DAY, {"days": days}).scalar_one()
    return first


def totals(session: Session, first: date) -> Sequence[RowMapping]:
    """The sums of each model's days, newest first."""
    return session.execute(_TOTALS, {"first": first}).mappings().all()


def unexplained(session: Session, first: date, limit: int) -> Sequence[RowMapping]:
    """The batches and lanes that do not agree, largest first."""
    return session.execute(_UNEXPLAINED, {"first": first, "limit": limit}).mappings().all()


def forget_old(session: Session) -> None:
    """Deletes what is kept no longer."""
    session.execute(_FORGET)
