"""Customers' own keys at the providers, and the data keys that they are sealed under."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey, Index, UniqueConstraint, func, text
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base


class DataKey(Base):
    """An account's data key, sealed under ENCRYPTION_KEY; the lock of who changes its keys."""

    __tablename__ = "data_keys"

    account_id: Mapped[UUID] = mapped_column(ForeignKey("accounts.id"), primary_key=True)
    sealed: Mapped[bytes]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class ProviderKey(Base):
    """A customer's key at a provider, sealed under the account's data key.

    A new key begins a generation, whose `reference` its lanes have as their credential; one that
    is rotated in replaces the sealed text of its generation. `version` counts both, by account
    and provider. A generation that was replaced keeps its text while its lanes have work.
    """

    __tablename__ = "provider_keys"
    __table_args__ = (
        UniqueConstraint("provider", "reference"),
        CheckConstraint("sealed IS NOT NULL OR replaced_at IS NOT NULL", name="sealed"),
        Index(
            "uq_provider_keys_current",
            "account_id",
            "provider",
            unique=True,
            postgresql_where=text("replaced_at IS NULL"),
        ),
        Index(
            "ix_provider_keys_replaced",
            "replaced_at",
            postgresql_where=text("replaced_at IS NOT NULL AND sealed IS NOT NULL"),
        ),
    )

    account_id: Mapped[UUID] = mapped_column(ForeignKey("accounts.id"), primary_key=True)
    provider: Mapped[str] = mapped_column(primary_key=True)
    generation: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    version: Mapped[int]
    reference: Mapped[str]
    sealed: Mapped[bytes | None]
    preview: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    rotated_at: Mapped[datetime | None]
    replaced_at: Mapped[datetime | None]
