"""What each key spends in a UTC day and month, kept below its caps.

A call counts on the day on which its money was held: first with what is held, then with what it
cost. Every change is made under the lock of the account's balance, and a key has one account, so
that these rows are never waited for, nor read while somebody else changes them.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from uuid import UUID

from sqlalchemy.orm import Session

from gateway.billing.prices import NANO_PER_USD
from models.accounts import Period
from models.bulk import array, fetch_rows, uuid_array

DEFAULT_DAILY_NANOS = 100 * NANO_PER_USD
DEFAULT_MONTHLY_NANOS = 1000 * NANO_PER_USD

Row = tuple[UUID, Period, date]
"""A key, and the day or month that begins on a date."""


class Refusal(StrEnum):
    """Why an amount is not held: the balance is too low, or a cap of the key is reached."""

    FUNDS = "funds"
    DAILY_CAP = "day"
    MONTHLY_CAP = "month"


@dataclass(frozen=True, slots=True)
class Rooms:
    """What was left below the caps before the amounts of one statement were added.

    What is not a customer's key has no cap.
    """

    left: dict[Row, int]

    def take(self, key_id: UUID, day: date, amount_nanos: int) -> Refusal | None:
        """Takes an amount, which is there no more for the next; or says which cap it exceeds."""
        rows = [row for row in _rows(key_id, day) if row in self.left]
        for row in rows:
            if amount_nanos > self.left[row]:
                return Refusal(row[1])
        for row in rows:
            self.left[row] -= amount_nanos
        return None


# Added first, and taken back by who decides that it was too much: the usual case is one statement.
_ADD = """
    INSERT INTO key_spending AS spending (key_id, period, starts_on, amount_nanos)
    SELECT * FROM unnest(
        %(keys)s::uuid[], %(periods)s::text[], %(starts)s::date[], %(amounts)s::bigint[])
    ON CONFLICT (key_id, period, starts_on)
    DO UPDATE SET amount_nanos = spending.amount_nanos + excluded.amount_nanos
    RETURNING key_id, period, starts_on, amount_nanos, coalesce((
        SELECT CASE spending.period WHEN 'day' THEN coalesce(daily_nanos, %(daily)s)
               ELSE coalesce(monthly_nanos, %(monthly)s) END
        FROM api_keys WHERE api_keys.id = spending.key_id
    ), (
        SELECT CASE spending.period WHEN 'day' THEN daily_nanos ELSE monthly_nanos END
        FROM widget_keys WHERE widget_keys.id = spending.key_id
    )) AS cap_nanos
"""


def add(session: Session, amounts: Mapping[tuple[UUID, date], int]) -> Rooms:
    """Adds to what keys have spent, by key and day, in nano-USD; the room that there was."""
    sums: dict[Row, int] = defaultdict(int)
    for (key_id, day), amount in amounts.items():
        for row in _rows(key_id, day):
            sums[row] += amount
    if not sums:
        return Rooms({})
    added = fetch_rows(
        session,
        _ADD,
        {
            "keys": uuid_array(key_id for key_id, _, _ in sums),
            "periods": array(period.value for _, period, _ in sums),
            "starts": array(starts_on.isoformat() for _, _, starts_on in sums),
            "amounts": array(map(str, sums.values())),
            "daily": DEFAULT_DAILY_NANOS,
            "monthly": DEFAULT_MONTHLY_NANOS,
        },
    )
    left = {}
    for key_id, period, starts_on, amount, cap in added:
        row = (key_id, Period(period), starts_on)
        if cap is not None:
            left[row] = cap - (amount - sums[row])
    return Rooms(left)


def seconds_left(period: Period, now: datetime) -> int:
    """How long a day or month still lasts, in UTC, rounded up."""
    today = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    if period is Period.DAY:
        end = today + timedelta(days=1)
    else:
        end = (today.replace(day=1) + timedelta(days=32)).replace(day=1)
    return -((now - end) // timedelta(seconds=1))


def _rows(key_id: UUID, day: date) -> tuple[Row, Row]:
    return (key_id, Period.DAY, day), (key_id, Period.MONTH, day.replace(day=1))
