"""Holds that are all granted, in one round trip: how nearly every call's money is set aside.

The function is in the database (see `models.holding`). It looks, decides and writes under the
locks that `ledger.hold` would take in five statements, and says false, having changed nothing,
where not all can be held.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from uuid import UUID

from sqlalchemy.orm import Session

from gateway.billing.prices import LARGEST_NANOS
from gateway.billing.spending import DEFAULT_DAILY_NANOS, DEFAULT_MONTHLY_NANOS
from models.bulk import array, fetch_rows

_HOLD_ALL = "SELECT hold_all(%s, %s, %s, %s, %s, %s, %s, %s)"
NOT_DURABLY = (
    b"SELECT hold_all($1, $2, $3, $4, $5, $6, $7, $8), "
    b"set_config('synchronous_commit', 'off', true)"
)
"""The same in libpq's own terms, as a transaction of its own whose commit awaits no disk.

For holds of calls that die with a crash of PostgreSQL. Its parameters are those of `all_of`.
"""
HELD = b"t"
"""What it answers, in PostgreSQL's text, when everything has been held."""


@dataclass(frozen=True, slots=True)
class HoldRequest:
    """Money to set aside for one job (`expires_at` None) or synchronous call."""

    id: UUID
    account_id: UUID
    key_id: UUID
    amount_nanos: int
    expires_at: datetime | None = None


def hold_all(session: Session, requests: Collection[HoldRequest]) -> bool:
    """Sets the amounts aside if all of them can be; whether they could."""
    parameters = all_of(requests)
    return parameters is not None and bool(fetch_rows(session, _HOLD_ALL, parameters)[0][0])


def all_of(requests: Collection[HoldRequest]) -> list[str] | None:
    """The function's parameters; None for more than all money, which has no room in them."""
    if any(each.amount_nanos > LARGEST_NANOS for each in requests):
        return None
    today = datetime.now(UTC).date()
    return [*arguments(requests, today), str(DEFAULT_DAILY_NANOS), str(DEFAULT_MONTHLY_NANOS)]


def arguments(requests: Collection[HoldRequest], today: date) -> Sequence[str]:
    """Requests as parameters: their ids, accounts, keys, amounts and expiries, and the day."""
    expiries = (each.expires_at for each in requests)
    return (
        array(each.id.hex for each in requests),
        array(each.account_id.hex for each in requests),
        array(each.key_id.hex for each in requests),
        array(str(each.amount_nanos) for each in requests),
        array("NULL" if at is None else at.isoformat() for at in expiries),
        today.isoformat(),
    )
