"""Submission: a formed provider batch is spooled, uploaded and created at its provider.

    formed → uploading → submitting → submitted

Each arrow is committed before the next call on the network, and nothing is repeated silently:
a creation whose outcome is unknown goes to `in_doubt`, where `doubt` looks for it.
"""

import logging
import random
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from gateway.lanes import endings, isolation, leases, spooling
from gateway.lanes.credentials import refusal, refuses_own_key
from gateway.lanes.endings import Ending
from gateway.lanes.leases import Claim, LeaseLost
from gateway.lanes.records import (
    BatchRecord,
    Target,
    creation_ref,
    read_batch,
    target_of,
)
from gateway.lanes.works import LanePolicy, Works
from gateway.net.retry import delay_seconds
from gateway.providers.dialect import (
    Ambiguous,
    BatchReport,
    Broken,
    ProviderError,
    Rejected,
    Unauthorized,
    Unavailable,
)
from models.session import transaction
from models.states import BatchStatus

log = logging.getLogger(__name__)

FIRST_RETRY_SECONDS = 2.0
RETRY_CAP_SECONDS = 900.0
NO_CREDENTIAL_RETRY_SECONDS = 60.0
CREATION_TURN_SECONDS = 1.0
UNWRITABLE = "This call cannot be written as a line of the provider's batch."
FILE_TRUSTED_REFUSALS = 5
"""After so many refusals an uploaded file is looked for again: it may be what is refused."""

_WITHDRAW = text(
    """
    UPDATE lines SET status = 'withdrawn' FROM jobs
    WHERE lines.batch_id = :batch_id AND lines.status = 'open' AND jobs.id = lines.job_id
      AND (jobs.completed_at IS NOT NULL OR jobs.status = 'cancelling'
           OR jobs.batch_id IS DISTINCT FROM lines.batch_id)
    RETURNING lines.job_id, jobs.completed_at IS NULL AND jobs.status = 'cancelling'
                            AND jobs.batch_id = lines.batch_id AS cancelling
    """
)
_COUNT_OPEN = text("SELECT count(*) FROM lines WHERE batch_id = :batch_id AND status = 'open'")
_PREPARED = text(
    """
    UPDATE provider_batches
    SET status = 'uploading', request_count = :count,
        input_file_id = CASE WHEN request_count = :count THEN input_file_id END
    WHERE id = :batch_id
    """
)
_UPLOADED = text("UPDATE provider_batches SET input_file_id = :file_id WHERE id = :batch_id")
_OTHERS_IN_FLIGHT = text(
    """
    SELECT count(*) FROM provider_batches AS b JOIN lanes ON lanes.id = b.lane_id
    WHERE b.status IN ('submitting', 'in_doubt') AND b.id <> :batch_id
      AND lanes.provider = :provider AND lanes.credential = :credential
    """
)
_INTENT = text(
    """
    UPDATE provider_batches
    SET status = 'submitting', intent_at = now(), intent_ref = :ref, external_id = NULL
    WHERE id = :batch_id
    """
)
_PUT_BACK = text(
    """
    UPDATE provider_batches
    SET status = 'formed', refusals = refusals + :refusals, last_error = :error,
        crashes = CASE WHEN :refusals = 0 THEN crashes ELSE 0 END,
        input_file_id = CASE WHEN refusals + :refusals < :file_trusted THEN input_file_id END,
        due_at = now() + make_interval(secs => :delay)
    WHERE id = :batch_id
    """
)
_IN_DOUBT = text(
    """
    UPDATE provider_batches SET status = 'in_doubt', last_error = :error, due_at = now()
    WHERE id = :batch_id
    """
)
_SUBMITTED = text(
    """
    UPDATE provider_batches
    SET status = 'submitted', external_id = :external_id, provider_status = :provider_status,
        submitted_at = now(), ended_at = NULL, last_error = NULL, crashes = 0,
        due_at = now() + make_interval(secs => :delay)
    WHERE id = :batch_id
    """
)
_SUBMITTED_JOBS = text(
    """
    UPDATE jobs SET status = 'submitted', submitted_at = coalesce(submitted_at, now())
    FROM lines
    WHERE lines.batch_id = :batch_id AND lines.status = 'open' AND jobs.id = lines.job_id
      AND jobs.batch_id = :batch_id AND jobs.status = 'queued'
    """
)
_DONE = text(
    "UPDATE provider_batches SET status = 'done', done_at = now(), last_error = :error "
    "WHERE id = :batch_id"
)
# A job that has left for the standard lane does not end with its batch.
_OPEN_JOBS = text(
    """
    SELECT lines.job_id FROM lines
    JOIN jobs ON jobs.id = lines.job_id AND jobs.batch_id = lines.batch_id
    WHERE lines.batch_id = :batch_id AND lines.status = 'open'
    """
)
_FAIL_LINES = text(
    "UPDATE lines SET status = 'failed' WHERE batch_id = :batch_id AND status = 'open'"
)
_FAIL_SOME_LINES = text(
    """
    UPDATE lines SET status = 'failed'
    WHERE batch_id = :batch_id AND status = 'open' AND job_id = ANY(:job_ids)
    """
)


