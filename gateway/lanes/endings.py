"""How a job ends: its state, its result, its money and its event, all in one transaction.

Every end of every job goes through `finish`, whoever decided it: a result line, a deadline, a
cancellation, a refused batch.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

import orjson
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from gateway.billing import ledger
from gateway.billing.ledger import Charge
from gateway.catalogue.usage import Usage
from gateway.webhooks import events
from gateway.webhooks.events import JobEvent
from models import ids
from models.bulk import copy_rows, fetch_rows, run, uuid_array
from models.ids import Prefix
from models.jobs import JobResult
from models.requests import REQUEST_LOG_COLUMNS, RequestLog
from models.session import transaction
from models.states import JobStatus

CHANNEL = "jobs_done"
"""NOTIFY channel; the payload is the provider batch's id, or empty."""


_NOTHING_USED = Usage()


class Ending(NamedTuple):
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


def completed(job_id: UUID, model: str, body: Mapping[str, Any], charge: Charge) -> Ending:
    """The provider answered, and the caller gets that under our id and its own model's name."""
    given = {**body, "model": model}
    if "choices" in given:
        given["id"] = ids.show(Prefix.COMPLETION, job_id)
    return Ending(job_id, JobStatus.COMPLETED, 200, orjson.dumps(given), charge)


def rejected(job_id: UUID, message: str) -> Ending:
    """The provider refused the call's body."""
    return failure(job_id, 400, "bad_request", message, JobStatus.FAILED)


def forbidden(job_id: UUID, message: str) -> Ending:
    """The customer's own key is gone, or its provider does not accept it."""
    return failure(job_id, 403, "forbidden", message, JobStatus.FAILED)


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


LOCKED = """
    jobs.id, jobs.account_id, jobs.webhook, jobs.key_id, jobs.endpoint, jobs.round,
    jobs.created_at, now(), lanes.provider, lanes.model, jobs.source, jobs.completed_at IS NULL,
    (SELECT attempts FROM standard_runs WHERE standard_runs.id = jobs.id)
"""
"""The columns of `Locked`, from jobs and their lanes."""
# Two statements, each by primary key: how many of the ids are live is nothing that the planner
# could know, and joining what it takes for one row it would go through a set once for each. Which
# are live is told, not asked for: to leave the others out it would read the partial index of all
# live jobs, once a set.
_LOCK = f"""
    SELECT {LOCKED} FROM jobs JOIN lanes ON lanes.id = jobs.lane_id
    WHERE jobs.id = ANY(%(job_ids)s::uuid[])
    ORDER BY jobs.id FOR UPDATE OF jobs
"""
_END = """
    UPDATE jobs SET status = %(status)s, completed_at = now()
    WHERE id = ANY(%(job_ids)s::uuid[])
"""


class Locked(NamedTuple):
    """A job that this transaction has locked, and that ends in it if it is live.

    `runs` are its calls in the standard lane, None if it never left for there.
    """

    id: UUID
    account_id: UUID
    webhook: dict[str, Any] | None
    key_id: UUID
    endpoint: str
    round: int
    created_at: datetime
    completed_at: datetime
    provider: str
    model: str
    source: str | None
    is_live: bool
    runs: int | None


def finish(
    session: Session, endings: Sequence[Ending], locked: Iterable[Locked] | None = None
) -> set[UUID]:
    """Ends those of the jobs that are still live; their ids.

    A job that has ended already keeps its end: nothing is written for it and nothing charged.
    Once a transaction, and its last step: it locks jobs and then balances, each in one order.
    Whoever has locked the jobs already, in the order of their ids, gives them as read then.
    """
    wanted = {ending.job_id: ending for ending in endings}
    if not wanted:
        return set()
    if locked is None:
        locked = map(Locked._make, fetch_rows(session, _LOCK, {"job_ids": uuid_array(wanted)}))
    jobs = [job for job in locked if job.is_live and job.id in wanted]
    if not jobs:
        return set()
    live = [wanted[job.id] for job in jobs]
    for status in {ending.status for ending in live}:
        ended = uuid_array([ending.job_id for ending in live if ending.status is status])
        run(session, _END, {"status": status.value, "job_ids": ended})
    copy_rows(
        session,
        JobResult,
        ("job_id", "http_status", "body"),
        ((ending.job_id, ending.http_status, ending.body) for ending in live),
    )
    events.record(
        session,
        [
            JobEvent(job.account_id, job.id, f"job.{ending.status}", job.webhook)
            for ending, job in zip(live, jobs, strict=True)
        ],
    )
    copy_rows(session, RequestLog, REQUEST_LOG_COLUMNS, map(_log_row, live, jobs))
    # Last, for this locks balances, which are what everybody wants.
    ledger.resolve(
        session,
        [ending.charge for ending in live if ending.charge is not None],
        [ending.job_id for ending in live if ending.charge is None],
    )
    return {job.id for job in jobs}


def _log_row(ending: Ending, job: Locked) -> tuple[object, ...]:
    """The job in the request log, in the order of its columns."""
    charge = ending.charge
    amounts = None if charge is None else charge.amounts
    usage = _NOTHING_USED if charge is None else charge.usage
    lane = "batch" if job.runs is None else "standard"
    return (
        job.id,
        job.completed_at,
        job.account_id,
        job.key_id,
        "async",
        job.endpoint,
        job.model if charge is None else charge.model,
        job.provider if charge is None else charge.provider,
        lane if charge is None else charge.lane,
        ending.http_status,
        job.round + (job.runs or 0),
        usage.input_uncached,
        usage.cache_read,
        usage.cache_write_short + usage.cache_write_long,
        usage.output,
        usage.reasoning,
        None if amounts is None else amounts.charged_nanos,
        None if amounts is None else amounts.cost_nanos,
        (job.completed_at - job.created_at) // timedelta(milliseconds=1),
        None,
        job.source,
    )


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
