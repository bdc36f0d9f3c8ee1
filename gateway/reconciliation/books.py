"""What is booked here of a provider's batches, and of its days: the house's own key only.

A batch is read by its lines, a day by the time of its settlements; both by index.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, Self
from uuid import UUID

from sqlalchemy import Row, text
from sqlalchemy.orm import Session

from gateway.billing.prices import LARGEST_NANOS
from gateway.reconciliation.counters import Where
from gateway.reconciliation.verdicts import NO_TOKENS, Booked, Tokens
from models import ids

BATCHES_AT_ONCE = 20
SETTLED_WITHIN = timedelta(days=2)
"""How long after its provider counted a call it is settled at the latest."""

BATCHES = text(
    """
    SELECT b.id, b.external_id, b.status = 'done' AS is_done, lanes.model, tally.*,
           (SELECT coalesce(sum(amount_nanos), 0) FROM transfers
            WHERE batch_id = b.id AND kind = 'unbilled_cost')::bigint
           - (SELECT coalesce(sum(cost_nanos), 0) FROM orphan_batches
              WHERE orphan_batches.batch_id = b.id AND booked_at IS NOT NULL)::bigint AS late_nanos
    FROM provider_batches AS b JOIN lanes ON lanes.id = b.lane_id
    CROSS JOIN LATERAL (
        SELECT count(*) FILTER (WHERE lines.status IN ('succeeded', 'late')) AS answered,
               count(*) FILTER (WHERE lines.status = 'late') AS late,
               count(*) FILTER (WHERE lines.status = 'open') AS open,
               coalesce(sum(input_uncached::bigint + cache_write_short + cache_write_long), 0)
                   ::bigint AS input_uncached,
               coalesce(sum(cache_read), 0)::bigint AS cache_read,
               coalesce(sum(output), 0)::bigint AS output,
               coalesce(sum(cost_nanos), 0)::bigint AS cost_nanos,
               coalesce(sum(holds.amount_nanos) FILTER (WHERE s.unpriced), 0)::bigint AS kept_nanos,
               array_agg(s.id) FILTER (WHERE s.unpriced) AS unpriced_ids,
               array_agg(DISTINCT jobs.price_id) AS price_ids
        FROM lines JOIN jobs ON jobs.id = lines.job_id JOIN holds ON holds.id = lines.job_id
        LEFT JOIN settlements AS s ON s.id = lines.job_id AND s.batch_id = b.id
        WHERE lines.batch_id = b.id
    ) AS tally
    WHERE b.external_id = ANY(:external_ids) AND lanes.provider = :provider
      AND lanes.credential = 'house'
    """
)
ORPHANS = text(
    """
    SELECT orphan_batches.external_id, lanes.model, coalesce(cost_nanos, 0) AS cost_nanos,
           booked_at IS NOT NULL AS is_booked,
           ARRAY(SELECT DISTINCT jobs.price_id FROM lines JOIN jobs ON jobs.id = lines.job_id
                 WHERE lines.batch_id = b.id) AS price_ids
    FROM orphan_batches
    JOIN provider_batches AS b ON b.id = orphan_batches.batch_id
    JOIN lanes ON lanes.id = b.lane_id
    WHERE orphan_batches.external_id = ANY(:external_ids) AND lanes.provider = :provider
    """
)
# A call is counted by its provider between `began` and `ended`. A markup below zero is a call on
# a customer's own key.
DAY = text(
    """
    SELECT provider, model, lane,
           began >= :start AND ended < :end AND created_at < :asked_at AS is_sure,
           count(*) AS requests,
           sum(input_uncached::bigint + cache_write_short + cache_write_long)::bigint
               AS input_uncached,
           sum(cache_read)::bigint AS cache_read, sum(output)::bigint AS output,
           coalesce(sum(cost_nanos), 0)::bigint AS cost_nanos,
           coalesce(sum(kept_nanos), 0)::bigint AS kept_nanos,
           array_agg(DISTINCT price_id) AS price_ids
    FROM (
        SELECT s.*, holds.amount_nanos AS kept_nanos,
               coalesce(b.submitted_at, s.created_at - interval '1 hour') AS began,
               coalesce(b.ended_at, s.created_at) AS ended
        FROM settlements AS s
        LEFT JOIN provider_batches AS b ON b.id = s.batch_id
        LEFT JOIN holds ON holds.id = s.id AND s.unpriced
        WHERE s.created_at >= :start AND s.created_at < :settled_by AND s.markup_bps >= 0
    ) AS settled
    WHERE began < :end AND ended >= :start
    GROUP BY provider, model, lane, is_sure
    """
)
UNBILLED = text(
    """
    SELECT lanes.provider, lanes.model, CASE WHEN b.id IS NULL THEN 'standard' ELSE 'batch' END
               AS lane, sum(amount_nanos)::bigint AS nanos
    FROM transfers
    LEFT JOIN provider_batches AS b ON b.id = transfers.batch_id
    LEFT JOIN lanes ON lanes.id = b.lane_id
    WHERE kind = 'unbilled_cost' AND transfers.id >= :first AND transfers.id < :last
    GROUP BY 1, 2, 3
    """
)
IN_FLIGHT = text(
    """
    SELECT lanes.provider, lanes.model, 'batch' AS lane,
           sum(holds.amount_nanos)::bigint AS nanos
    FROM provider_batches AS b JOIN lanes ON lanes.id = b.lane_id
    JOIN lines ON lines.batch_id = b.id AND lines.status = 'open'
    JOIN holds ON holds.id = lines.job_id
    WHERE b.status <> 'done' AND lanes.credential = 'house'
    GROUP BY 1, 2
    UNION ALL
    SELECT lanes.provider, lanes.model, 'standard', sum(holds.amount_nanos)::bigint
    FROM standard_runs AS runs JOIN lanes ON lanes.id = runs.lane_id
    JOIN holds ON holds.id = runs.id
    WHERE runs.ended_at IS NULL AND lanes.credential = 'house'
    GROUP BY 1, 2
    UNION ALL
    SELECT NULL, NULL, 'standard', coalesce(sum(amount_nanos), 0)::bigint
    FROM holds WHERE status = 'open' AND expires_at IS NOT NULL
    UNION ALL
    -- What an orphan costs is not known before it has ended.
    SELECT lanes.provider, lanes.model, 'batch', 4611686018427387904
    FROM orphan_batches JOIN provider_batches AS b ON b.id = orphan_batches.batch_id
    JOIN lanes ON lanes.id = b.lane_id
    WHERE booked_at IS NULL AND lanes.credential = 'house'
    """
)


class _Money:
    """Sums by provider, model and lane; what is told of no model may be any model's."""

    def __init__(self) -> None:
        self.sums: dict[Where, int] = defaultdict(int)
        self._of_any: dict[str, int] = defaultdict(int)

    @classmethod
    def sum(cls, rows: Sequence[Row[Any]]) -> Self:
        """Of rows with provider, model, lane and nano-USD."""
        money = cls()
        for row in rows:
            if row.provider is None:
                money._of_any[row.lane] += row.nanos
            else:
                money.sums[row.provider, row.model, row.lane] += row.nanos
        return money

    def of(self, where: Where) -> int:
        """What there is at most of this model."""
        return self.sums.get(where, 0) + self._of_any.get(where[2], 0)