def submit(works: Works, batch_id: UUID) -> None:
    """Takes a formed batch to its provider, as far as it gets; safe to call at any time."""
    with transaction(works.engine) as session:
        claim = leases.claim(session, batch_id, {BatchStatus.FORMED, BatchStatus.UPLOADING})
    if claim is None:
        return
    try:
        with works.leases.holding(claim):
            _submit(works, claim)
    except LeaseLost:
        log.warning("batch.lease_lost", extra={"batch_id": str(batch_id)})


def _submit(works: Works, claim: Claim) -> None:
    batch = _prepare(works.engine, claim)
    if batch is None or _isolated(works.engine, claim):
        return
    try:
        target = target_of(works, batch)
        if target is None:
            _wait_for_key(works.engine, claim, batch)
            return
        with works.spool(batch.id) as folder:
            spool = folder / "input.jsonl"
            if batch.input_file_id is None:
                unwritable = spooling.write(works.engine, batch, target, spool)
                if unwritable:
                    _fail_unwritable(works.engine, claim, batch, unwritable)
                    return
            file_id = batch.input_file_id or _upload(works.engine, claim, batch, target, spool)
            if not _begin_creation(works.engine, claim, batch, target):
                return
            works.leases.check(claim)
            report = target.dialect.create(
                target.credential,
                target.endpoint,
                creation_ref(batch.id, claim.epoch),
                file_id,
                spool,
            )
    except ProviderError as error:
        _failed(works.engine, claim, batch, error)
    else:
        with transaction(works.engine) as session:
            record_submitted(session, works.policy, claim, report)
        log.info(
            "batch.submitted",
            extra={"batch_id": str(claim.batch_id), "external_id": report.external_id},
        )


def _wait_for_key(engine: Engine, claim: Claim, batch: BatchRecord) -> None:
    message = f"no API key is configured for {batch.provider} ({batch.credential})"
    fields = {"batch_id": str(batch.id), "provider": batch.provider}
    log.error("batch.no_credential", extra=fields)
    with transaction(engine) as session:
        put_back(session, claim, message, NO_CREDENTIAL_RETRY_SECONDS)


def _prepare(engine: Engine, claim: Claim) -> BatchRecord | None:
    """Leaves out the lines of jobs that have ended or left; None if no line is left.

    A file that was uploaded before is kept only if no line has gone since.
    """
    with transaction(engine) as session:
        leases.fence(session, claim)
        withdrawn = session.execute(_WITHDRAW, {"batch_id": claim.batch_id}).all()
        cancelling = [endings.cancelled(row.job_id) for row in withdrawn if row.cancelling]
        endings.finish(session, cancelling)
        count = session.execute(_COUNT_OPEN, {"batch_id": claim.batch_id}).scalar_one()
        if count:
            session.execute(_PREPARED, {"batch_id": claim.batch_id, "count": count})
        else:
            session.execute(_DONE, {"batch_id": claim.batch_id, "error": None})
        batch = read_batch(session, claim.batch_id) if count else None
    if cancelling:
        endings.announce(engine, claim.batch_id)
    return batch


def _isolated(engine: Engine, claim: Claim) -> bool:
    """Whether the batch has killed so many workers that it was divided or failed instead."""
    with transaction(engine) as session:
        ends = isolation.isolate(session, claim)
        endings.finish(session, ends or [])
    if ends:
        endings.announce(engine, claim.batch_id)
    return ends is not None


def _fail_unwritable(engine: Engine, claim: Claim, batch: BatchRecord, jobs: list[UUID]) -> None:
    """Fails the jobs whose calls the provider's format cannot express; the others go on later."""
    with transaction(engine) as session:
        leases.fence(session, claim)
        session.execute(_FAIL_SOME_LINES, {"batch_id": batch.id, "job_ids": jobs})
        _put_back(session, batch.id, "some calls could not be written", 0.0, 0)
        endings.finish(session, [endings.rejected(job_id, UNWRITABLE) for job_id in jobs])
    endings.announce(engine, batch.id)


