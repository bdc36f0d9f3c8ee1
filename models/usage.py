"""What accounts use by the day, kept with the settlements, and when to warn them."""

from datetime import date, datetime
from enum import StrEnum
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, Nanos, state_column


class UsageSurface(StrEnum):
    """How a call was answered: at once, or as a job."""

    SYNC = "sync"
    ASYNC = "async"


class DailyUsage(Base):
    """The settlements of one UTC day, summed: a row a key, provider, model, lane and surface.

    Changed in the transaction that settles, under the lock of the account's balance, so the sums
    are never behind. `paid_nanos` is what was charged, `list_nanos` what the same would have cost
    in the standard lane, `held_nanos` the ceilings; calls whose usage is unknown count in
    `unpriced_calls` and in nothing else. Pages are left half empty, as those of `key_spending`.
    """

    __tablename__ = "daily_usage"
    __table_args__ = ({"postgresql_with": {"fillfactor": "50"}},)

    account_id: Mapped[UUID] = mapped_column(primary_key=True)
    day: Mapped[date] = mapped_column(primary_key=True)
    key_id: Mapped[UUID] = mapped_column(primary_key=True)
    provider: Mapped[str] = mapped_column(primary_key=True)
    model: Mapped[str] = mapped_column(primary_key=True)
    lane: Mapped[str] = mapped_column(primary_key=True)
    surface: Mapped[UsageSurface] = mapped_column(
        state_column(UsageSurface, check="surface"), primary_key=True
    )
    calls: Mapped[int] = mapped_column(BigInteger)
    unpriced_calls: Mapped[int] = mapped_column(BigInteger)
    input_uncached: Mapped[int] = mapped_column(BigInteger)
    cache_read: Mapped[int] = mapped_column(BigInteger)
    cache_write: Mapped[int] = mapped_column(BigInteger)
    output: Mapped[int] = mapped_column(BigInteger)
    reasoning: Mapped[int] = mapped_column(BigInteger)
    held_nanos: Mapped[int] = mapped_column(Nanos)
    paid_nanos: Mapped[int] = mapped_column(Nanos)
    list_nanos: Mapped[int] = mapped_column(Nanos)


class BalanceThreshold(Base):
    """Where an account's available balance counts as low; `low_since` from then until it is not."""

    __tablename__ = "balance_thresholds"
    __table_args__ = (CheckConstraint("threshold_nanos > 0", name="threshold"),)

    account_id: Mapped[UUID] = mapped_column(ForeignKey("accounts.id"), primary_key=True)
    threshold_nanos: Mapped[int] = mapped_column(Nanos)
    low_since: Mapped[datetime | None]
