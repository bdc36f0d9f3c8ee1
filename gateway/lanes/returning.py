"""Lines that came to nothing: their jobs go back to the queue, at most three times.

A job whose cancellation was asked for is cancelled instead. A job that has ended meanwhile stays
as it ended, and one that has left for the standard lane stays there.
"""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from gateway.lanes import endings
from gateway.lanes.endings import Ending

MAX_FAILURES = 3

_OPEN = text("SELECT job_id FROM lines WHERE batch_id = :batch_id AND status = 'open'")
_CLOSE_LINES = text(
    """
    UPDATE lines SET status = 'returned'
    WHERE batch_id = :batch_id AND job_id = ANY(:job_ids) AND status = 'open'
    """
)
# Which of them are live is told, not asked for; see `endings`.
_LOCK = text(
    """
    SELECT id, status, failures, completed_at IS NULL AND batch_id = :batch_id AS is_here FROM jobs
    WHERE id = ANY(:job_ids) ORDER BY id FOR UPDATE
    """
)
_REQUEUE = text(
    """
    UPDATE jobs SET status = 'queued', batch_id = NULL, failures = failures + :failed
    WHERE id = ANY(:job_ids)
    """
)
_CLOSE = text(
    "UPDATE provider_batches SET status = 'done', done_at = now(), last_error = :error "
    "WHERE id = :batch_id"
)
# A batch that ended gives back its enqueued tokens: whoever waits for them may try again.
_WAKE_LANE = text(
    """
    UPDATE provider_batches SET due_at = now()
    WHERE status = 'formed' AND due_at > now() AND refusals > 0
      AND lane_id = (SELECT lane_id FROM provider_batches WHERE id = :batch_id)
    """
)


def return_lines(
    session: Session, batch_id: UUID, reasons: dict[UUID, str], *, failed: bool = True
) -> list[Ending]:
    """Closes open lines without an answer. `reasons` says, by job, why, in the caller's words.

    With `failed` this counts against the three rounds that a job may have. Returns the endings
    of jobs that are not to run again, for the caller to finish with those of its own.
    """
    if not reasons:
        return []
    job_ids = list(reasons)
    session.execute(_CLOSE_LINES, {"batch_id": batch_id, "job_ids": job_ids})
    ends, again = [], []
    for job in session.execute(_LOCK, {"job_ids": job_ids, "batch_id": batch_id}):
        if not job.is_here:
            continue
        if job.status == "cancelling":
            ends.append(endings.cancelled(job.id))
        elif failed and job.failures + 1 >= MAX_FAILURES:
            ends.append(endings.exhausted(job.id, reasons[job.id]))
        else:
            again.append(job.id)
    if again:
        session.execute(_REQUEUE, {"job_ids": again, "failed": int(failed)})
    return ends


def _open_jobs(session: Session, batch_id: UUID) -> Sequence[UUID]:
    return session.scalars(_OPEN, {"batch_id": batch_id}).all()


def return_open_lines(session: Session, batch_id: UUID, reason: str) -> list[Ending]:
    """Every line of the batch that has no answer yet counts as failed once; see `return_lines`."""
    return return_lines(session, batch_id, dict.fromkeys(_open_jobs(session, batch_id), reason))


def requeue_untried(session: Session, batch_id: UUID) -> list[Ending]:
    """Every line of the batch that was never tried goes back uncounted; see `return_lines`."""
    jobs = dict.fromkeys(_open_jobs(session, batch_id), "")
    return return_lines(session, batch_id, jobs, failed=False)


def close(session: Session, batch_id: UUID, error: str | None = None) -> None:
    """The batch is done with."""
    session.execute(_CLOSE, {"batch_id": batch_id, "error": error})
    session.execute(_WAKE_LANE, {"batch_id": batch_id})
