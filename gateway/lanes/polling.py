"""Polling: what has become of the batches at their providers.

A due batch is claimed by pushing its `due_at` on, longer the older it is. What is learned is
written by conditional updates that only ever move a batch forward, so two pollers do no harm
and a status that goes backwards at the provider is not believed.
"""

import logging
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from itertools import islice
from uuid import UUID

import orjson
from sqlalchemy import text
from sqlalchemy.orm import Session

from gateway.lanes import doubt, endings, returning, submission
from gateway.lanes.endings import Ending
from gateway.lanes.records import BatchRecord, Target, batch_of_ref, read_batches, target_of
from gateway.lanes.works import Works
from gateway.providers.dialect import BatchReport, BatchState, LineFault, ProviderError
from models.session import transaction
from models.states import BatchStatus

log = logging.getLogger(__name__)

AT_ONCE = 200
LIST_FROM = 3
"""From this many due batches on, one listing is cheaper than asking for each."""
LIST_AT_MOST = 500
FAILURES_AT_MOST = 3
"""After so many looks in a row that failed, the account is left alone until the next time."""
RESULTS_PATIENCE = timedelta(seconds=120)
"""How long an ended batch may show no result files before they count as missing."""
UNKNOWN_PATIENCE = timedelta(minutes=5)
"""How long a provider may deny a batch that it has created."""
QUOTA_RETRY_SECONDS = 60.0
QUOTA_RETRY_CAP_SECONDS = 900.0

_CLAIM_DUE = text(
    f"""
    UPDATE provider_batches SET due_at = now() + make_interval(
        secs => (0.9 + random() * 0.2) * greatest(:poll, least(
            10 * :poll, extract(epoch FROM now() - submitted_at)::float * 0.02)))
    WHERE id IN (
        SELECT id FROM provider_batches
        WHERE status IN ('submitted', 'in_progress') AND due_at <= now()
        ORDER BY due_at LIMIT {AT_ONCE} FOR UPDATE SKIP LOCKED
    )
    RETURNING id
    """
)
# One that is done without ever having been submitted stands by no batch at the provider.
_KNOWN_BATCHES = text(
    "SELECT id, coalesce(external_id, CASE status WHEN 'done' THEN '' END) AS external_id "
    "FROM provider_batches WHERE id = ANY(:batch_ids)"
)
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
    SET status = 'ingesting', result_files = CAST(:files AS jsonb), due_at = now()
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


def poll_due(works: Works) -> list[UUID]:
    """Looks at every due batch; those that have ended and are to be ingested now."""
    with transaction(works.engine) as session:
        due = session.scalars(
            _CLAIM_DUE, {"poll": works.policy.poll_interval.total_seconds()}
        ).all()
        batches = read_batches(session, due)
    by_account: Mapping[tuple[str, str], list[BatchRecord]] = defaultdict(list)
    for batch in batches:
        by_account[batch.provider, batch.credential].append(batch)
    return [
        batch_id for together in by_account.values() for batch_id in _poll_together(works, together)
    ]


def _poll_together(works: Works, batches: Sequence[BatchRecord]) -> Iterator[UUID]:
    """Polls batches of one credential, by one listing where they are many."""
    target = target_of(works, batches[0])
    if target is None:
        return
    listed: dict[str, BatchReport] = {}
    if len(batches) >= LIST_FROM:
        listed = _list(works, target, batches)
    failures = 0
    for batch in batches:
        assert batch.external_id is not None
        try:
            report = listed.get(batch.external_id) or target.dialect.get_batch(
                target.credential, batch.external_id
            )
        except ProviderError as error:
            log.warning(
                "batch.poll_failed",
                extra={"batch_id": str(batch.id), "error": type(error).__name__},
            )
            failures += 1
            # A provider that is away would keep the batches of the others waiting.
            if failures == FAILURES_AT_MOST:
                return
            continue
        failures = 0
        if apply_report(works, batch, report):
            yield batch.id


def _list(works: Works, target: Target, batches: Sequence[BatchRecord]) -> dict[str, BatchReport]:
    since = min(batch.intent_at or batch.created_at for batch in batches) - doubt.CLOCK_SKEW
    try:
        reports = list(islice(target.dialect.list_batches(target.credential, since), LIST_AT_MOST))
    except ProviderError as error:
        log.warning("batches.list_failed", extra={"error": type(error).__name__})
        return {}
    note_strays(works, reports)
    return {report.external_id: report for report in reports}


def note_strays(works: Works, reports: Sequence[BatchReport]) -> None:
    """Finds, among listed batches, those that we made twice."""
    named = {ref for report in reports if report.batch_ref and (ref := _named(report))}
    if not named:
        return
    with transaction(works.engine) as session:
        known = {
            row.id: row.external_id
            for row in session.execute(_KNOWN_BATCHES, {"batch_ids": list(named)})
        }
        for batch_id, external_ids in doubt.orphans_among(reports, known).items():
            doubt.note_orphans(session, batch_id, external_ids)


def _named(report: BatchReport) -> UUID | None:
    return batch_of_ref(report.batch_ref or "")


def apply_report(works: Works, batch: BatchRecord, report: BatchReport | None) -> bool:
    """Writes down what the provider said; True if the batch is to be ingested now."""
    with transaction(works.engine) as session:
        polled = session.execute(
            _LOCK_POLLED, {"batch_id": batch.id, "external_id": batch.external_id}
        ).first()
        if polled is None:
            return False
        ingest = False
        changed = False
        if report is None:
            changed = _denied(session, batch)
        elif report.state is BatchState.FAILED:
            changed = _refused(session, batch, report)
        elif report.state is BatchState.ENDED:
            ingest = _ended(session, batch, report)
        elif report.state is not BatchState.VALIDATING:
            session.execute(_RUNNING, {"batch_id": batch.id, "provider_status": report.status})
            # Said once: a look at a batch that goes on running touches no line.
            if polled.status == BatchStatus.SUBMITTED:
                session.execute(_RUNNING_JOBS, {"batch_id": batch.id})
    if changed:
        endings.announce(works.engine, batch.id)
    return ingest


def _ended(session: Session, batch: BatchRecord, report: BatchReport) -> bool:
    session.execute(_ENDED, {"batch_id": batch.id, "provider_status": report.status})
    waited = batch.ended_for >= RESULTS_PATIENCE
    # A batch may say that it has ended a moment before it names its files.
    if not report.result_files and not report.retention_over and not waited:
        return False
    files = orjson.dumps(report.result_files).decode()
    session.execute(_INGESTING, {"batch_id": batch.id, "files": files})
    return True


def _denied(session: Session, batch: BatchRecord) -> bool:
    """The provider does not know the batch: too early to say, or it has lost it."""
    assert batch.submitted_at is not None
    if batch.now - batch.submitted_at < UNKNOWN_PATIENCE:
        return False
    log.error("batch.lost_at_provider", extra={"batch_id": str(batch.id), "alert": True})
    ends = returning.return_open_lines(session, batch.id, "The provider lost the batch.")
    returning.close(session, batch.id, "the provider does not know this batch")
    endings.finish(session, ends)
    return True


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


def _fail_named(session: Session, batch_id: UUID, faults: Sequence[LineFault]) -> list[Ending]:
    """Closes the named lines; how their jobs end. The file's lines are the open ones, by job.

    A job that has left for the standard lane does not end here.
    """
    messages = {fault.line: fault.message for fault in faults if fault.line is not None}
    rows = session.execute(_NAMED_LINES, {"batch_id": batch_id, "numbers": list(messages)})
    return [endings.rejected(row.job_id, messages[row.number]) for row in rows if row.is_in]
