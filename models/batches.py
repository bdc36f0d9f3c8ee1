"""Provider batches, the lanes they belong to and the lines in them."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    BigInteger,
    CheckConstraint,
    DateTime,
    ForeignKey,
    Identity,
    Index,
    SmallInteger,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, Nanos, state_column
from models.states import BatchStatus, LineState


class Lane(Base):
    """What may share a provider batch: provider, credential, endpoint and model.

    `credential` is `house` for our own key. The row is the lock of whoever cuts the lane.
    """

    __tablename__ = "lanes"
    __table_args__ = (UniqueConstraint("provider", "credential", "endpoint", "model"),)

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    provider: Mapped[str]
    credential: Mapped[str]
    endpoint: Mapped[str]
    model: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class ProviderBatch(Base):
    """One batch at a provider. Work on it is leased; every write of that work checks `epoch`.

    `intent_at` and `intent_ref` are when the creation in flight (or in doubt) was begun and the
    name it carries at the provider; `due_at` is when the row wants to be looked at next.
    `refusals` counts uploads and creations in a row that came to nothing, then looks and downloads
    that a customer's own key was refused; `crashes` the leases that ran out instead of being given
    back, since the last progress. `lost_intents` are creations
    that were looked for in vain, and may still turn up at the provider.
    """

    __tablename__ = "provider_batches"
    __table_args__ = (
        CheckConstraint(
            "status NOT IN ('submitted', 'in_progress', 'ingesting') OR external_id IS NOT NULL",
            name="external",
        ),
        CheckConstraint(
            "status NOT IN ('submitting', 'in_doubt') "
            "OR (intent_at IS NOT NULL AND intent_ref IS NOT NULL)",
            name="intent",
        ),
        Index("ix_provider_batches_due", "due_at", postgresql_where=text("status <> 'done'")),
        Index(
            "uq_provider_batches_external",
            "external_id",
            "lane_id",
            unique=True,
            postgresql_where=text("external_id IS NOT NULL"),
        ),
        Index("ix_provider_batches_lane", "lane_id", "id"),
        Index(
            "ix_provider_batches_lost",
            "lane_id",
            postgresql_where=text("lost_intents <> '{}'"),
        ),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    lane_id: Mapped[int] = mapped_column(ForeignKey("lanes.id"))
    status: Mapped[BatchStatus] = mapped_column(state_column(BatchStatus))
    epoch: Mapped[int] = mapped_column(server_default="0")
    leased_until: Mapped[datetime | None]
    due_at: Mapped[datetime] = mapped_column(server_default=func.now())
    request_count: Mapped[int]
    body_bytes: Mapped[int] = mapped_column(BigInteger)
    refusals: Mapped[int] = mapped_column(SmallInteger, server_default="0")
    crashes: Mapped[int] = mapped_column(server_default="0")
    input_file_id: Mapped[str | None]
    external_id: Mapped[str | None]
    result_files: Mapped[list[str] | None] = mapped_column(JSONB)
    provider_status: Mapped[str | None]
    last_error: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    intent_at: Mapped[datetime | None]
    intent_ref: Mapped[str | None]
    lost_intents: Mapped[list[datetime]] = mapped_column(
        ARRAY(DateTime(timezone=True)), server_default="{}"
    )
    submitted_at: Mapped[datetime | None]
    in_progress_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]
    done_at: Mapped[datetime | None]


class Line(Base):
    """One job's place in one provider batch. Its `custom_id` there is the job and the round.

    A line changes once, in its status, and pages are left rather more than half empty for it: no
    index is touched.
    """

    __tablename__ = "lines"
    __table_args__ = (
        Index("ix_lines_batch", "batch_id", "job_id"),
        {"postgresql_with": {"fillfactor": "45"}},
    )

    job_id: Mapped[UUID] = mapped_column(primary_key=True)
    round: Mapped[int] = mapped_column(SmallInteger, primary_key=True)
    batch_id: Mapped[UUID]
    status: Mapped[LineState] = mapped_column(state_column(LineState))


class BatchCancellation(Base):
    """A batch that may have to be cancelled at its provider, until it is or need not be.

    Written with whatever takes a job out of its batch before the result: the last such job leaves
    a batch that nobody waits for. `overdue` is one that is cancelled whoever waits. A table of its
    own, for whoever takes in results locks a batch before its jobs, and these come after.
    """

    __tablename__ = "batch_cancellations"
    __table_args__ = (
        Index("ix_batch_cancellations_due", "due_at", postgresql_where=text("asked_at IS NULL")),
    )

    batch_id: Mapped[UUID] = mapped_column(primary_key=True)
    overdue: Mapped[bool] = mapped_column(server_default=text("false"))
    due_at: Mapped[datetime] = mapped_column(server_default=func.now())
    asked_at: Mapped[datetime | None]


class OrphanBatch(Base):
    """A batch at the provider that we made twice: cancelled, and its cost booked to the house."""

    __tablename__ = "orphan_batches"
    __table_args__ = (
        Index("ix_orphan_batches_due", "due_at", postgresql_where=text("booked_at IS NULL")),
    )

    external_id: Mapped[str] = mapped_column(primary_key=True)
    batch_id: Mapped[UUID] = mapped_column(ForeignKey("provider_batches.id"))
    due_at: Mapped[datetime] = mapped_column(server_default=func.now())
    cost_nanos: Mapped[int | None] = mapped_column(Nanos)
    found_at: Mapped[datetime] = mapped_column(server_default=func.now())
    booked_at: Mapped[datetime | None]


class Tick(Base):
    """A turn of the clock that has taken effect: one row a task and slot, whoever rang it."""

    __tablename__ = "ticks"

    task: Mapped[str] = mapped_column(primary_key=True)
    slot: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
