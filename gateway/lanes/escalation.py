"""The ladder: a job whose deadline comes near leaves the batch lane for the standard lane.

It leaves at the last safe moment (`leaving` says when), once its hold covers the standard ceiling.
A job whose balance, `max_cost_usd` or `escalate` does not allow that stays where it is, and
expires at its deadline. Its line in a provider batch stays open: whichever answer comes first,
the batch's or the standard call's, ends the job, and the house pays for the other.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from gateway.billing import raising
from gateway.lanes import cancellation
from gateway.lanes.durations import KNOWN_FROM, quick_batches
from gateway.lanes.leaving import Candidate, Pace, must_leave, pace
from gateway.lanes.standard_lane import AT_ONCE as CALLS_AT_ONCE
from gateway.lanes.works import Works
from gateway.webhooks import events
from gateway.webhooks.events import EventType, JobEvent
from models.bulk import copy_rows
from models.jobs import StandardRun
from models.session import transaction
from models.states import RunReason

log = logging.getLogger(__name__)

LOOK_SECONDS = 5
"""How often deadlines are looked at."""
AT_ONCE = 500
CONSIDERED_AT_MOST = 20_000
LONGEST_BACKLOG = timedelta(hours=1)
RESULTS_AT_HAND = timedelta(minutes=5)
"""How long the results of a batch that has ended are waited for instead of leaving."""

_CALLS = text(
    f"""
    SELECT lanes.provider, count(*) AS known,
           percentile_cont(ARRAY[0.5, 0.95]) WITHIN GROUP (ORDER BY call_milliseconds) AS shares
    FROM lanes CROSS JOIN LATERAL (
        SELECT call_milliseconds FROM standard_runs
        WHERE lane_id = lanes.id AND call_milliseconds IS NOT NULL
        ORDER BY id DESC LIMIT {5 * KNOWN_FROM}
    ) AS run
    GROUP BY lanes.provider
    """
)
_IN_BATCH_LANE = """
    jobs.completed_at IS NULL AND jobs.escalate AND jobs.status <> 'cancelling'
    AND jobs.deadline_at > now()
    AND NOT EXISTS (SELECT FROM standard_runs WHERE standard_runs.id = jobs.id)
"""
# Who cannot go is not considered, and so takes nobody's turn; whether the balance covers them all
# is for the ledger to say.
_CANDIDATES = text(
    f"""
    SELECT jobs.id, jobs.created_at, jobs.deadline_at, lanes.provider,
           b.id IS NULL OR b.status NOT IN ('submitted', 'in_progress', 'ingesting') AS waiting
    FROM jobs JOIN lanes ON lanes.id = jobs.lane_id JOIN holds ON holds.id = jobs.id
    JOIN balances ON balances.account_id = jobs.account_id
    LEFT JOIN provider_batches AS b ON b.id = jobs.batch_id
    WHERE {_IN_BATCH_LANE} AND jobs.deadline_at <= now() + make_interval(secs => :horizon)
      AND (jobs.max_cost_nanos IS NULL OR jobs.max_cost_nanos >= jobs.standard_nanos)
      AND credits_nanos - debits_nanos - held_nanos >= jobs.standard_nanos - holds.amount_nanos
      AND (b.ended_at IS NULL OR b.ended_at <= now() - make_interval(secs => :at_hand))
    ORDER BY jobs.deadline_at LIMIT {CONSIDERED_AT_MOST}
    """
)
_LOCK = text(
    f"""
    SELECT id, account_id, lane_id, batch_id, standard_nanos, webhook FROM jobs
    WHERE id = ANY(:job_ids) AND {_IN_BATCH_LANE}
    ORDER BY id FOR UPDATE SKIP LOCKED
    """
)
_LEAVE = text(
    """
    UPDATE jobs SET status = 'in_progress', batch_id = NULL,
                    submitted_at = coalesce(submitted_at, now())
    WHERE id = ANY(:job_ids)
    """
)


@dataclass(frozen=True, slots=True)
class _Paces:
    """What each provider takes; `unknown` is for those of which too little was seen."""

    known: dict[str, Pace]
    unknown: Pace

    def of(self, provider: str) -> Pace:
        return self.known.get(provider, self.unknown)

    @property
    def longest(self) -> timedelta:
        """How long before its deadline a job may have to leave, were it alone."""
        return max(each.quick_batch + each.call for each in (self.unknown, *self.known.values()))


def escalate_due(works: Works) -> int:
    """Sends to the standard lane what must leave before the next look; how many jobs did."""
    with transaction(works.engine) as session:
        now = session.execute(text("SELECT now()")).scalar_one()
        candidates = _candidates(session, _paces(session))
    leaving = must_leave(candidates, now + timedelta(seconds=LOOK_SECONDS))
    escalated = 0
    for start in range(0, len(leaving), AT_ONCE):
        with transaction(works.engine) as session:
            escalated += _escalate(session, leaving[start : start + AT_ONCE])
    if escalated:
        log.info("jobs.escalated", extra={"jobs": escalated})
    return escalated


def _candidates(session: Session, paces: _Paces) -> list[Candidate]:
    rows = session.execute(
        _CANDIDATES,
        {
            "horizon": (paces.longest + LONGEST_BACKLOG).total_seconds(),
            "at_hand": RESULTS_AT_HAND.total_seconds(),
        },
    )
    return [
        Candidate(row.id, row.created_at, row.deadline_at, row.waiting, paces.of(row.provider))
        for row in rows
    ]


def _paces(session: Session) -> _Paces:
    batches = quick_batches(session)
    calls = {
        row.provider: [timedelta(milliseconds=share) for share in row.shares]
        for row in session.execute(_CALLS)
        if row.known >= KNOWN_FROM
    }
    known = {
        provider: _pace(batches.get(provider), calls.get(provider))
        for provider in batches.keys() | calls.keys()
    }
    return _Paces(known, _pace(None, None))


def _pace(quick_batch: timedelta | None, calls: Sequence[timedelta] | None) -> Pace:
    typical, slow = calls or (None, None)
    return pace(
        quick_batch=quick_batch, slow_call=slow, typical_call=typical, at_once=CALLS_AT_ONCE
    )


def _escalate(session: Session, job_ids: Sequence[UUID]) -> int:
    """Those of the jobs that may go, all in one transaction; how many did.

    1. Batches that jobs may leave are noted, to be cancelled if nobody waits for them any more.
    2. Holds are raised. Who cannot pay the standard ceiling stays in the batch lane.
    3. The others leave the queue or their batch, have a run that is due at once, and their owners
       are told.
    """
    jobs = {row.id: row for row in session.execute(_LOCK, {"job_ids": list(job_ids)})}
    # Before balances are locked, as everywhere; a batch that is still wanted is left alone.
    cancellation.left(session, {row.batch_id for row in jobs.values()} - {None})
    raised = raising.raise_holds(
        session, {job_id: row.standard_nanos for job_id, row in jobs.items()}
    )
    if not raised:
        return 0
    session.execute(_LEAVE, {"job_ids": list(raised)})
    copy_rows(
        session,
        StandardRun,
        ("id", "lane_id", "reason"),
        ((job_id, jobs[job_id].lane_id, RunReason.DEADLINE.value) for job_id in raised),
    )
    events.record(
        session,
        [
            JobEvent(jobs[job_id].account_id, job_id, EventType.JOB_ESCALATED, jobs[job_id].webhook)
            for job_id in raised
        ],
    )
    return len(raised)
