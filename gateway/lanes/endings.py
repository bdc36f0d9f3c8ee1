"""How a job ends: its state, its result, its money and its event, all in one transaction.

Every end of every job goes through `finish`, whoever decided it: a result line, a deadline, a
cancellation, a refused batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

import orjson
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from gateway.billing import ledger
from gateway.billing.ledger import Charge
from gateway.webhooks import events
from gateway.webhooks.events import JobEvent
from models.bulk import copy_rows
from models.jobs import JobResult
from models.session import transaction
from models.states import JobStatus

CHANNEL = "jobs_done"
"""NOTIFY channel; the payload is the provider batch's id, or empty."""


@dataclass(frozen=True, slots=True)
class Ending:
    """How one job ends. `body` is the completion, or the content of `error`, as JSON bytes.

    Without a charge the job's hold is released whole.
    """

    job_id: UUID
    status: JobStatus
    http_status: int
    body: bytes
    charge: Charge | None = None


def failure(
    job_id: UUID, http_status: int, error_type: str, message: str, status: JobStatus
) -> Ending:
    """An ending without an answer, and so without a charge."""
    error = {"type": error_type, "message": message, "code": http_status}
    return Ending(job_id, status, http_status, orjson.dumps(error))


def rejected(job_id: UUID, message: str) -> Ending:
    """The provider refused the call's body."""
    return failure(job_id, 400, "bad_request", message, JobStatus.FAILED)


def exhausted(job_id: UUID, message: str) -> Ending:
    """The provider failed too often."""
    return failure(job_id, 502, "upstream_error", message, JobStatus.FAILED)


def cancelled(job_id: UUID) -> Ending:
    """The caller wanted it no longer."""
    return failure(job_id, 409, "conflict", "The job was cancelled.", JobStatus.CANCELLED)


def expired(job_id: UUID) -> Ending:
    """The deadline passed first."""
    message = "The job's deadline passed before it was done."
    return failure(job_id, 504, "upstream_timeout", message, JobStatus.EXPIRED)


_LOCK_LIVE = text(
    """
    SELECT id, account_id, webhook FROM jobs
    WHERE id = ANY(:job_ids) AND completed_at IS NULL ORDER BY id FOR UPDATE
    """
)
_END = text("UPDATE jobs SET status = :status, completed_at = now() WHERE id = ANY(:job_ids)")


def finish(session: Session, endings: Sequence[Ending]) -> set[UUID]:
    """Ends those of the jobs that are still live; their ids.

    A job that has ended already keeps its end: nothing is written for it and nothing charged.
    Once a transaction, and its last step: it locks jobs and then balances, each in one order.
    """
    wanted = {ending.job_id: ending for ending in endings}
    if not wanted:
        return set()
    rows = session.execute(_LOCK_LIVE, {"job_ids": list(wanted)}).all()
    live = [(wanted[row.id], row) for row in rows]
    if not live:
        return set()
    for status in {ending.status for ending, _ in live}:
        ended = [ending.job_id for ending, _ in live if ending.status is status]
        session.execute(_END, {"status": status.value, "job_ids": ended})
    copy_rows(
        session,
        JobResult,
        ("job_id", "http_status", "body"),
        ((ending.job_id, ending.http_status, ending.body) for ending, _ in live),
    )
    events.record(
        session,
        [
            JobEvent(row.account_id, row.id, f"job.{ending.status}", row.webhook)
            for ending, row in live
            if row.webhook is not None
        ],
    )
    # Last, for this locks balances, which are what everybody wants.
    ledger.resolve(
        session,
        [ending.charge for ending, _ in live if ending.charge is not None],
        [ending.job_id for ending, _ in live if ending.charge is None],
    )
    return {row.id for row in rows}


def announce(engine: Engine, batch_id: UUID | None = None) -> None:
    """Wakes whoever waits for a job, in a transaction of its own.

    NOTIFY takes a lock that serialises the commits of all who notify, so it never rides along
    with a transaction that does real work.
    """
    with transaction(engine) as session:
        notify(session, batch_id)


def notify(session: Session, batch_id: UUID | None = None) -> None:
    """The notification itself; see `announce`."""
    session.execute(
        text("SELECT pg_notify(:channel, :payload)"),
        {"channel": CHANNEL, "payload": "" if batch_id is None else str(batch_id)},
    )