@dataclass(frozen=True, slots=True)
class BatchBooks:
    """One provider batch as it is known here; `is_final` if nothing will change that."""

    batch_id: UUID | None
    model: str
    booked: Booked
    price_ids: Sequence[str] = ()
    in_suspense: Sequence[UUID] = ()
    late_lines: int = 0
    is_final: bool = False


@dataclass(slots=True)
class DayBooks:
    """What was settled of one model and lane around a day."""

    requests: int = 0
    settled: Tokens = NO_TOKENS
    settled_nanos: int = 0
    near: Tokens = NO_TOKENS
    kept_nanos: int = 0
    price_ids: tuple[str, ...] = ()


def read_batches(
    session: Session, provider: str, external_ids: Sequence[str]
) -> dict[str, BatchBooks]:
    """What is known of these batches, by their ids at the provider; strangers are left out."""
    named = {"provider": provider, "external_ids": list(external_ids)}
    orphans = {row.external_id: _orphan(row) for row in session.execute(ORPHANS, named)}
    return orphans | {row.external_id: _batch(row) for row in session.execute(BATCHES, named)}


def _orphan(row: Row[Any]) -> BatchBooks:
    booked = Booked(aside_nanos=row.cost_nanos, is_orphan=True)
    return BatchBooks(None, row.model, booked, row.price_ids, is_final=row.is_booked)


def _batch(row: Row[Any]) -> BatchBooks:
    return BatchBooks(
        batch_id=row.id,
        model=row.model,
        booked=Booked(
            requests=row.answered,
            settled=Tokens(row.input_uncached, row.cache_read, row.output),
            settled_nanos=row.cost_nanos,
            aside_nanos=row.late_nanos + row.kept_nanos,
            in_flight_nanos=0 if row.is_done else LARGEST_NANOS,
            in_flight_requests=0 if row.is_done else row.open,
        ),
        price_ids=row.price_ids or (),
        in_suspense=row.unpriced_ids or (),
        late_lines=row.late,
        is_final=row.is_done,
    )


def read_day(
    session: Session, day: date, asked_at: datetime
) -> tuple[dict[Where, Booked], dict[Where, Sequence[str]]]:
    """What is known of a UTC day's calls, and the prices that they were sold at.

    What was settled after the provider was asked may not be in its answer.
    """
    start = datetime.combine(day, time.min, UTC)
    end = start + timedelta(days=1)
    settled_by = end + SETTLED_WITHIN
    span = {"start": start, "end": end, "settled_by": settled_by, "asked_at": asked_at}
    days: dict[Where, DayBooks] = {}
    for row in session.execute(DAY, span):
        _add(days.setdefault((row.provider, row.model, row.lane), DayBooks()), row)
    written = {"first": ids.floor(start), "last": ids.floor(settled_by)}
    unbilled = _Money.sum(session.execute(UNBILLED, written).all())
    in_flight = _Money.sum(session.execute(IN_FLIGHT).all())
    booked = {}
    for where in days.keys() | unbilled.sums.keys() | in_flight.sums.keys():
        known = days.get(where, DayBooks())
        booked[where] = Booked(
            requests=known.requests,
            settled=known.settled,
            settled_nanos=known.settled_nanos,
            near=known.near,
            aside_nanos=known.kept_nanos + unbilled.of(where),
            in_flight_nanos=in_flight.of(where),
        )
    return booked, {where: known.price_ids for where, known in days.items()}


def _add(known: DayBooks, row: Row[Any]) -> None:
    tokens = Tokens(row.input_uncached, row.cache_read, row.output)
    known.requests += row.requests
    known.kept_nanos += row.kept_nanos
    known.price_ids += tuple(row.price_ids)
    if row.is_sure:
        known.settled, known.settled_nanos = tokens, row.cost_nanos
    else:
        known.near = tokens
