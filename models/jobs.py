"""Accepted asynchronous calls. The hot row is narrow; bodies and results live beside it."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import CheckConstraint, Index, SmallInteger, func, text
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, Nanos, state_column
from models.states import FINAL_JOB_STATUSES, JobStatus, RunReason

_FINAL = "status IN ({})".format(", ".join(f"'{status}'" for status in sorted(FINAL_JOB_STATUSES)))


class Job(Base):
    """One accepted call. Its hold and its settlement carry the same id.

    `batch_id` is the provider batch that the job is in now; `round` counts the lines it has had,
    `failures` those that came back without an answer. `customer_batch_id` is for jobs that came
    in together in one uploaded batch. `standard_nanos` is the ceiling in the standard lane, which
    the hold is raised to before the job goes there; `max_cost_nanos` and `escalate` are what its
    caller says to that. `source` is what its caller calls the place that it came from.

    No index speaks of `status`, and pages are left half empty: a job that goes from queued to
    submitted to in progress is rewritten within its page, without touching an index. A third would
    be too little, for all jobs of a batch go at once.
    """

    __tablename__ = "jobs"
    __table_args__ = (
        CheckConstraint(f"({_FINAL}) = (completed_at IS NOT NULL)", name="completed"),
        CheckConstraint("status <> 'submitted' OR batch_id IS NOT NULL", name="batch"),
        Index(
            "ix_jobs_waiting",
            "lane_id",
            "account_id",
            "id",
            postgresql_where=text("batch_id IS NULL AND completed_at IS NULL"),
        ),
        Index("ix_jobs_account", "account_id", "id"),
        Index("ix_jobs_deadline", "deadline_at", postgresql_where=text("completed_at IS NULL")),
        Index(
            "ix_jobs_retention",
            "completed_at",
            postgresql_where=text("completed_at IS NOT NULL AND NOT texts_deleted"),
        ),
        {"postgresql_with": {"fillfactor": "50"}},
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    account_id: Mapped[UUID]
    key_id: Mapped[UUID]
    lane_id: Mapped[int]
    status: Mapped[JobStatus] = mapped_column(state_column(JobStatus))
    endpoint: Mapped[str]
    model: Mapped[str]
    custom_id: Mapped[str | None]
    source: Mapped[str | None]
    job_metadata: Mapped[dict[str, Any] | None] = mapped_column("metadata")
    webhook: Mapped[dict[str, Any] | None]
    customer_batch_id: Mapped[UUID | None]
    batch_id: Mapped[UUID | None]
    round: Mapped[int] = mapped_column(SmallInteger, server_default="0")
    failures: Mapped[int] = mapped_column(SmallInteger, server_default="0")
    body_bytes: Mapped[int]
    embedding_inputs: Mapped[int] = mapped_column(server_default="0")
    standard_nanos: Mapped[int] = mapped_column(Nanos)
    max_cost_nanos: Mapped[int | None] = mapped_column(Nanos)
    escalate: Mapped[bool] = mapped_column(server_default=text("true"))
    price_id: Mapped[str]
    markup_bps: Mapped[int]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    submitted_at: Mapped[datetime | None]
    cancelling_at: Mapped[datetime | None]
    completed_at: Mapped[datetime | None]
    deadline_at: Mapped[datetime]
    texts_deleted: Mapped[bool] = mapped_column(server_default=text("false"))


class StandardRun(Base):
    """A job in the standard lane, under the job's id: a call that is made until it is answered.

    Work on it is leased; every write of that work checks `epoch`. `attempts` counts the calls,
    `failures` those that came to nothing by no fault that waiting mends: their worker died, or
    their answer could not be read. `call_milliseconds` is how long the call took that was
    answered. A run whose job has ended otherwise is ended by whoever would make its next call.
    """

    __tablename__ = "standard_runs"
    __table_args__ = (
        Index("ix_standard_runs_due", "due_at", postgresql_where=text("ended_at IS NULL")),
        Index(
            "ix_standard_runs_lane",
            "lane_id",
            "id",
            postgresql_where=text("call_milliseconds IS NOT NULL"),
        ),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    lane_id: Mapped[int]
    reason: Mapped[RunReason] = mapped_column(state_column(RunReason, check="reason"))
    epoch: Mapped[int] = mapped_column(server_default="0")
    leased_until: Mapped[datetime | None]
    due_at: Mapped[datetime] = mapped_column(server_default=func.now())
    attempts: Mapped[int] = mapped_column(SmallInteger, server_default="0")
    failures: Mapped[int] = mapped_column(SmallInteger, server_default="0")
    call_milliseconds: Mapped[int | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    ended_at: Mapped[datetime | None]


class JobBody(Base):
    """The call as the provider will see it, in OpenAI's shape: JSON as bytes, for NUL is legal."""

    __tablename__ = "job_bodies"

    job_id: Mapped[UUID] = mapped_column(primary_key=True)
    body: Mapped[bytes]


class JobResult(Base):
    """What the caller gets: the completion, or the content of `error`, as JSON bytes."""

    __tablename__ = "job_results"

    job_id: Mapped[UUID] = mapped_column(primary_key=True)
    http_status: Mapped[int] = mapped_column(SmallInteger)
    body: Mapped[bytes]


class IdempotencyKey(Base):
    """The first answer to a key, kept so that it can be given again byte for byte.

    While the first call is in flight `response` is null; `hold_id` is then its hold, and when a
    sweep releases that hold the key is free again.
    """

    __tablename__ = "idempotency_keys"
    __table_args__ = (
        CheckConstraint("(response IS NULL) = (http_status IS NULL)", name="answered"),
        Index("ix_idempotency_keys_created", "created_at"),
        Index(
            "ix_idempotency_keys_in_flight",
            "hold_id",
            postgresql_where=text("response IS NULL"),
        ),
    )

    account_id: Mapped[UUID] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    body_digest: Mapped[bytes]
    hold_id: Mapped[UUID]
    http_status: Mapped[int | None] = mapped_column(SmallInteger)
    headers: Mapped[dict[str, Any] | None]
    response: Mapped[bytes | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
