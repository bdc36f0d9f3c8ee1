"""Ingestion: the result files of an ended batch become results, charges and events.

Files are streamed to disk and read back line by line. A chunk of lines is one transaction, and
only lines that are still open count in it: a chunk may be repeated, a file read twice, the work
killed at any byte, and nothing happens twice.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import orjson
from sqlalchemy import text
from sqlalchemy.orm import Session

from gateway.billing import ledger
from gateway.billing.ledger import Charge
from gateway.billing.pricing import PriceBook, amounts
from gateway.catalogue.rates import PriceSnapshot
from gateway.catalogue.usage import Usage
from gateway.lanes import endings, leases, returning
from gateway.lanes.endings import Ending
from gateway.lanes.leases import Claim, LeaseLost
from gateway.lanes.records import (
    BatchRecord,
    Target,
    parse_custom_id,
    read_batch,
    target_of,
)
from gateway.lanes.results import read_chunks
from gateway.lanes.works import Works, backoff_seconds
from gateway.providers.dialect import (
    Broken,
    LineOutcome,
    LineResult,
    ProviderError,
    Rejected,
)
from models import ids
from models.ids import Prefix
from models.session import transaction
from models.states import BatchStatus, JobStatus

log = logging.getLogger(__name__)

DOWNLOAD_RETRY_SECONDS = 10.0
DOWNLOAD_RETRY_CAP_SECONDS = 900.0
BROKEN_PATIENCE = timedelta(hours=6)
"""How long a file that never arrives whole is asked for."""
RESULTS_KEPT = timedelta(days=30)
"""After this no provider has the results of a batch any more."""
LARGEST_COUNT = 2**31 - 1
"""Tokens that a settlement's column can hold, and far more than any call can use."""
REASONS = {
    LineOutcome.RETRYABLE: "The provider failed to answer this call in three rounds.",
    LineOutcome.EXPIRED: "The provider did not get to this call in three rounds.",
    LineOutcome.CANCELLED: "The provider cancelled this call in three rounds.",
}
MISSING = "The provider left this call out of its results in three rounds."


@dataclass(frozen=True, slots=True)
class _OpenLine:
    """A line that waits for its result, and what its job's charge needs."""

    job_id: UUID
    model: str
    price_id: str
    markup_bps: int
    live: bool


