"""Events, the endpoints that want them, and their delivery."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey, Index, Text, func, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, state_column
from models.states import DeliveryStatus


class WebhookEndpoint(Base):
    """A URL that an account wants its events sent to. The secrets are sealed.

    `old_secret` signs too, until `old_secret_until`. `failing_since` is when the first of the
    attempts failed that have all failed since.
    """

    __tablename__ = "webhook_endpoints"
    __table_args__ = (
        CheckConstraint("(disabled_at IS NULL) = (disabled_reason IS NULL)", name="disabled"),
        CheckConstraint("(old_secret IS NULL) = (old_secret_until IS NULL)", name="old_secret"),
        Index("ix_webhook_endpoints_account", "account_id", "id"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    account_id: Mapped[UUID] = mapped_column(ForeignKey("accounts.id"))
    name: Mapped[str]
    url: Mapped[str]
    event_types: Mapped[list[str]] = mapped_column(ARRAY(Text))
    include_result: Mapped[bool] = mapped_column(server_default=text("false"))
    secret: Mapped[bytes]
    secret_hint: Mapped[str]
    old_secret: Mapped[bytes | None]
    old_secret_until: Mapped[datetime | None]
    failing_since: Mapped[datetime | None]
    disabled_at: Mapped[datetime | None]
    disabled_reason: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now())


class Event(Base):
    """Something that happened: to a job, of which its body is made when it is sent, or `data`."""

    __tablename__ = "events"
    __table_args__ = (CheckConstraint("(job_id IS NULL) = (data IS NOT NULL)", name="subject"),)

    id: Mapped[UUID] = mapped_column(primary_key=True)
    account_id: Mapped[UUID]
    type: Mapped[str]
    job_id: Mapped[UUID | None]
    data: Mapped[dict[str, Any] | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class Delivery(Base):
    """One event's way to one URL. Leased like a provider batch; `attempts` counts those begun.

    A job's own URL has no endpoint, and an endpoint's deliveries outlive it. `attempts_before`
    are those of earlier schedules: what is sent again begins a new one.
    """

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
        Index(
            "ix_deliveries_endpoint",
            "endpoint_id",
            "id",
            postgresql_where=text("endpoint_id IS NOT NULL"),
        ),
        Index(
            "ix_deliveries_endpoint_pending",
            "endpoint_id",
            postgresql_where=text("status = 'pending' AND endpoint_id IS NOT NULL"),
        ),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    event_id: Mapped[UUID] = mapped_column(ForeignKey("events.id"))
    endpoint_id: Mapped[UUID | None]
    url: Mapped[str]
    include_result: Mapped[bool] = mapped_column(server_default=text("false"))
    status: Mapped[DeliveryStatus] = mapped_column(state_column(DeliveryStatus))
    attempts: Mapped[int] = mapped_column(server_default="0")
    attempts_before: Mapped[int] = mapped_column(server_default="0")
    epoch: Mapped[int] = mapped_column(server_default="0")
    leased_until: Mapped[datetime | None]
    due_at: Mapped[datetime] = mapped_column(server_default=func.now())
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    finished_at: Mapped[datetime | None]


class DeliveryAttempt(Base):
    """One POST: written before it is sent, completed when an answer (or none) is known."""

    __tablename__ = "delivery_attempts"

    delivery_id: Mapped[UUID] = mapped_column(ForeignKey("deliveries.id"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    started_at: Mapped[datetime] = mapped_column(server_default=func.now())
    finished_at: Mapped[datetime | None]
    http_status: Mapped[int | None]
    error: Mapped[str | None]
    excerpt: Mapped[str | None]
