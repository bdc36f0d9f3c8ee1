"""Reports: what a provider says of a batch, written down.

Conditional updates only ever move a batch forward, so two pollers do no harm and a status that
goes backwards at the provider is not believed.

No batch is waited for for ever. One that runs beyond its window is cancelled (see `cancellation`);
if its provider does not end it then either, what results it shows are taken in and the rest goes
back.
"""

import logging
from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

import orjson
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from gateway.lanes import doubt, endings, returning, submission
from gateway.lanes.cancellation import PROVIDER_WINDOW, WINDOW_MARGIN
from gateway.lanes.credentials import is_final, refusal
from gateway.lanes.endings import Ending
from gateway.lanes.records import RESULTS_KEPT, BatchRecord
from gateway.providers.dialect import BatchReport, BatchState, LineFault, ProviderError
from models.session import transaction
from models.states import BatchStatus

log = logging.getLogger(__name__)

RESULTS_PATIENCE = timedelta(seconds=120)
"""How long an ended batch may show no result files before they count as missing."""
UNKNOWN_PATIENCE = timedelta(minutes=5)
"""How long a provider may deny a batch that it has created."""
RUNNING_PATIENCE = PROVIDER_WINDOW + 2 * WINDOW_MARGIN
"""How long a provider may go on with a batch. It is cancelled one margin before that."""
QUOTA_RETRY_SECONDS = 60.0
QUOTA_RETRY_CAP_SECONDS = 900.0

_LOCK_POLLED = text(
    """
    SELECT status FROM provider_batches
    WHERE id = :batch_id AND external_id = :external_id AND status IN ('submitted', 'in_progress')
    FOR UPDATE
    """
)
_RUNNING = text(
    "UPDATE provider_batches SET status = 'in_progress', provider_status = :provider_status, "
    "in_progress_at = coalesce(in_progress_at, now()), refusals = 0 WHERE id = :batch_id"
)
_RUNNING_JOBS = text(
    """
    UPDATE jobs SET status = 'in_progress' FROM lines
    WHERE lines.batch_id = :batch_id AND lines.status = 'open' AND jobs.id = lines.job_id
      AND jobs.batch_id = :batch_id AND jobs.status = 'submitted'
    """
)
_ENDED = text(
    "UPDATE provider_batches SET ended_at = coalesce(ended_at, now()), "
    "provider_status = :provider_status WHERE id = :batch_id"
)
_INGESTING = text(
    """
    UPDATE provider_batches
    SET status = 'ingesting', result_files = CAST(:files AS jsonb), due_at = now(), refusals = 0
    WHERE id = :batch_id
    """
)
_OVER_QUOTA = text(
    """
    UPDATE provider_batches
    SET status = 'formed', external_id = NULL, refusals = refusals + 1, last_error = :error,
        due_at = now() + make_interval(secs => least(:cap, :delay * power(2, least(refusals, 20))))
    WHERE id = :batch_id
    """
)
_REQUEUED_JOBS = text(
    """
    UPDATE jobs SET status = 'queued' FROM lines
    WHERE lines.batch_id = :batch_id AND lines.status = 'open' AND jobs.id = lines.job_id
      AND jobs.batch_id = :batch_id AND jobs.status IN ('submitted', 'in_progress')
    """
)
_REFUSED_KEY = text(
    "UPDATE provider_batches SET refusals = refusals + 1, last_error = :error WHERE id = :batch_id"
)
_NAMED_LINES = text(
    """
    UPDATE lines SET status = 'failed'
    FROM (
        SELECT job_id, row_number() OVER (ORDER BY job_id) AS number
        FROM lines WHERE batch_id = :batch_id AND status = 'open'
    ) AS spooled JOIN jobs ON jobs.id = spooled.job_id
    WHERE lines.batch_id = :batch_id AND lines.job_id = spooled.job_id
      AND lines.status = 'open' AND spooled.number = ANY(:numbers)
    RETURNING spooled.number, lines.job_id,
              jobs.batch_id IS NOT DISTINCT FROM lines.batch_id AS is_in
    """
)


def apply_report(engine: Engine, batch: BatchRecord, report: BatchReport | None) -> bool:
    """Writes down what the provider said; True if the batch is to be ingested now."""
    with transaction(engine) as session:
        status = _lock(session, batch)
        if status is None:
            return False
        ingest = False
        changed = False
        if report is None:
            changed = _denied(session, batch)
        elif report.state is BatchState.FAILED:
            changed = _refused(session, batch, report)
        elif report.state is BatchState.ENDED:
            ingest = _ended(session, batch, report)
        elif batch.submitted_for >= RUNNING_PATIENCE:
            ingest = _cut_off(session, batch, report)
        elif report.state is not BatchState.VALIDATING:
            session.execute(_RUNNING, {"batch_id": batch.id, "provider_status": report.status})
            # Said once: a look at a batch that goes on running touches no line.
            if status is BatchStatus.SUBMITTED:
                session.execute(_RUNNING_JOBS, {"batch_id": batch.id})
    if changed:
        endings.announce(engine, batch.id)
    return ingest


