"""Who may call: accounts and their keys."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import BigInteger, ForeignKey, func
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base


class Account(Base):
    """A customer. `webhook_secret` is sealed: only the vault can read it."""

    __tablename__ = "accounts"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    name: Mapped[str]
    webhook_secret: Mapped[bytes]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class ApiKey(Base):
    """A secret key, of which only a keyed digest is kept."""

    __tablename__ = "api_keys"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    account_id: Mapped[UUID] = mapped_column(ForeignKey("accounts.id"), index=True)
    digest: Mapped[bytes] = mapped_column(unique=True)
    preview: Mapped[str]
    name: Mapped[str]
    requests_per_minute: Mapped[int | None]
    daily_nanos: Mapped[int | None] = mapped_column(BigInteger)
    monthly_nanos: Mapped[int | None] = mapped_column(BigInteger)
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
