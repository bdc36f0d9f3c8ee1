"""What the providers count, beside what is booked here."""

from datetime import date, datetime
from enum import StrEnum

from sqlalchemy import BigInteger, CheckConstraint, Index, func, text
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, Nanos, state_column


class TotalsSource(StrEnum):
    """Where a provider's totals were read."""

    BATCHES = "batches"  # the provider's batch objects; the subject is the batch's id there
    METER = "meter"  # what the provider metered in a day; the subject is a model's lane
    REPORTS = "reports"  # the provider's usage reports; the subject is a model's lane


class Reconciliation(Base):
    """One comparison of a provider's totals with the books, written again by every run.

    `provider_nanos` is the provider's total at the rates that its calls were sold by, divided into
    what the books explain, what is in flight, what orphaned batches used, and what nobody can
    explain; `excess_nanos` is booked here and not counted there. Token counts are NULL where the
    provider only counts answers; `unexplained_requests` are answers whose worth is not known.
    A row that `is_final` is not compared again. Days are UTC days by the provider's clock.
    """

    __tablename__ = "reconciliations"
    __table_args__ = (
        CheckConstraint(
            "provider_nanos = explained_nanos + in_flight_nanos + orphaned_nanos"
            " + unexplained_nanos",
            name="classes",
        ),
        CheckConstraint(
            "explained_nanos >= 0 AND in_flight_nanos >= 0 AND orphaned_nanos >= 0"
            " AND unexplained_nanos >= 0 AND excess_nanos >= 0 AND unexplained_requests >= 0",
            name="amounts",
        ),
        Index(
            "ix_reconciliations_unexplained",
            "day",
            postgresql_where=text(
                "unexplained_nanos > 0 OR excess_nanos > 0 OR unexplained_requests > 0"
            ),
        ),
    )

    day: Mapped[date] = mapped_column(primary_key=True)
    provider: Mapped[str] = mapped_column(primary_key=True)
    source: Mapped[TotalsSource] = mapped_column(
        state_column(TotalsSource, check="source"), primary_key=True
    )
    subject: Mapped[str] = mapped_column(primary_key=True)
    model: Mapped[str]
    provider_requests: Mapped[int | None]
    provider_input_tokens: Mapped[int | None] = mapped_column(BigInteger)
    provider_output_tokens: Mapped[int | None] = mapped_column(BigInteger)
    provider_nanos: Mapped[int] = mapped_column(Nanos)
    explained_nanos: Mapped[int] = mapped_column(Nanos)
    in_flight_nanos: Mapped[int] = mapped_column(Nanos)
    orphaned_nanos: Mapped[int] = mapped_column(Nanos)
    unexplained_nanos: Mapped[int] = mapped_column(Nanos)
    excess_nanos: Mapped[int] = mapped_column(Nanos)
    unexplained_requests: Mapped[int]
    is_final: Mapped[bool]
    checked_at: Mapped[datetime] = mapped_column(server_default=func.now())
