"""What an account has: available, held and settled, and how much its key may still spend."""

from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from gateway.billing.spending import DEFAULT_DAILY_NANOS, DEFAULT_MONTHLY_NANOS


@dataclass(frozen=True, slots=True)
class Cap:
    """A limit on what a key spends in a UTC day or month; what is held counts as spent."""

    limit_nanos: int
    spent_nanos: int

    @property
    def left_nanos(self) -> int:
        """Never below zero, although a call may cost more than was held for it."""
        return max(0, self.limit_nanos - self.spent_nanos)


@dataclass(frozen=True, slots=True)
class Balance:
    """An account's money as its owner sees it. `low_below_nanos` is None where no warning is set.

    Available is what can still be held; `today_nanos` and `month_nanos` were charged in this UTC
    day and month.
    """

    available_nanos: int
    held_nanos: int
    today_nanos: int
    month_nanos: int
    low_below_nanos: int | None
    daily_cap: Cap
    monthly_cap: Cap


_TODAY = "(now() AT TIME ZONE 'UTC')::date"
_MONTH = f"date_trunc('month', {_TODAY})::date"
_READ = text(
    f"""
    SELECT credits_nanos - debits_nanos - held_nanos AS available, held_nanos AS held,
           settled.today, settled.month, threshold_nanos,
           coalesce(api_keys.daily_nanos, {DEFAULT_DAILY_NANOS}) AS daily_limit,
           coalesce(api_keys.monthly_nanos, {DEFAULT_MONTHLY_NANOS}) AS monthly_limit,
           coalesce((SELECT amount_nanos FROM key_spending
                     WHERE key_id = api_keys.id AND period = 'day' AND starts_on = {_TODAY}), 0)
               AS daily_spent,
           coalesce((SELECT amount_nanos FROM key_spending
                     WHERE key_id = api_keys.id AND period = 'month' AND starts_on = {_MONTH}), 0)
               AS monthly_spent
    FROM balances
    JOIN api_keys ON api_keys.account_id = balances.account_id AND api_keys.id = :key_id
    LEFT JOIN balance_thresholds ON balance_thresholds.account_id = balances.account_id
    CROSS JOIN LATERAL (
        SELECT coalesce(sum(paid_nanos) FILTER (WHERE day = {_TODAY}), 0)::bigint AS today,
               coalesce(sum(paid_nanos), 0)::bigint AS month
        FROM daily_usage
        WHERE daily_usage.account_id = balances.account_id AND day >= {_MONTH}
    ) AS settled
    WHERE balances.account_id = :account_id
    """
)
_AVAILABLE = text(
    "SELECT credits_nanos - debits_nanos - held_nanos FROM balances WHERE account_id = :account_id"
)


def read(session: Session, account_id: UUID, key_id: UUID) -> Balance:
    """An account's balance, with the caps of one of its keys."""
    row = session.execute(_READ, {"account_id": account_id, "key_id": key_id}).one()
    return Balance(
        available_nanos=row.available,
        held_nanos=row.held,
        today_nanos=row.today,
        month_nanos=row.month,
        low_below_nanos=row.threshold_nanos,
        daily_cap=Cap(row.daily_limit, row.daily_spent),
        monthly_cap=Cap(row.monthly_limit, row.monthly_spent),
    )


def available_nanos(session: Session, account_id: UUID) -> int:
    """What can still be held in an account."""
    return int(session.execute(_AVAILABLE, {"account_id": account_id}).scalar_one())
