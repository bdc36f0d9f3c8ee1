"""What has happened to a job so far, told from the rows that it left.

Nothing is written down for this: a job, its lines, their provider batches and its standard run
carry the times of what happened to them. So the history is the same whoever asks and whenever.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from models.states import JobStatus, LineState, RunReason

ESCALATED = "escalated"


class _Step(IntEnum):
    """The order of what may happen in one round."""

    QUEUED = 0
    SUBMITTED = 1
    IN_PROGRESS = 2
    STANDARD = 5
    CANCELLING = 6
    END = 9


STEPS_A_ROUND = 10


@dataclass(frozen=True, slots=True)
class Change:
    """The job became `name`, and had `status` then. `position` grows from change to change."""

    position: int
    name: str
    status: JobStatus
    at: datetime


@dataclass(frozen=True, slots=True)
class History:
    """A job's changes, oldest first. `version` is another whenever the job's row is."""

    job_id: UUID
    custom_id: str | None
    metadata: dict[str, str]
    version: str
    is_final: bool
    changes: tuple[Change, ...]


@dataclass(frozen=True, slots=True)
class Round:
    """One line of the job, and the times of the provider batch that it was in."""

    number: int
    line: LineState
    submitted_at: datetime | None
    in_progress_at: datetime | None
    over_at: datetime | None


@dataclass(frozen=True, slots=True)
class Own:
    """What the job's own row and its standard run say.

    `standard_at` is when the job went to the standard lane: `escalated` from the batch lane, or
    else because its caller had waited for it.
    """

    status: JobStatus
    created_at: datetime
    cancelling_at: datetime | None = None
    completed_at: datetime | None = None
    standard_at: datetime | None = None
    escalated: bool = False


# xmin is the transaction that wrote this version of the row.
_JOB = text(
    f"""
    SELECT jobs.status, jobs.custom_id, jobs.metadata, jobs.created_at, jobs.cancelling_at,
           jobs.completed_at, jobs.xmin::text AS version, standard_runs.created_at AS standard_at,
           coalesce(standard_runs.reason = '{RunReason.DEADLINE}', false) AS escalated
    FROM jobs LEFT JOIN standard_runs ON standard_runs.id = jobs.id
    WHERE jobs.id = :job_id AND jobs.account_id = :account_id
    """
)
_ROUNDS = text(
    """
    SELECT lines.round AS number, lines.status AS line, provider_batches.submitted_at,
           provider_batches.in_progress_at,
           coalesce(provider_batches.ended_at, provider_batches.done_at) AS over_at
    FROM lines JOIN provider_batches ON provider_batches.id = lines.batch_id
    WHERE lines.job_id = :job_id ORDER BY lines.round
    """
)


def read(session: Session, account_id: UUID, job_id: UUID) -> History | None:
    """The history of one of the account's jobs; None if it has no such job."""
    job = session.execute(_JOB, {"job_id": job_id, "account_id": account_id}).first()
    if job is None:
        return None
    own = Own(
        status=JobStatus(job.status),
        created_at=job.created_at,
        cancelling_at=job.cancelling_at,
        completed_at=job.completed_at,
        standard_at=job.standard_at,
        escalated=job.escalated,
    )
    return History(
        job_id=job_id,
        custom_id=job.custom_id,
        metadata=job.metadata or {},
        version=job.version,
        is_final=job.completed_at is not None,
        changes=tuple(changes(own, _rounds(session, job_id))),
    )


def _rounds(session: Session, job_id: UUID) -> list[Round]:
    rows = session.execute(_ROUNDS, {"job_id": job_id}).mappings().all()
    return [Round(**{**row, "line": LineState(row["line"])}) for row in rows]


def changes(job: Own, rounds: Sequence[Round]) -> list[Change]:
    """The changes in the order of their positions; a later look adds to them and moves none.

    What became of a provider batch after the job had left it is no change of the job, and a round
    counts once its batch has been at the provider.
    """
    left = [at for at in (job.standard_at, job.cancelling_at, job.completed_at) if at is not None]
    told = [_change(1, _Step.QUEUED, JobStatus.QUEUED, job.created_at)]
    number = 1

    def happened(at: datetime | None) -> bool:
        return at is not None and all(at <= moment for moment in left)

    for each in rounds:
        if each.submitted_at is None or not happened(each.submitted_at):
            continue
        number = each.number
        told.append(_change(number, _Step.SUBMITTED, JobStatus.SUBMITTED, each.submitted_at))
        if each.in_progress_at is not None and happened(each.in_progress_at):
            told.append(
                _change(number, _Step.IN_PROGRESS, JobStatus.IN_PROGRESS, each.in_progress_at)
            )
        returned = each.line is LineState.RETURNED
        if returned and each.over_at is not None and happened(each.over_at):
            number += 1
            told.append(_change(number, _Step.QUEUED, JobStatus.QUEUED, each.over_at))
    if job.standard_at is not None:
        name = ESCALATED if job.escalated else JobStatus.IN_PROGRESS
        told.append(_change(number, _Step.STANDARD, JobStatus.IN_PROGRESS, job.standard_at, name))
    if job.cancelling_at is not None:
        told.append(_change(number, _Step.CANCELLING, JobStatus.CANCELLING, job.cancelling_at))
    if job.completed_at is not None:
        told.append(_change(number, _Step.END, job.status, job.completed_at))
    return told


def _change(
    number: int, step: _Step, status: JobStatus, at: datetime, name: str | None = None
) -> Change:
    return Change(number * STEPS_A_ROUND + step, name or status.value, status, at)
