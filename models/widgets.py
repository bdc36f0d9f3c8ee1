"""Publishable keys, which anybody may read in the page that they are for."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey, Text, func
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, Nanos


class WidgetKey(Base):
    """A publishable key, of which only a keyed digest is kept, and the limits it stands within.

    `agent_id` is what its owner calls the agent that it is for, `allowed_origins` the web pages
    that may use it, empty for all of them, `models` the names that it may call, NULL for all.
    """

    __tablename__ = "widget_keys"
    __table_args__ = (
        CheckConstraint("requests_per_minute > 0", name="requests_per_minute"),
        CheckConstraint("visitor_requests_per_minute > 0", name="visitor_requests_per_minute"),
        CheckConstraint("daily_nanos >= 0 AND monthly_nanos >= 0", name="caps"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    account_id: Mapped[UUID] = mapped_column(ForeignKey("accounts.id"), index=True)
    digest: Mapped[bytes] = mapped_column(unique=True)
    preview: Mapped[str]
    agent_id: Mapped[str | None]
    allowed_origins: Mapped[list[str]] = mapped_column(ARRAY(Text))
    models: Mapped[list[str] | None] = mapped_column(ARRAY(Text))
    requests_per_minute: Mapped[int]
    visitor_requests_per_minute: Mapped[int]
    daily_nanos: Mapped[int] = mapped_column(Nanos)
    monthly_nanos: Mapped[int] = mapped_column(Nanos)
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    revoked_at: Mapped[datetime | None]
