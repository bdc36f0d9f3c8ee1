"""Accounts' balances, locked and changed in one order, so that no two sets wait for each other."""

from collections.abc import Iterable, Mapping
from uuid import UUID

from sqlalchemy.orm import Session

from models.bulk import array, cursor, fetch_rows, uuid_array

_LOCK = """
    SELECT account_id, credits_nanos - debits_nanos - held_nanos FROM balances
    WHERE account_id = ANY(%(account_ids)s::uuid[]) ORDER BY account_id FOR UPDATE
"""
_CHANGE = b"""
    WITH changes AS (
        SELECT * FROM unnest(%(account_ids)s::uuid[], %(debits)s::bigint[], %(held)s::bigint[])
            AS changes (account_id, debits, held)
    ), locked AS (
        SELECT account_id FROM balances WHERE account_id = ANY(%(account_ids)s::uuid[])
        ORDER BY account_id FOR UPDATE
    )
    UPDATE balances SET debits_nanos = balances.debits_nanos + changes.debits,
                        held_nanos = balances.held_nanos + changes.held
    FROM locked JOIN changes USING (account_id) WHERE balances.account_id = locked.account_id
"""


def lock(session: Session, account_ids: Iterable[UUID]) -> dict[UUID, int]:
    """Locks the accounts' balances; what is available in each, in nano-USD."""
    return dict(fetch_rows(session, _LOCK, {"account_ids": uuid_array(account_ids)}))


def change(session: Session, changes: Mapping[UUID, tuple[int, int]]) -> None:
    """Adds (debits, held) to each account's balance, in nano-USD; locks what is not locked yet."""
    with cursor(session) as driver_cursor:
        driver_cursor.execute(
            _CHANGE,
            {
                "account_ids": uuid_array(changes),
                "debits": array(str(debits) for debits, _ in changes.values()),
                "held": array(str(held) for _, held in changes.values()),
            },
        )
