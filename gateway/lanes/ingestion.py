"""Ingestion: the result files of an ended batch become results, charges and events.

Files are streamed to disk, read back line by line and worked out a chunk ahead of what is being
written, for PostgreSQL has a core of its own to write on. A chunk of lines is one transaction, and
only lines that are still open count in it: a chunk may be repeated, a file read twice, the work
killed at any byte, and nothing happens twice.
"""

import logging
from collections import defaultdict
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from gateway.billing import ledger
from gateway.billing.pricing import PriceBook
from gateway.lanes import endings, isolation, leases, returning, submission
from gateway.lanes.answers import Answer, Chunk, work_out
from gateway.lanes.credentials import is_final, refusal, refuses_own_key
from gateway.lanes.endings import Ending, Locked
from gateway.lanes.leases import Claim, LeaseLost
from gateway.lanes.records import (
    RESULTS_KEPT,
    BatchRecord,
    Target,
    read_batch,
    target_of,
)
from gateway.lanes.results import ahead, read_chunks
from gateway.lanes.works import Works, backoff_seconds
from gateway.providers.dialect import (
    Broken,
    LineOutcome,
    ProviderError,
    Rejected,
)
from models.bulk import fetch_rows, run, uuid_array
from models.session import transaction
from models.states import BatchStatus, LineState

log = logging.getLogger(__name__)

DOWNLOAD_RETRY_SECONDS = 10.0
DOWNLOAD_RETRY_CAP_SECONDS = 900.0
DENIED_PATIENCE = timedelta(minutes=10)
"""How long a file is asked for that the provider denies: it may only not know of it yet."""
BROKEN_PATIENCE = timedelta(hours=6)
"""How long a file that never arrives whole is asked for."""
REASONS = {
    LineOutcome.RETRYABLE: "The provider failed to answer this call in three rounds.",
    LineOutcome.EXPIRED: "The provider did not get to this call in three rounds.",
    LineOutcome.CANCELLED: "The provider cancelled this call in three rounds.",
}
MISSING = "The provider left this call out of its results in three rounds."


class _OpenLine(NamedTuple):
    """A line that waits for its result; a job that `has_left` is in the standard lane, or was."""

    job: Locked
    has_left: bool
    answer: Answer


_LOCK_OPEN = f"""
    SELECT jobs.batch_id IS DISTINCT FROM lines.batch_id, {endings.LOCKED}
    FROM lines JOIN jobs ON jobs.id = lines.job_id JOIN lanes ON lanes.id = jobs.lane_id
    WHERE lines.batch_id = %(batch_id)s AND lines.job_id = ANY(%(job_ids)s::uuid[])
      AND lines.status = 'open'
    ORDER BY jobs.id FOR UPDATE OF jobs
"""
_CLOSE_LINES = """
    UPDATE lines SET status = %(status)s
    WHERE batch_id = %(batch_id)s AND job_id = ANY(%(job_ids)s::uuid[]) AND status = 'open'
"""
_COUNT_OPEN = text("SELECT count(*) FROM lines WHERE batch_id = :batch_id AND status = 'open'")
_RETRY = text(
    "UPDATE provider_batches SET due_at = now() + make_interval(secs => :delay), "
    "refusals = CASE WHEN :refused THEN refusals + 1 ELSE 0 END, last_error = :error "
    "WHERE id = :batch_id"
)


def ingest(works: Works, prices: PriceBook, batch_id: UUID) -> bool:
    """Takes in an ended batch; True once it is done. Safe to call at any time."""
    with transaction(works.engine) as session:
        claim = leases.claim(session, batch_id, {BatchStatus.INGESTING})
        if claim is None:
            return False
        batch = read_batch(session, batch_id)
    try:
        with works.leases.holding(claim):
            if claim.crashes >= isolation.CRASHES_AT_RESULTS:
                log.error("batch.kills_workers", extra={"batch_id": str(batch_id), "alert": True})
                return _close(works, claim, isolation.FATAL)
            return _ingest(works, prices, claim, batch)
    except LeaseLost:
        log.warning("batch.lease_lost", extra={"batch_id": str(batch_id)})
        return False


def _ingest(works: Works, prices: PriceBook, claim: Claim, batch: BatchRecord) -> bool:
    try:
        target = target_of(works, batch)
        if target is None:
            return _wait_for_key(works, claim, batch)
        with works.spool(batch.id) as folder:
            _take_in(works, prices, claim, batch, target, folder)
            if _open_count(works, batch.id):
                # What is missing may only have been missing from the first download.
                _take_in(works, prices, claim, batch, target, folder)
    except ProviderError as error:
        log.warning(
            "batch.download_failed",
            extra={"batch_id": str(batch.id), "error": type(error).__name__},
        )
        is_refused = refuses_own_key(batch.credential, error)
        if is_refused and is_final(error, batch.refusals):
            return _forbid(works, claim, batch, error)
        _try_again(works, claim, batch, error.message, refused=is_refused)
        return False
    return _close(works, claim, MISSING)


