"""What the database says of the service's state: the gauges of `/metrics`.

Each is one query by an index, and those that count rows stop at `COUNTED`: a gauge says that
something is far too many as well at ten thousand.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import text
from sqlalchemy.orm import Session

COUNTED = 10_000

Samples = Mapping[tuple[str, ...], float]
"""Values by the values of a gauge's labels."""


@dataclass(frozen=True, slots=True)
class Gauge:
    """One gauge, with its name, its help and its labels as Prometheus has them."""

    name: str
    help: str
    labels: tuple[str, ...]
    samples: Samples


WAITING = text(
    f"""
    SELECT lanes.provider, lanes.endpoint, lanes.model, sum(waiting.jobs) AS jobs,
           max(waiting.age) AS age
    FROM lanes CROSS JOIN LATERAL (
        SELECT count(*) AS jobs, coalesce(max(now() - created_at), interval '0') AS age FROM (
            SELECT created_at FROM jobs
            WHERE lane_id = lanes.id AND batch_id IS NULL AND completed_at IS NULL
            LIMIT {COUNTED}
        ) AS found
    ) AS waiting
    GROUP BY lanes.provider, lanes.endpoint, lanes.model
    """
)
BATCHES = text(
    """
    SELECT lanes.provider, b.status, count(*) AS batches, max(now() - b.created_at) AS age,
           max(now() - b.due_at) FILTER (
               WHERE b.leased_until IS NULL OR b.leased_until < now()) AS overdue
    FROM provider_batches AS b JOIN lanes ON lanes.id = b.lane_id
    WHERE b.status <> 'done' GROUP BY lanes.provider, b.status
    """
)
TICKS = text(
    """
    SELECT task, now() - last.created_at AS age
    FROM unnest(CAST(:tasks AS text[])) AS task CROSS JOIN LATERAL (
        SELECT created_at FROM ticks WHERE ticks.task = task.task ORDER BY slot DESC LIMIT 1
    ) AS last
    """
)
MONEY = text(
    """
    SELECT coalesce(sum(credits_nanos), 0) AS credited, coalesce(sum(debits_nanos), 0) AS charged,
           coalesce(sum(held_nanos), 0) AS held
    FROM balances
    """
)
_COUNTS = {
    "holds_open": "holds WHERE status = 'open'",
    "holds_overdue": "holds WHERE status = 'open' AND expires_at < now() - interval '5 minutes'",
    "settlements_unpriced": """
        settlements WHERE unpriced AND NOT EXISTS (
            SELECT 1 FROM transfers
            WHERE hold_id = settlements.id AND kind = 'suspense_return')""",
    "orphan_batches": "orphan_batches WHERE booked_at IS NULL",
    "webhooks_due": "deliveries WHERE status = 'pending' AND due_at <= now()",
}
_COUNTS_HELP = {
    "holds_open": "Amounts set aside for unfinished jobs and calls.",
    "holds_overdue": "Holds of dead calls that a sweep should have released.",
    "settlements_unpriced": "Answers whose usage the provider did not report.",
    "orphan_batches": "Batches that exist twice at a provider and are not booked yet.",
    "webhooks_due": "Webhook deliveries whose time has come.",
}
COUNT = text(
    "SELECT "
    + ", ".join(
        f"(SELECT count(*) FROM (SELECT 1 FROM {what} LIMIT {COUNTED}) AS found) AS {name}"
        for name, what in _COUNTS.items()
    )
)
UNEXPLAINED = text(
    """
    SELECT provider, source, sum(unexplained_nanos + excess_nanos)::float AS nanos,
           sum(unexplained_requests)::float AS requests
    FROM reconciliations
    WHERE day >= current_date - 7
      AND (unexplained_nanos > 0 OR excess_nanos > 0 OR unexplained_requests > 0)
    GROUP BY provider, source
    """
)
# From account to account by the key that the days begin with; OFFSET keeps the planner from
# reading all days there are instead.
TODAY = text(
    """
    SELECT used.provider, used.lane, used.surface, sum(calls)::float AS calls,
           sum(input_uncached)::float AS input_uncached, sum(cache_read)::float AS cache_read,
           sum(cache_write)::float AS cache_write, sum(output)::float AS output,
           sum(reasoning)::float AS reasoning, sum(paid_nanos)::float AS charged,
           sum(list_nanos)::float AS list
    FROM balances CROSS JOIN LATERAL (
        SELECT * FROM daily_usage
        WHERE account_id = balances.account_id AND day = (now() AT TIME ZONE 'UTC')::date
        OFFSET 0
    ) AS used
    GROUP BY used.provider, used.lane, used.surface
    """
)
WEBHOOK_LAG = text(
    "SELECT now() - min(due_at) FROM deliveries WHERE status = 'pending' AND due_at <= now()"
)


