"""Who may call: accounts and their keys."""

from datetime import date, datetime
from enum import StrEnum
from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey, Text, func, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, Nanos, state_column


class Account(Base):
    """A customer. `webhook_secret` is sealed: only the vault can read it."""

    __tablename__ = "accounts"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    name: Mapped[str]
    webhook_secret: Mapped[bytes]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class ApiKey(Base):
    """A secret key, of which only a keyed digest is kept.

    After a rotation the digest of the text before opens as well, until `previous_until`. `models`
    are the names that it may call, NULL for all; a limit that is NULL is the default.
    """

    __tablename__ = "api_keys"
    __table_args__ = (
        CheckConstraint(
            "scopes <@ ARRAY['inference', 'jobs:read', 'billing:read', 'admin']", name="scopes"
        ),
        CheckConstraint(
            "(previous_digest IS NULL) = (previous_until IS NULL)", name="previous_digest"
        ),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    account_id: Mapped[UUID] = mapped_column(ForeignKey("accounts.id"), index=True)
    digest: Mapped[bytes] = mapped_column(unique=True)
    previous_digest: Mapped[bytes | None] = mapped_column(unique=True)
    previous_until: Mapped[datetime | None]
    preview: Mapped[str]
    name: Mapped[str]
    scopes: Mapped[list[str]] = mapped_column(
        ARRAY(Text), server_default=text("'{inference,jobs:read,billing:read}'")
    )
    models: Mapped[list[str] | None] = mapped_column(ARRAY(Text))
    requests_per_minute: Mapped[int | None]
    daily_nanos: Mapped[int | None] = mapped_column(Nanos)
    monthly_nanos: Mapped[int | None] = mapped_column(Nanos)
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]


class Period(StrEnum):
    """What a cap on spending is for: a UTC day, or a UTC month."""

    DAY = "day"
    MONTH = "month"


class KeySpending(Base):
    """What a key has spent in one period: what was charged, and what is still held.

    A call counts in the period in which its money was held. Pages are left half empty, so that a
    row that is changed with every transaction of its key stays on its page.
    """

    __tablename__ = "key_spending"
    __table_args__ = ({"postgresql_with": {"fillfactor": "50"}},)

    key_id: Mapped[UUID] = mapped_column(primary_key=True)
    period: Mapped[Period] = mapped_column(state_column(Period, check="period"), primary_key=True)
    starts_on: Mapped[date] = mapped_column(primary_key=True)
    amount_nanos: Mapped[int] = mapped_column(Nanos)
