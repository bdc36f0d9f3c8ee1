"""Raising holds: a job that goes to the standard lane may cost more than what is held for it."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from gateway.billing import balances, spending

# Which of them are open is told, not asked for; see `ledger`.
_LOCK = text(
    """
    SELECT id, account_id, key_id, held_on, amount_nanos, status = 'open' AS is_open FROM holds
    WHERE id = ANY(:hold_ids) ORDER BY id FOR UPDATE
    """
)
_RAISE = text(
    """
    UPDATE holds SET amount_nanos = holds.amount_nanos + more.amount_nanos
    FROM unnest(CAST(:hold_ids AS uuid[]), CAST(:amounts AS bigint[])) AS more (id, amount_nanos)
    WHERE holds.id = more.id
    """
)


@dataclass(frozen=True, slots=True)
class _Raise:
    """An open hold, and how much more it is to hold."""

    hold_id: UUID
    account_id: UUID
    key_id: UUID
    held_on: date
    more_nanos: int


def raise_holds(session: Session, amounts_nanos: Mapping[UUID, int]) -> set[UUID]:
    """Raises open holds to these amounts, each for itself; the ids of those that now hold it.

    What an account cannot cover, or exceeds a cap of its key, is left as it is, and so is a hold
    that is resolved. One that holds as much already counts as raised. Locks holds by id and then
    balances by account, as everything in the ledger does.
    """
    wanted = [
        _Raise(
            row.id,
            row.account_id,
            row.key_id,
            row.held_on,
            max(0, amounts_nanos[row.id] - row.amount_nanos),
        )
        for row in session.execute(_LOCK, {"hold_ids": list(amounts_nanos)})
        if row.is_open
    ]
    if not wanted:
        return set()
    available = balances.lock(session, {each.account_id for each in wanted})
    # What is beyond all money is not counted at all: the sum would have no room in the row.
    payable = [each for each in wanted if each.more_nanos <= available[each.account_id]]
    rooms = spending.add(session, _by_key(payable))
    raised: list[_Raise] = []
    refused: list[_Raise] = []
    for each in payable:
        granted = (
            each.more_nanos <= available[each.account_id]
            and rooms.take(each.key_id, each.held_on, each.more_nanos) is None
        )
        (raised if granted else refused).append(each)
        if granted:
            available[each.account_id] -= each.more_nanos
    spending.add(session, _by_key(refused, sign=-1))
    _hold_more(session, raised)
    return {each.hold_id for each in raised}


def _hold_more(session: Session, raised: Iterable[_Raise]) -> None:
    by_hold = {each.hold_id: each.more_nanos for each in raised if each.more_nanos}
    by_account: dict[UUID, tuple[int, int]] = {}
    for each in raised:
        _, held = by_account.get(each.account_id, (0, 0))
        by_account[each.account_id] = (0, held + each.more_nanos)
    session.execute(_RAISE, {"hold_ids": list(by_hold), "amounts": list(by_hold.values())})
    balances.change(session, by_account)


def _by_key(raises: Iterable[_Raise], sign: int = 1) -> dict[tuple[UUID, date], int]:
    sums: dict[tuple[UUID, date], int] = defaultdict(int)
    for each in raises:
        sums[each.key_id, each.held_on] += sign * each.more_nanos
    return sums