def _wait_for_key(works: Works, claim: Claim, batch: BatchRecord) -> bool:
    if batch.ended_for >= RESULTS_KEPT:
        log.error("batch.results_gone", extra={"batch_id": str(batch.id), "alert": True})
        return _close(works, claim, MISSING)
    _try_again(works, claim, batch, f"no API key is configured for {batch.provider}")
    return False


def _forbid(works: Works, claim: Claim, batch: BatchRecord, error: ProviderError) -> bool:
    """The results lie at a provider that does not accept the customer's own key any more."""
    message = refusal(batch.provider, error)
    with transaction(works.engine) as session:
        leases.fence(session, claim)
        submission.fail_whole(session, batch.id, message, endings.forbidden)
    endings.announce(works.engine, batch.id)
    return True


def _close(works: Works, claim: Claim, reason: str) -> bool:
    """Ends the batch; the lines without an answer so far are returned for this reason."""
    with transaction(works.engine) as session:
        leases.fence(session, claim)
        ends = returning.return_open_lines(session, claim.batch_id, reason)
        returning.close(session, claim.batch_id)
        endings.finish(session, ends)
    endings.announce(works.engine, claim.batch_id)
    log.info("batch.done", extra={"batch_id": str(claim.batch_id)})
    return True


def _open_count(works: Works, batch_id: UUID) -> int:
    with transaction(works.engine) as session:
        return int(session.execute(_COUNT_OPEN, {"batch_id": batch_id}).scalar_one())


def _try_again(
    works: Works, claim: Claim, batch: BatchRecord, error: str, *, refused: bool = False
) -> None:
    delay = backoff_seconds(
        batch.ended_for, shortest=DOWNLOAD_RETRY_SECONDS, longest=DOWNLOAD_RETRY_CAP_SECONDS
    )
    with transaction(works.engine) as session:
        leases.fence(session, claim)
        session.execute(
            _RETRY,
            {"batch_id": claim.batch_id, "delay": delay, "error": error, "refused": refused},
        )


def _take_in(
    works: Works, prices: PriceBook, claim: Claim, batch: BatchRecord, target: Target, folder: Path
) -> None:
    """One pass over all result files."""
    for number, name in enumerate(batch.result_files or ()):
        path = folder / f"results-{number}.jsonl"
        try:
            target.dialect.download(target.credential, name, path)
        except ProviderError as error:
            if not _is_lost(error, batch):
                raise
            # What was in the file counts as missing.
            log.error("batch.results_gone", extra={"batch_id": str(batch.id), "alert": True})
            continue
        chunks = read_chunks(path, target.dialect.parse_line)
        for chunk in ahead(work_out(works.engine, prices, batch, lines) for lines in chunks):
            _settle_chunk(works, claim, chunk)
            endings.announce(works.engine, batch.id)


def _is_lost(error: ProviderError, batch: BatchRecord) -> bool:
    """Whether a download that failed is not worth another try."""
    patience = RESULTS_KEPT
    if isinstance(error, Rejected):
        patience = DENIED_PATIENCE
    elif isinstance(error, Broken):
        patience = BROKEN_PATIENCE
    return batch.ended_for >= patience


def _settle_chunk(works: Works, claim: Claim, chunk: Chunk) -> None:
    """Settles the lines of one chunk that are still open.

    1. Lines that were settled before are left out.
    2. A line whose job lives ends it, or sends it back to the queue. To a job that has left for
       the standard lane only an answer matters: it came first, at half the price.
    3. A line that succeeded after its job had ended is late: the house pays for it.
    """
    batch_id = claim.batch_id
    with transaction(works.engine) as session:
        leases.fence(session, claim)
        rows = fetch_rows(session, _LOCK_OPEN, {"batch_id": batch_id, "job_ids": chunk.job_ids})
        lines = [
            _OpenLine(Locked._make(job), has_left, answer)
            for has_left, *job in rows
            if (answer := chunk.answers.get(job[0]))
        ]
        _settle_lines(session, batch_id, lines)


def _settle_lines(session: Session, batch_id: UUID, lines: Sequence[_OpenLine]) -> None:
    ends: list[Ending] = []
    closed: dict[LineState, list[UUID]] = defaultdict(list)
    back: dict[UUID, str] = {}
    late_cost = 0
    for job, has_left, answer in lines:
        if answer.ending is None:
            back[job.id] = REASONS[answer.outcome]
        elif answer.outcome is LineOutcome.REJECTED:
            if not has_left:
                ends.append(answer.ending)
            closed[LineState.FAILED].append(job.id)
        elif job.is_live:
            ends.append(answer.ending)
            closed[LineState.SUCCEEDED].append(job.id)
        else:
            late_cost += answer.cost_nanos
            closed[LineState.LATE].append(job.id)
    for status, job_ids in closed.items():
        parameters = {"batch_id": batch_id, "status": status.value, "job_ids": uuid_array(job_ids)}
        run(session, _CLOSE_LINES, parameters)
    ledger.book_unbilled_cost(session, batch_id, late_cost, "results after their jobs had ended")
    ends += returning.return_lines(session, batch_id, back)
    endings.finish(session, ends, [line.job for line in lines])
