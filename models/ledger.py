"""Money: balances, holds, transfers, and the settlements that explain each charge.

Customers' rows carry no foreign key to `accounts` in the tables that grow with traffic: a key
check locks the account's row in every transaction that writes for it, and accounts are never
deleted.
"""

from datetime import date, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import (
    CheckConstraint,
    ForeignKey,
    Index,
    func,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, Nanos, state_column
from models.states import TRANSFER_SIDES, HoldState, LedgerAccount, TransferKind


class Balance(Base):
    """One account's money. Available is credits less debits less what is held, never below zero."""

    __tablename__ = "balances"
    __table_args__ = (
        CheckConstraint("credits_nanos - debits_nanos - held_nanos >= 0", name="available"),
        CheckConstraint("held_nanos >= 0", name="held"),
    )

    account_id: Mapped[UUID] = mapped_column(ForeignKey("accounts.id"), primary_key=True)
    credits_nanos: Mapped[int] = mapped_column(Nanos, server_default="0")
    debits_nanos: Mapped[int] = mapped_column(Nanos, server_default="0")
    held_nanos: Mapped[int] = mapped_column(Nanos, server_default="0")


class Hold(Base):
    """A pending transfer from a customer, under the id of the job or call it is for.

    A job's hold ends with the job; a synchronous call's has `expires_at`, after which a sweep
    releases what a dead process left. `held_on` is the UTC day whose spending it counts towards.
    Pages are left rather more than half empty: each hold is rewritten once, when it is resolved.
    """

    __tablename__ = "holds"
    __table_args__ = (
        CheckConstraint("amount_nanos >= 0", name="amount"),
        CheckConstraint("(status = 'open') = (resolved_at IS NULL)", name="resolved"),
        Index(
            "ix_holds_expiring",
            "expires_at",
            postgresql_where=text("status = 'open' AND expires_at IS NOT NULL"),
        ),
        Index("ix_holds_open", "account_id", postgresql_where=text("status = 'open'")),
        {"postgresql_with": {"fillfactor": "45"}},
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    account_id: Mapped[UUID]
    key_id: Mapped[UUID]
    amount_nanos: Mapped[int] = mapped_column(Nanos)
    status: Mapped[HoldState] = mapped_column(state_column(HoldState))
    held_on: Mapped[date] = mapped_column(server_default=text("(now() AT TIME ZONE 'UTC')::date"))
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    expires_at: Mapped[datetime | None]
    resolved_at: Mapped[datetime | None]


def _legal_sides() -> str:
    return " OR ".join(
        f"(kind = '{kind}' AND debit = '{debit}' AND credit = '{credit}')"
        for kind, (debit, credit) in TRANSFER_SIDES.items()
    )


class Transfer(Base):
    """Money that moved from `debit` to `credit`. Rows are never changed.

    `account_id` is the customer where one side is a customer; `hold_id` the job or call it is
    for; `batch_id` the provider batch, for costs booked once a set of settlements.
    """

    __tablename__ = "transfers"
    __table_args__ = (
        CheckConstraint("amount_nanos > 0", name="amount"),
        CheckConstraint(_legal_sides(), name="sides"),
        CheckConstraint(
            "(debit = 'customer' OR credit = 'customer') = (account_id IS NOT NULL)",
            name="customer",
        ),
        # A hold is resolved once: charged or suspended, not both. What else may happen for it
        # happens once as well.
        Index(
            "uq_transfers_resolution",
            "hold_id",
            unique=True,
            postgresql_where=text("kind IN ('charge', 'suspense')"),
        ),
        Index(
            "uq_transfers_aftermath",
            "hold_id",
            "kind",
            unique=True,
            postgresql_where=text("kind IN ('overrun_loss', 'suspense_return', 'suspense_charge')"),
        ),
        Index("ix_transfers_account", "account_id", "id"),
        Index(
            "ix_transfers_unbilled",
            "batch_id",
            "id",
            postgresql_where=text("kind = 'unbilled_cost'"),
        ),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    kind: Mapped[TransferKind] = mapped_column(state_column(TransferKind, check="kind"))
    debit: Mapped[LedgerAccount] = mapped_column(state_column(LedgerAccount, check="debit"))
    credit: Mapped[LedgerAccount] = mapped_column(state_column(LedgerAccount, check="credit"))
    account_id: Mapped[UUID | None]
    hold_id: Mapped[UUID | None]
    batch_id: Mapped[UUID | None]
    amount_nanos: Mapped[int] = mapped_column(Nanos)
    note: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class Price(Base):
    """A price snapshot under the digest of its content; jobs name the one they were taken at."""

    __tablename__ = "prices"

    id: Mapped[str] = mapped_column(primary_key=True)
    snapshot: Mapped[dict[str, Any]]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class Settlement(Base):
    """What one job or call used and cost; the amounts follow from the usage and the snapshot.

    `charged_nanos` is the customer's price with markup, `cost_nanos` the provider's, `list_nanos`
    the customer's price in the standard lane. `markup_bps` is below zero for what was done on the
    customer's own provider key: see `pricing.amounts`. An `unpriced` settlement has no amounts: its
    hold is in suspense, until the usage is found out (`gateway.billing.suspense`) or it is given
    back. That its hold is posted, SETTLEMENT_TRIGGER sees to.
    """

    __tablename__ = "settlements"
    __table_args__ = (
        CheckConstraint(
            "(charged_nanos IS NULL) = unpriced AND (cost_nanos IS NULL) = unpriced "
            "AND (list_nanos IS NULL) = unpriced",
            name="priced",
        ),
        CheckConstraint(
            "input_uncached >= 0 AND cache_read >= 0 AND cache_write_short >= 0 "
            "AND cache_write_long >= 0 AND output >= 0 AND reasoning >= 0",
            name="tokens",
        ),
        Index("ix_settlements_unpriced", "created_at", postgresql_where=text("unpriced")),
        # Rows lie in the order of their time, so that a few pages of this find a whole day.
        Index(
            "ix_settlements_created",
            "created_at",
            postgresql_using="brin",
            postgresql_with={"autosummarize": "on"},
        ),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    account_id: Mapped[UUID]
    key_id: Mapped[UUID]
    lane: Mapped[str]
    provider: Mapped[str]
    model: Mapped[str]
    price_id: Mapped[str]
    markup_bps: Mapped[int]
    unpriced: Mapped[bool]
    input_uncached: Mapped[int] = mapped_column(server_default="0")
    cache_read: Mapped[int] = mapped_column(server_default="0")
    cache_write_short: Mapped[int] = mapped_column(server_default="0")
    cache_write_long: Mapped[int] = mapped_column(server_default="0")
    output: Mapped[int] = mapped_column(server_default="0")
    reasoning: Mapped[int] = mapped_column(server_default="0")
    cost_nanos: Mapped[int | None] = mapped_column(Nanos)
    charged_nanos: Mapped[int | None] = mapped_column(Nanos)
    list_nanos: Mapped[int | None] = mapped_column(Nanos)
    batch_id: Mapped[UUID | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


SETTLEMENT_FUNCTION = """
CREATE OR REPLACE FUNCTION check_settlements() RETURNS trigger LANGUAGE plpgsql
SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off AS $$
BEGIN
    IF EXISTS (
        SELECT 1 FROM written WHERE NOT EXISTS (
            SELECT 1 FROM holds WHERE holds.id = written.id AND holds.status = 'posted')
    ) THEN
        RAISE EXCEPTION 'a settlement is of a hold that has been posted'
            USING ERRCODE = 'foreign_key_violation';
    END IF;
    RETURN NULL;
END $$
"""
"""What a foreign key would see to, and more, in one query a statement instead of one a row.

The plan is kept for as long as its session lives, so it must not be one for a small table.
"""

SETTLEMENT_TRIGGER = (
    "CREATE TRIGGER check_settlements AFTER INSERT ON settlements "
    "REFERENCING NEW TABLE AS written FOR EACH STATEMENT EXECUTE FUNCTION check_settlements()"
)
