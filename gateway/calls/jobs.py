"""Jobs as their owner reads them. Every read takes the account, and finds nothing else's."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb
from sqlalchemy import text
from sqlalchemy.orm import Session

from gateway.calls import retention
from gateway.calls.errors import UnknownCursor
from gateway.calls.intake import Submission
from models.states import HoldState, JobStatus, RunReason


@dataclass(frozen=True, slots=True)
class JobView:
    """A job with its money and, once it has ended, its error or (where asked for) its result.

    `lane` is where it is or was answered; `standard_at` and `standard_reason` say when and why it
    went to the standard lane, if it did. `charged_nanos` is what its account paid for it.
    """

    id: UUID
    status: JobStatus
    endpoint: str
    model: str
    custom_id: str | None
    metadata: dict[str, str]
    created_at: datetime
    submitted_at: datetime | None
    completed_at: datetime | None
    deadline_at: datetime
    batch_id: UUID | None
    provider: str
    lane: str
    attempts: int
    standard_at: datetime | None
    standard_reason: RunReason | None
    hold_status: HoldState
    estimated_nanos: int
    unpriced: bool
    charged_nanos: int | None
    list_nanos: int | None
    texts_deleted: bool
    http_status: int | None
    result: bytes | None

    @property
    def is_escalated(self) -> bool:
        """Whether the job left the batch lane because its deadline came near."""
        return self.standard_reason is RunReason.DEADLINE

    @property
    def is_final(self) -> bool:
        """Whether the job has reached its end."""
        return self.completed_at is not None


@dataclass(frozen=True, slots=True)
class JobFilter:
    """What a list is restricted to: jobs that match all of it."""

    status: JobStatus | None = None
    model: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)


_SELECT = """
    SELECT jobs.id, jobs.status, jobs.endpoint, jobs.model, jobs.custom_id, jobs.metadata,
           jobs.created_at, jobs.submitted_at, jobs.completed_at, jobs.deadline_at, jobs.batch_id,
           lanes.provider,
           coalesce(settlements.lane, CASE WHEN run.id IS NULL THEN 'batch' ELSE 'standard' END)
               AS lane,
           greatest(jobs.round + coalesce(run.attempts, 0), 1) AS attempts,
           run.created_at AS standard_at, run.reason AS standard_reason,
           holds.status AS hold_status,
           holds.amount_nanos AS estimated_nanos, coalesce(settlements.unpriced, false) AS unpriced,
           settlements.charged_nanos - coalesce(lost.amount_nanos, 0) AS charged_nanos,
           settlements.list_nanos, jobs.texts_deleted,
           job_results.http_status, job_results.body AS result
    FROM jobs JOIN lanes ON lanes.id = jobs.lane_id JOIN holds ON holds.id = jobs.id
    LEFT JOIN standard_runs AS run ON run.id = jobs.id
    LEFT JOIN settlements ON settlements.id = jobs.id
    LEFT JOIN transfers AS lost ON lost.hold_id = jobs.id AND lost.kind = 'overrun_loss'
    LEFT JOIN job_results ON job_results.job_id = jobs.id
"""
_ERRORS_ONLY = " AND jobs.status <> 'completed'"
"""Behind `_SELECT`: errors are short and always told, completions only to who asks for them."""
_OWNED = text("SELECT id FROM jobs WHERE id = :job_id AND account_id = :account_id")
_LOCK = text(
    "SELECT completed_at FROM jobs WHERE id = :job_id AND account_id = :account_id FOR UPDATE"
)
_NAMED = " WHERE jobs.account_id = :account_id AND jobs.id = ANY(:job_ids) ORDER BY jobs.id DESC"


def _view(row: Any) -> JobView:
    return JobView(
        **{
            **row,
            "status": JobStatus(row["status"]),
            "standard_reason": row["standard_reason"] and RunReason(row["standard_reason"]),
            "hold_status": HoldState(row["hold_status"]),
            "metadata": row["metadata"] or {},
        }
    )


def get(
    session: Session, account_id: UUID, job_ids: Sequence[UUID], *, with_result: bool = True
) -> list[JobView]:
    """Those of the jobs that are the account's, newest first."""
    query = _SELECT + ("" if with_result else _ERRORS_ONLY) + _NAMED
    rows = session.execute(text(query), {"account_id": account_id, "job_ids": list(job_ids)})
    return [_view(row) for row in rows.mappings()]


def page(
    session: Session,
    account_id: UUID,
    *,
    limit: int,
    wanted: JobFilter,
    after: UUID | None = None,
    ascending: bool = False,
    with_result: bool = False,
) -> list[JobView]:
    """Up to `limit` of the account's jobs after `after`, newest first unless `ascending`.

    Raises UnknownCursor.
    """
    conditions = ["jobs.account_id = :account_id"]
    if after is not None:
        if session.execute(_OWNED, {"job_id": after, "account_id": account_id}).first() is None:
            raise UnknownCursor("There is no such job to list from.")
        conditions.append(f"jobs.id {'>' if ascending else '<'} :after")
    if wanted.status is not None:
        conditions.append("jobs.status = :status")
    if wanted.model is not None:
        conditions.append("jobs.model = :model")
    if wanted.metadata:
        conditions.append("jobs.metadata @> CAST(:metadata AS jsonb)")
    query = (
        _SELECT
        + ("" if with_result else _ERRORS_ONLY)
        + f" WHERE {' AND '.join(conditions)} "
        + f"ORDER BY jobs.id {'ASC' if ascending else 'DESC'} LIMIT :limit"
    )
    rows = session.execute(
        text(query),
        {
            "account_id": account_id,
            "after": after,
            "status": wanted.status,
            "model": wanted.model,
            "metadata": Jsonb(dict(wanted.metadata)),
            "limit": limit,
        },
    )
    return [_view(row) for row in rows.mappings()]


class Deletion(StrEnum):
    """What came of asking for a job's texts to be deleted."""

    DONE = "done"
    TOO_EARLY = "too_early"
    NOT_FOUND = "not_found"


def delete_texts(session: Session, account_id: UUID, job_id: UUID) -> Deletion:
    """Removes what was said and answered in a job that has ended; its row and bill stay."""
    job = session.execute(_LOCK, {"job_id": job_id, "account_id": account_id}).first()
    if job is None:
        return Deletion.NOT_FOUND
    if job.completed_at is None:
        return Deletion.TOO_EARLY
    retention.delete_texts(session, [job_id])
    return Deletion.DONE


def fresh(submission: Submission, provider: str) -> JobView:
    """A job as it is the moment it has been accepted."""
    return JobView(
        id=submission.job_id,
        status=JobStatus.QUEUED,
        endpoint=submission.lane[2],
        model=submission.model,
        custom_id=submission.custom_id,
        metadata=submission.metadata or {},
        created_at=submission.created_at,
        submitted_at=None,
        completed_at=None,
        deadline_at=submission.deadline_at,
        batch_id=None,
        provider=provider,
        lane="batch",
        attempts=1,
        standard_at=None,
        standard_reason=None,
        hold_status=HoldState.OPEN,
        estimated_nanos=submission.estimated_nanos,
        unpriced=False,
        charged_nanos=None,
        list_nanos=None,
        texts_deleted=False,
        http_status=None,
        result=None,
    )


def under_way(submission: Submission, provider: str) -> JobView:
    """A job that came of a call which is being made, the moment its caller waits no longer."""
    return replace(
        fresh(submission, provider),
        status=JobStatus.IN_PROGRESS,
        submitted_at=submission.created_at,
        lane="standard",
        standard_at=submission.created_at,
        standard_reason=RunReason.WAIT,
    )
