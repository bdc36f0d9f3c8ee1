"""Cancelling: at once while a job waits, best effort once it is in a provider batch."""

from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from gateway.lanes import endings
from gateway.lanes.records import read_batches, target_of
from gateway.lanes.works import Works
from models.session import transaction


class Cancellation(StrEnum):
    """What came of asking."""

    DONE = "done"
    ASKED = "asked"
    TOO_LATE = "too_late"
    NOT_FOUND = "not_found"


@dataclass(frozen=True, slots=True)
class Cancelled:
    """What came of it, and the provider batch that nobody waits for any more, if there is one."""

    outcome: Cancellation
    abandoned_batch: UUID | None = None


_LOCK = text(
    """
    SELECT status, batch_id, completed_at FROM jobs
    WHERE id = :job_id AND account_id = :account_id FOR UPDATE
    """
)
_ASK = text("UPDATE jobs SET status = 'cancelling' WHERE id = :job_id AND status <> 'cancelling'")
_WANTED = text(
    """
    SELECT EXISTS (
        SELECT 1 FROM lines JOIN jobs ON jobs.id = lines.job_id
        WHERE lines.batch_id = :batch_id AND lines.status = 'open'
          AND jobs.completed_at IS NULL AND jobs.status <> 'cancelling'
    )
    """
)


def cancel(session: Session, account_id: UUID, job_id: UUID) -> Cancelled:
    """Cancels one of the account's jobs, as far as that is still possible."""
    job = session.execute(_LOCK, {"job_id": job_id, "account_id": account_id}).first()
    if job is None:
        return Cancelled(Cancellation.NOT_FOUND)
    if job.completed_at is not None:
        return Cancelled(Cancellation.TOO_LATE)
    if job.batch_id is None and job.status == "queued":
        endings.finish(session, [endings.cancelled(job_id)])
        return Cancelled(Cancellation.DONE)
    session.execute(_ASK, {"job_id": job_id})
    wanted = session.execute(_WANTED, {"batch_id": job.batch_id}).scalar_one()
    return Cancelled(Cancellation.ASKED, None if wanted else job.batch_id)


def cancel_batch(works: Works, batch_id: UUID) -> None:
    """Asks the provider to stop a batch that nobody waits for. What it finished is delivered."""
    with transaction(works.engine) as session:
        wanted = session.execute(_WANTED, {"batch_id": batch_id}).scalar_one()
        (batch,) = read_batches(session, [batch_id])
    target = target_of(works, batch)
    if not wanted and target is not None and batch.external_id is not None:
        target.dialect.cancel_batch(target.credential, batch.external_id)