def read(session: Session, tasks: Sequence[str]) -> list[Gauge]:
    """Every gauge as it is now. `tasks` are those of the timetable."""
    ages = tick_ages(session, tasks)
    ticks: Samples = {(task,): age.total_seconds() for task, age in ages.items()}
    lag: timedelta | None = session.execute(WEBHOOK_LAG).scalar_one()
    counts = session.execute(COUNT).mappings().one()
    money = session.execute(MONEY).mappings().one()
    return [
        *_lanes(session),
        *_batches(session),
        *_unexplained(session),
        *_today(session),
        Gauge("tick_age_seconds", "Time since each task was last rung.", ("task",), ticks),
        Gauge(
            "webhook_lag_seconds",
            "How long the oldest webhook that is due has been so.",
            (),
            {(): 0.0 if lag is None else lag.total_seconds()},
        ),
        Gauge(
            "balance_nanos",
            "Customers' nano-USD: credited, charged and held, over all accounts.",
            ("kind",),
            {(kind,): float(amount) for kind, amount in money.items()},
        ),
        *(Gauge(name, _COUNTS_HELP[name], (), {(): count}) for name, count in counts.items()),
    ]


def tick_ages(session: Session, tasks: Sequence[str]) -> dict[str, timedelta]:
    """How long ago each task was last rung; what never was is left out."""
    return {row.task: row.age for row in session.execute(TICKS, {"tasks": list(tasks)})}


def _lanes(session: Session) -> list[Gauge]:
    labels = ("provider", "endpoint", "model")
    rows = session.execute(WAITING).all()
    return [
        Gauge(
            "jobs_waiting",
            f"Jobs that are in no provider batch; counted up to {COUNTED} a lane.",
            labels,
            {tuple(row[:3]): float(row.jobs) for row in rows},
        ),
        Gauge(
            "jobs_waiting_age_seconds",
            "How long the oldest of them has waited.",
            labels,
            {tuple(row[:3]): row.age.total_seconds() for row in rows},
        ),
    ]


def _unexplained(session: Session) -> list[Gauge]:
    labels = ("provider", "source")
    rows = session.execute(UNEXPLAINED).all()
    return [
        Gauge(
            "unexplained_nanos",
            "Of the last week: what a provider counted and nobody booked, or the other way round.",
            labels,
            {tuple(row[:2]): row.nanos for row in rows},
        ),
        Gauge(
            "unexplained_requests",
            "Of the last week: answers that only one side knows, where their worth is not told.",
            labels,
            {tuple(row[:2]): row.requests for row in rows},
        ),
    ]


def _today(session: Session) -> list[Gauge]:
    labels = ("provider", "lane", "surface")
    rows = session.execute(TODAY).mappings().all()

    def sums(*names: str) -> Samples:
        return {
            (*(row[label] for label in labels), name): row[name] for row in rows for name in names
        }

    return [
        Gauge(
            "today_calls",
            "Calls and jobs that were settled since midnight UTC.",
            labels,
            {tuple(row[label] for label in labels): row["calls"] for row in rows},
        ),
        Gauge(
            "today_tokens",
            "Their tokens; reasoning is inside output.",
            (*labels, "class"),
            sums("input_uncached", "cache_read", "cache_write", "output", "reasoning"),
        ),
        Gauge(
            "today_nanos",
            "Their nano-USD: charged, and what the standard lane would have cost.",
            (*labels, "kind"),
            sums("charged", "list"),
        ),
    ]


def _batches(session: Session) -> list[Gauge]:
    labels = ("provider", "status")
    rows = session.execute(BATCHES).all()
    overdue = [row.overdue.total_seconds() for row in rows if row.overdue is not None]
    return [
        Gauge(
            "provider_batches",
            "Provider batches that are not done.",
            labels,
            {tuple(row[:2]): row.batches for row in rows},
        ),
        Gauge(
            "provider_batch_age_seconds",
            "Age of the oldest provider batch in each state.",
            labels,
            {tuple(row[:2]): row.age.total_seconds() for row in rows},
        ),
        Gauge(
            "provider_batches_overdue_seconds",
            "How long the most neglected batch has been due with nobody at work on it.",
            (),
            {(): max([0.0, *overdue])},
        ),
    ]