def _upload(
    engine: Engine, claim: Claim, batch: BatchRecord, target: Target, spool: Path
) -> str | None:
    """The uploaded file's id. An upload that was cut off before it was noted is found by name."""
    file_id = None
    if claim.status is BatchStatus.UPLOADING or batch.refusals:
        file_id = target.dialect.find_upload(target.credential, batch.file_name)
    if file_id is None:
        file_id = target.dialect.upload(target.credential, spool, batch.file_name)
    with transaction(engine) as session:
        leases.fence(session, claim)
        session.execute(_UPLOADED, {"batch_id": batch.id, "file_id": file_id})
    return file_id


def _begin_creation(engine: Engine, claim: Claim, batch: BatchRecord, target: Target) -> bool:
    """Notes the intent to create. False if the batch has to wait for its turn.

    Where a provider keeps no metadata, a creation in doubt can only be told by its time and size,
    so there is never more than one in flight for a credential.
    """
    with transaction(engine) as session:
        leases.fence(session, claim)
        if not target.dialect.keeps_metadata:
            turn = f"create:{batch.provider}:{batch.credential}"
            session.execute(
                text("SELECT pg_advisory_xact_lock(hashtextextended(:turn, 0))"), {"turn": turn}
            )
            others = session.execute(
                _OTHERS_IN_FLIGHT,
                {
                    "batch_id": batch.id,
                    "provider": batch.provider,
                    "credential": batch.credential,
                },
            ).scalar_one()
            if others:
                _put_back(
                    session, batch.id, "waiting for another creation", CREATION_TURN_SECONDS, 0
                )
                return False
        session.execute(_INTENT, {"batch_id": batch.id, "ref": creation_ref(batch.id, claim.epoch)})
    return True


def _failed(engine: Engine, claim: Claim, batch: BatchRecord, error: ProviderError) -> None:
    """What an error on the way means for the batch. Before the intent, nothing is in doubt."""
    log.warning(
        "batch.submission_failed",
        extra={
            "batch_id": str(batch.id),
            "provider": batch.provider,
            "error": type(error).__name__,
            "http_status": error.status,
        },
    )
    is_own = refuses_own_key(batch.credential, error)
    with transaction(engine) as session:
        leases.fence(session, claim)
        creating = read_batch(session, batch.id).status is BatchStatus.SUBMITTING
        match error:
            case Unauthorized() if is_own:
                fail_whole(session, batch.id, refusal(batch.provider, error), endings.forbidden)
            case Ambiguous() | Broken() if creating:
                session.execute(_IN_DOUBT, {"batch_id": batch.id, "error": error.message})
            case Rejected():
                fail_whole(session, batch.id, error.message)
            case _:
                _put_back(session, batch.id, error.message, _delay(batch.refusals, error), 1)
    if isinstance(error, Unauthorized) and not is_own:
        log.error("provider.unauthorized", extra={"provider": batch.provider, "alert": True})
    if isinstance(error, Rejected) or is_own:
        endings.announce(engine, batch.id)


def _delay(refusals: int, error: ProviderError) -> float:
    return delay_seconds(
        refusals,
        retry_after_seconds=error.retry_after_seconds if isinstance(error, Unavailable) else None,
        base_seconds=FIRST_RETRY_SECONDS,
        cap_seconds=RETRY_CAP_SECONDS,
        jitter=random.random(),
    )


def put_back(session: Session, claim: Claim, reason: str, delay: float) -> None:
    """Leaves the batch formed, to be tried again after `delay` seconds."""
    leases.fence(session, claim)
    _put_back(session, claim.batch_id, reason, delay, 0)


def _put_back(session: Session, batch_id: UUID, reason: str, delay: float, refusals: int) -> None:
    session.execute(
        _PUT_BACK,
        {
            "batch_id": batch_id,
            "error": reason,
            "delay": delay,
            "refusals": refusals,
            "file_trusted": FILE_TRUSTED_REFUSALS,
        },
    )


def record_submitted(
    session: Session, policy: LanePolicy, claim: Claim, report: BatchReport
) -> None:
    """The provider has the batch: from here on it is polled."""
    leases.fence(session, claim)
    session.execute(
        _SUBMITTED,
        {
            "batch_id": claim.batch_id,
            "external_id": report.external_id,
            "provider_status": report.status,
            "delay": policy.poll_interval.total_seconds(),
        },
    )
    session.execute(_SUBMITTED_JOBS, {"batch_id": claim.batch_id})


def fail_whole(
    session: Session,
    batch_id: UUID,
    message: str,
    end: Callable[[UUID, str], Ending] = endings.rejected,
) -> None:
    """Ends a batch that the provider refused without naming a line: its jobs fail, uncharged."""
    jobs = session.scalars(_OPEN_JOBS, {"batch_id": batch_id}).all()
    session.execute(_FAIL_LINES, {"batch_id": batch_id})
    endings.finish(session, [end(job_id, message) for job_id in jobs])
    session.execute(_DONE, {"batch_id": batch_id, "error": message})
