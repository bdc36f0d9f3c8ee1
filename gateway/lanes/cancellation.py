"""Cancelling: at once while nothing runs for a job, best effort from then on.

A provider batch that nobody waits for any more is cancelled at its provider. Whatever takes a job
out of its batch notes that the batch has been left, in its own transaction; a sweep looks at each
such batch until it is cancelled or need not be. So no lost ring loses a cancellation.
"""

import logging
from collections.abc import Collection
from datetime import timedelta
from enum import StrEnum
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from gateway.lanes import endings
from gateway.lanes.records import read_batch, target_of
from gateway.lanes.works import Works
from gateway.providers.dialect import ProviderError
from models.session import transaction
from models.states import BatchStatus

log = logging.getLogger(__name__)

AT_ONCE = 50
LOOK_AGAIN_SECONDS = 30
PROVIDER_WINDOW = timedelta(hours=24)
"""The window that we ask OpenAI for, and Anthropic's own; the others' are no longer."""
WINDOW_MARGIN = timedelta(hours=2)


class Cancellation(StrEnum):
    """What came of asking."""

    DONE = "done"
    ASKED = "asked"
    TOO_LATE = "too_late"
    NOT_FOUND = "not_found"


_LOCK = text(
    """
    SELECT jobs.batch_id, jobs.completed_at,
           coalesce(standard_runs.leased_until > now(), false) AS called
    FROM jobs LEFT JOIN standard_runs ON standard_runs.id = jobs.id
    WHERE jobs.id = :job_id AND jobs.account_id = :account_id FOR UPDATE OF jobs
    """
)
_ASK = text(
    """
    UPDATE jobs SET status = 'cancelling', cancelling_at = now()
    WHERE id = :job_id AND status <> 'cancelling'
    """
)
_LEFT = text(
    """
    INSERT INTO batch_cancellations (batch_id)
    SELECT batch_id FROM unnest(CAST(:batch_ids AS uuid[])) AS batch_left (batch_id)
    ORDER BY batch_id
    ON CONFLICT (batch_id) DO UPDATE SET due_at = now()
    WHERE batch_cancellations.asked_at IS NULL
    """
)
_CLAIM_DUE = text(
    f"""
    UPDATE batch_cancellations
    SET due_at = now() + interval '{LOOK_AGAIN_SECONDS} seconds'
    WHERE batch_id IN (
        SELECT batch_id FROM batch_cancellations WHERE asked_at IS NULL AND due_at <= now()
        ORDER BY due_at LIMIT {AT_ONCE} FOR UPDATE SKIP LOCKED
    )
    RETURNING batch_id, overdue, due_at
    """
)
_WANTED = text(
    """
    SELECT EXISTS (
        SELECT 1 FROM lines JOIN jobs ON jobs.id = lines.job_id AND jobs.batch_id = lines.batch_id
        WHERE lines.batch_id = :batch_id AND lines.status = 'open'
          AND jobs.completed_at IS NULL AND jobs.status <> 'cancelling'
    )
    """
)
# Only as it was claimed: whoever has left the batch since wants it to be looked at again.
_DROP = text("DELETE FROM batch_cancellations WHERE batch_id = :batch_id AND due_at = :claimed_at")
_ASKED = text("UPDATE batch_cancellations SET asked_at = now() WHERE batch_id = :batch_id")
_FLAG_OVERDUE = text(
    """
    INSERT INTO batch_cancellations (batch_id, overdue)
    SELECT id, true FROM provider_batches
    WHERE status IN ('submitted', 'in_progress')
      AND submitted_at <= now() - make_interval(secs => :patience)
    ON CONFLICT (batch_id) DO UPDATE SET overdue = true, due_at = now(), asked_at = NULL
    WHERE NOT batch_cancellations.overdue
    RETURNING batch_id
    """
)


def cancel(session: Session, account_id: UUID, job_id: UUID) -> Cancellation:
    """Cancels one of the account's jobs, as far as that is still possible."""
    job = session.execute(_LOCK, {"job_id": job_id, "account_id": account_id}).first()
    if job is None:
        return Cancellation.NOT_FOUND
    if job.completed_at is not None:
        return Cancellation.TOO_LATE
    if job.batch_id is None and not job.called:
        endings.finish(session, [endings.cancelled(job_id)])
        return Cancellation.DONE
    session.execute(_ASK, {"job_id": job_id})
    if job.batch_id is not None:
        left(session, [job.batch_id])
    return Cancellation.ASKED


def left(session: Session, batch_ids: Collection[UUID]) -> None:
    """Notes that jobs have left these batches, or will take no answer from them."""
    if batch_ids:
        session.execute(_LEFT, {"batch_ids": list(batch_ids)})


def cancel_due(works: Works) -> None:
    """Asks the providers to stop what nobody waits for. What is finished there is delivered."""
    with transaction(works.engine) as session:
        due = session.execute(_CLAIM_DUE).all()
    for batch in due:
        try:
            _look(works, batch.batch_id, batch.overdue, batch.due_at)
        except ProviderError as error:
            # It stays due, and is looked at again.
            log.warning(
                "batch.not_cancelled",
                extra={"batch_id": str(batch.batch_id), "error": type(error).__name__},
            )


def _look(works: Works, batch_id: UUID, overdue: bool, claimed_at: object) -> None:
    with transaction(works.engine) as session:
        batch = read_batch(session, batch_id)
        wanted = session.execute(_WANTED, {"batch_id": batch_id}).scalar_one()
        over = batch.status in (BatchStatus.INGESTING, BatchStatus.DONE)
        if over or (wanted and not overdue):
            session.execute(_DROP, {"batch_id": batch_id, "claimed_at": claimed_at})
            return
    target = target_of(works, batch)
    # What is not at the provider yet is withdrawn before it is sent, or cancelled once it is.
    if target is None or batch.external_id is None:
        return
    target.dialect.cancel_batch(target.credential, batch.external_id)
    with transaction(works.engine) as session:
        session.execute(_ASKED, {"batch_id": batch_id})
    log.info("batch.cancelled", extra={"batch_id": str(batch_id), "overdue": overdue})


def flag_overdue(works: Works) -> None:
    """Has batches cancelled that their provider should have ended long ago, whoever waits.

    What it has not answered then goes back to the queue, or up the ladder.
    """
    patience = (PROVIDER_WINDOW + WINDOW_MARGIN).total_seconds()
    with transaction(works.engine) as session:
        stuck = session.scalars(_FLAG_OVERDUE, {"patience": patience}).all()
    for batch_id in stuck:
        log.error("batch.overdue", extra={"batch_id": str(batch_id), "alert": True})
