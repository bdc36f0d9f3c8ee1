"""Events, and their delivery to the URLs that asked for them."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import ForeignKey, Index, SmallInteger, func, text
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, state_column
from models.states import DeliveryStatus


class Event(Base):
    """Something that happened to a job. Its body is made from the job when it is sent."""

    __tablename__ = "events"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    account_id: Mapped[UUID]
    type: Mapped[str]
    job_id: Mapped[UUID]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class Delivery(Base):
    """One event's way to one URL. Leased like a provider batch; `attempts` counts those begun."""

    __tablename__ = "deliveries"
    __table_args__ = (
        Index("ix_deliveries_due", "due_at", postgresql_where=text("status = 'pending'")),
        Index(
            "ix_deliveries_due_url", "url", "due_at", postgresql_where=text("status = 'pending'")
        ),
        Index("ix_deliveries_event", "event_id"),
        Index(
            "ix_deliveries_in_flight",
            "url",
            postgresql_where=text("status = 'pending' AND leased_until IS NOT NULL"),
        ),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    event_id: Mapped[UUID] = mapped_column(ForeignKey("events.id"))
    url: Mapped[str]
    include_result: Mapped[bool] = mapped_column(server_default=text("false"))
    status: Mapped[DeliveryStatus] = mapped_column(state_column(DeliveryStatus))
    attempts: Mapped[int] = mapped_column(SmallInteger, server_default="0")
    epoch: Mapped[int] = mapped_column(server_default="0")
    leased_until: Mapped[datetime | None]
    due_at: Mapped[datetime] = mapped_column(server_default=func.now())
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    finished_at: Mapped[datetime | None]


class DeliveryAttempt(Base):
    """One POST: written before it is sent, completed when an answer (or none) is known."""

    __tablename__ = "delivery_attempts"

    delivery_id: Mapped[UUID] = mapped_column(ForeignKey("deliveries.id"), primary_key=True)
    number: Mapped[int] = mapped_column(SmallInteger, primary_key=True)
    started_at: Mapped[datetime] = mapped_column(server_default=func.now())
    finished_at: Mapped[datetime | None]
    http_status: Mapped[int | None] = mapped_column(SmallInteger)
    error: Mapped[str | None]
    excerpt: Mapped[str | None]