def _lock(session: Session, batch: BatchRecord) -> BatchStatus | None:
    """Locks the batch for this transaction; its status, None if it is not polled any more."""
    found = session.execute(
        _LOCK_POLLED, {"batch_id": batch.id, "external_id": batch.external_id}
    ).first()
    return None if found is None else BatchStatus(found.status)


def _ended(session: Session, batch: BatchRecord, report: BatchReport) -> bool:
    session.execute(_ENDED, {"batch_id": batch.id, "provider_status": report.status})
    waited = batch.ended_for >= RESULTS_PATIENCE
    # A batch may say that it has ended a moment before it names its files.
    if not report.result_files and not report.retention_over and not waited:
        return False
    _begin_ingestion(session, batch, report)
    return True


def _begin_ingestion(session: Session, batch: BatchRecord, report: BatchReport) -> None:
    files = orjson.dumps(report.result_files).decode()
    session.execute(_INGESTING, {"batch_id": batch.id, "files": files})


def _cut_off(session: Session, batch: BatchRecord, report: BatchReport) -> bool:
    """The provider did not end the batch in its window, nor when it was told to.

    What it shows is taken in. If that is nothing, what may still come is booked as an orphan's.
    """
    log.error("batch.never_ended", extra={"batch_id": str(batch.id), "alert": True})
    session.execute(_ENDED, {"batch_id": batch.id, "provider_status": report.status})
    _begin_ingestion(session, batch, report)
    if not report.result_files:
        doubt.note_orphans(session, batch.id, [report.external_id])
    return True


def _denied(session: Session, batch: BatchRecord) -> bool:
    """The provider does not know the batch: too early to say, or it has lost it."""
    if batch.submitted_for < UNKNOWN_PATIENCE:
        return False
    log.error("batch.lost_at_provider", extra={"batch_id": str(batch.id), "alert": True})
    _return_whole(session, batch, "The provider lost the batch.")
    return True


def _return_whole(session: Session, batch: BatchRecord, reason: str) -> None:
    """Ends the batch without results; `reason` is told to jobs that had their three rounds."""
    ends = returning.return_open_lines(session, batch.id, reason)
    returning.close(session, batch.id, reason)
    endings.finish(session, ends)


def _refused(session: Session, batch: BatchRecord, report: BatchReport) -> bool:
    """The provider refused the batch as a whole; nothing of it ran."""
    log.warning(
        "batch.refused",
        extra={
            "batch_id": str(batch.id),
            "codes": sorted({fault.code or "" for fault in report.faults}),
        },
    )
    if report.over_enqueued_tokens:
        session.execute(_REQUEUED_JOBS, {"batch_id": batch.id})
        session.execute(
            _OVER_QUOTA,
            {
                "batch_id": batch.id,
                "error": "over the provider's enqueued-token limit",
                "delay": QUOTA_RETRY_SECONDS,
                "cap": QUOTA_RETRY_CAP_SECONDS,
            },
        )
        return False
    ends = _fail_named(session, batch.id, report.faults)
    if not ends:
        message = report.faults[0].message if report.faults else "The provider refused the batch."
        submission.fail_whole(session, batch.id, message)
        return True
    ends += returning.requeue_untried(session, batch.id)
    returning.close(session, batch.id, "the provider refused some lines")
    endings.finish(session, ends)
    return True


def _fail_named(session: Session, batch_id: UUID, faults: Sequence[LineFault]) -> list[Ending]:
    """Closes the named lines; how their jobs end. The file's lines are the open ones, by job.

    A job that has left for the standard lane does not end here.
    """
    messages = {fault.line: fault.message for fault in faults if fault.line is not None}
    rows = session.execute(_NAMED_LINES, {"batch_id": batch_id, "numbers": list(messages)})
    return [endings.rejected(row.job_id, messages[row.number]) for row in rows if row.is_in]


def note_refused_key(engine: Engine, batch: BatchRecord, error: ProviderError) -> None:
    """The batch cannot be looked at with its customer's own key; at last its jobs fail."""
    message = refusal(batch.provider, error)
    ends = is_final(error, batch.refusals)
    with transaction(engine) as session:
        if not _lock(session, batch):
            return
        if ends:
            submission.fail_whole(session, batch.id, message, endings.forbidden)
        else:
            session.execute(_REFUSED_KEY, {"batch_id": batch.id, "error": message})
    if ends:
        endings.announce(engine, batch.id)


def forget_if_old(engine: Engine, batch: BatchRecord) -> None:
    """A batch that its provider does not tell us of: in the end there is nothing left to tell."""
    if batch.submitted_for < RESULTS_KEPT:
        return
    with transaction(engine) as session:
        if not _lock(session, batch):
            return
        log.error("batch.not_told_of", extra={"batch_id": str(batch.id), "alert": True})
        _return_whole(session, batch, "The provider did not say what became of the batch.")
    endings.announce(engine, batch.id)