_OPEN_LINES = text(
    """
    SELECT lines.job_id, lines.round, jobs.model, jobs.price_id, jobs.markup_bps,
           jobs.completed_at IS NULL AS live
    FROM lines JOIN jobs ON jobs.id = lines.job_id
    WHERE lines.batch_id = :batch_id AND lines.job_id = ANY(:job_ids) AND lines.status = 'open'
    ORDER BY jobs.id FOR UPDATE OF jobs
    """
)
_CLOSE_LINES = text(
    """
    UPDATE lines SET status = :status
    WHERE batch_id = :batch_id AND job_id = ANY(:job_ids) AND status = 'open'
    """
)
_COUNT_OPEN = text("SELECT count(*) FROM lines WHERE batch_id = :batch_id AND status = 'open'")
_RETRY = text(
    "UPDATE provider_batches SET due_at = now() + make_interval(secs => :delay), "
    "last_error = :error WHERE id = :batch_id"
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
            return _ingest(works, prices, claim, batch)
    except LeaseLost:
        log.warning("batch.lease_lost", extra={"batch_id": str(batch_id)})
        return False


def _ingest(works: Works, prices: PriceBook, claim: Claim, batch: BatchRecord) -> bool:
    target = target_of(works, batch)
    if target is None:
        _try_again(works, claim, batch, f"no API key is configured for {batch.provider}")
        return False
    try:
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
        _try_again(works, claim, batch, error.message)
        return False
    with transaction(works.engine) as session:
        leases.fence(session, claim)
        ends = returning.return_open_lines(session, batch.id, MISSING)
        returning.close(session, batch.id)
        endings.finish(session, ends)
    endings.announce(works.engine, batch.id)
    log.info("batch.done", extra={"batch_id": str(batch.id), "lines": batch.request_count})
    return True


def _open_count(works: Works, batch_id: UUID) -> int:
    with transaction(works.engine) as session:
        return int(session.execute(_COUNT_OPEN, {"batch_id": batch_id}).scalar_one())


def _try_again(works: Works, claim: Claim, batch: BatchRecord, error: str) -> None:
    delay = backoff_seconds(
        batch.ended_for, shortest=DOWNLOAD_RETRY_SECONDS, longest=DOWNLOAD_RETRY_CAP_SECONDS
    )
    with transaction(works.engine) as session:
        leases.fence(session, claim)
        session.execute(_RETRY, {"batch_id": claim.batch_id, "delay": delay, "error": error})


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
        for chunk in read_chunks(path, target.dialect.parse_line):
            _settle_chunk(works, prices, claim, batch, chunk)
            endings.announce(works.engine, batch.id)


def _is_lost(error: ProviderError, batch: BatchRecord) -> bool:
    """Whether a download that failed is not worth another try."""
    if isinstance(error, Rejected):
        return True
    patience = BROKEN_PATIENCE if isinstance(error, Broken) else RESULTS_KEPT
    return batch.ended_for >= patience


def _settle_chunk(
    works: Works, prices: PriceBook, claim: Claim, batch: BatchRecord, chunk: Sequence[LineResult]
) -> None:
    """Settles the lines of one chunk that are still open.

    1. Of an id that comes twice the first counts; ids that are not of this batch are left out.
    2. A line whose job lives ends it, or sends it back to the queue.
    3. A line that succeeded after its job had ended is late: the house pays for it.
    """
    results: dict[tuple[UUID, int], LineResult] = {}
    for result in chunk:
        named = parse_custom_id(result.custom_id)
        if named is not None:
            results.setdefault(named, result)
    with transaction(works.engine) as session:
        leases.fence(session, claim)
        rows = session.execute(
            _OPEN_LINES, {"batch_id": batch.id, "job_ids": list({job_id for job_id, _ in results})}
        ).all()
        lines = [
            (
                _OpenLine(row.job_id, row.model, row.price_id, row.markup_bps, row.live),
                results[row.job_id, row.round],
            )
            for row in rows
            if (row.job_id, row.round) in results
        ]
        foreign = len(chunk) - len(lines)
        if foreign:
            log.info("batch.lines_passed_over", extra={"batch_id": str(batch.id), "lines": foreign})
        _settle_lines(session, prices, batch, lines)


def _settle_lines(
    session: Session,
    prices: PriceBook,
    batch: BatchRecord,
    lines: Sequence[tuple[_OpenLine, LineResult]],
) -> None:
    snapshots = prices.load(session, {line.price_id for line, _ in lines})
    ends: list[Ending] = []
    closed: dict[UUID, str] = {}
    back: dict[UUID, str] = {}
    late_cost = 0
    for line, result in lines:
        if result.outcome is LineOutcome.SUCCEEDED:
            charge = _charge(batch, line, result, snapshots[line.price_id])
            if line.live:
                ends.append(_completed(line, result, charge))
            elif charge.amounts is not None:
                late_cost += charge.amounts.cost_nanos
            closed[line.job_id] = "succeeded" if line.live else "late"
        elif result.outcome is LineOutcome.REJECTED:
            ends.append(endings.rejected(line.job_id, result.error or "The provider refused it."))
            closed[line.job_id] = "failed"
        else:
            back[line.job_id] = REASONS[result.outcome]
    for status in set(closed.values()):
        job_ids = [job_id for job_id, line_status in closed.items() if line_status == status]
        session.execute(_CLOSE_LINES, {"batch_id": batch.id, "status": status, "job_ids": job_ids})
    ledger.book_unbilled_cost(session, batch.id, late_cost, "results after their jobs had ended")
    ends += returning.return_lines(session, batch.id, back)
    endings.finish(session, ends)


def _charge(
    batch: BatchRecord, line: _OpenLine, result: LineResult, snapshot: PriceSnapshot
) -> Charge:
    """What an answer costs; without amounts if its usage was not told or cannot be true."""
    usage = result.usage
    if usage is not None and max(usage.input_total, usage.output, usage.reasoning) > LARGEST_COUNT:
        usage = None
    return Charge(
        hold_id=line.job_id,
        lane="batch",
        provider=batch.provider,
        model=batch.model,
        price_id=line.price_id,
        markup_bps=line.markup_bps,
        usage=usage or Usage(),
        amounts=None if usage is None else amounts(usage, snapshot, "batch", line.markup_bps),
        batch_id=batch.id,
    )


def _completed(line: _OpenLine, result: LineResult, charge: Charge) -> Ending:
    assert result.body is not None
    body = dict(result.body)
    if "choices" in body:
        body["id"] = ids.show(Prefix.COMPLETION, line.job_id)
    body["model"] = line.model
    return Ending(line.job_id, JobStatus.COMPLETED, 200, orjson.dumps(body), charge)
