"""Runs: jobs in the standard lane, claimed as provider batches are.

A conditional update raises a run's epoch and takes a lease; whatever is written about it later
checks the epoch.
"""

from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum, auto
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from gateway.lanes import endings
from gateway.lanes.leases import LEASE_SECONDS
from gateway.lanes.returning import MAX_FAILURES
from models.states import RunReason

UNANSWERED = "The provider failed to answer this call."


@dataclass(frozen=True, slots=True)
class RunClaim:
    """A run that is ours as long as its epoch stands."""

    job_id: UUID
    epoch: int


@dataclass(frozen=True, slots=True)
class Run(RunClaim):
    """A claimed run, and what its call needs.

    `model` is the provider's name, `asked_model` the caller's; `seconds_left` is until the
    deadline.
    """

    attempts: int
    provider: str
    credential: str
    endpoint: str
    model: str
    asked_model: str
    body: bytes
    price_id: str
    markup_bps: int
    seconds_left: float


class Standing(Enum):
    """What has become of a claim."""

    OURS = auto()
    WRITTEN = auto()  # what came of it, by the holder of this claim, whose commit was not heard of
    LOST = auto()


_IDLE = """
    standard_runs.ended_at IS NULL AND standard_runs.due_at <= now()
    AND (standard_runs.leased_until IS NULL OR standard_runs.leased_until <= now())
"""
# A lease that ended by itself counts as a failure: what kills its worker must not do so for ever.
_FAILURES = "standard_runs.failures + (standard_runs.leased_until IS NOT NULL)::int"
_END_OVERTAKEN = text(
    f"""
    UPDATE standard_runs SET ended_at = now(), leased_until = NULL, epoch = epoch + 1 FROM jobs
    WHERE {_IDLE} AND jobs.id = standard_runs.id AND jobs.completed_at IS NOT NULL
    """
)
_HOPELESS = text(
    f"""
    SELECT jobs.id, jobs.status = 'cancelling' AS cancelling
    FROM standard_runs JOIN jobs ON jobs.id = standard_runs.id
    WHERE {_IDLE} AND jobs.completed_at IS NULL
      AND (jobs.status = 'cancelling' OR {_FAILURES} >= {MAX_FAILURES})
    FOR UPDATE OF standard_runs SKIP LOCKED
    """
)
_CLAIM = text(
    f"""
    UPDATE standard_runs
    SET epoch = epoch + 1, attempts = attempts + 1, failures = {_FAILURES},
        leased_until = now() + interval '{LEASE_SECONDS} seconds'
    WHERE id IN (
        SELECT standard_runs.id FROM standard_runs JOIN jobs ON jobs.id = standard_runs.id
        WHERE {_IDLE} AND jobs.completed_at IS NULL AND jobs.status <> 'cancelling'
          AND jobs.deadline_at > now() AND {_FAILURES} < {MAX_FAILURES}
        ORDER BY jobs.deadline_at LIMIT :limit FOR UPDATE OF standard_runs SKIP LOCKED
    )
    RETURNING id
    """
)
_READ = text(
    """
    SELECT jobs.id AS job_id, run.epoch, run.attempts, lanes.provider, lanes.credential,
           lanes.endpoint, lanes.model, jobs.model AS asked_model, job_bodies.body, jobs.price_id,
           jobs.markup_bps, extract(epoch FROM jobs.deadline_at - now())::float AS seconds_left
    FROM standard_runs AS run JOIN jobs ON jobs.id = run.id JOIN lanes ON lanes.id = jobs.lane_id
    JOIN job_bodies ON job_bodies.job_id = run.id
    WHERE run.id = ANY(:run_ids)
    """
)
_ADOPT = text(
    f"""
    INSERT INTO standard_runs (id, lane_id, reason, epoch, attempts, created_at, leased_until)
    SELECT id, lane_id, '{RunReason.WAIT}', 1, 1, created_at,
           now() + interval '{LEASE_SECONDS} seconds'
    FROM jobs WHERE id = :job_id
    """
)
_RENEW = text(
    f"""
    UPDATE standard_runs SET leased_until = now() + interval '{LEASE_SECONDS} seconds'
    FROM unnest(CAST(:run_ids AS uuid[]), CAST(:epochs AS int[])) AS held (id, epoch)
    WHERE standard_runs.id = held.id AND standard_runs.epoch = held.epoch
      AND standard_runs.leased_until IS NOT NULL
    """
)
_LOCK = text("SELECT epoch, leased_until FROM standard_runs WHERE id = :run_id FOR UPDATE")
_END = text(
    "UPDATE standard_runs SET ended_at = now(), leased_until = NULL, call_milliseconds = :taken "
    "WHERE id = :run_id"
)
_PUT_OFF = text(
    """
    UPDATE standard_runs
    SET leased_until = NULL, due_at = now() + make_interval(secs => :delay),
        failures = failures + :failed
    WHERE id = :run_id
    """
)


def claim(session: Session, limit: int) -> list[Run]:
    """Takes up to so many due runs, those with the nearest deadline first.

    Runs whose job has ended otherwise are ended; a job that is to be cancelled, or whose call has
    failed too often, ends.
    """
    session.execute(_END_OVERTAKEN)
    claimed = session.scalars(_CLAIM, {"limit": limit}).all()
    rows = session.execute(_READ, {"run_ids": list(claimed)}).mappings().all()
    hopeless = session.execute(_HOPELESS).all()
    endings.finish(
        session,
        [
            endings.cancelled(row.id) if row.cancelling else endings.exhausted(row.id, UNANSWERED)
            for row in hopeless
        ],
    )
    return [Run(**row) for row in rows]


def adopt(session: Session, job_id: UUID) -> RunClaim:
    """A run, already claimed, for a job whose call is being made: its caller waits no longer."""
    session.execute(_ADOPT, {"job_id": job_id})
    return RunClaim(job_id, epoch=1)


def adopted(session: Session, job_id: UUID) -> RunClaim | None:
    """What `adopt` gave, if it came to pass."""
    found = session.execute(_LOCK, {"run_id": job_id}).first()
    return None if found is None else RunClaim(job_id, epoch=1)


def renew(session: Session, runs: Collection[RunClaim]) -> None:
    """Keeps the claims alive, those that still stand."""
    session.execute(
        _RENEW, {"run_ids": [run.job_id for run in runs], "epochs": [run.epoch for run in runs]}
    )


def standing(session: Session, run: RunClaim) -> Standing:
    """Locks the run's row for this transaction, and says whether it is still ours."""
    row = session.execute(_LOCK, {"run_id": run.job_id}).one()
    if row.epoch != run.epoch:
        return Standing.LOST
    # Only what came of a run takes its lease away while its epoch stands.
    return Standing.WRITTEN if row.leased_until is None else Standing.OURS


def end(session: Session, run: RunClaim, call_milliseconds: int | None = None) -> None:
    """The run is over. `call_milliseconds` is how long it took to be answered, if it was."""
    session.execute(_END, {"run_id": run.job_id, "taken": call_milliseconds})


def put_off(session: Session, run: RunClaim, delay_seconds: float, *, failed: bool) -> None:
    """The run is tried again after a while; with `failed` this counts against its three tries."""
    session.execute(_PUT_OFF, {"run_id": run.job_id, "delay": delay_seconds, "failed": int(failed)})
