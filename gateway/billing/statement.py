"""An account's statement: each transfer of its money, and the balance after it.

Amounts are signed: what the account is given is positive. A balance is what was given less what
was taken up to then, in the order of the transfers' ids; what is merely held is in no balance.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from models import ids
from models.states import TransferKind

KINDS = (
    TransferKind.DEPOSIT,
    TransferKind.CHARGE,
    TransferKind.SUSPENSE,
    TransferKind.SUSPENSE_RETURN,
)
"""What may happen to a customer's money."""
SKEW = timedelta(hours=1)
"""Ids are made by processes' clocks and times are the database's: how far they may lie apart."""


@dataclass(frozen=True, slots=True)
class StatementFilter:
    """Which transfers are wanted: from `since` on, before `until`, of these kinds, of this key."""

    since: datetime | None = None
    until: datetime | None = None
    kinds: tuple[TransferKind, ...] = ()
    key_id: UUID | None = None

    @property
    def has_gaps(self) -> bool:
        """Whether transfers in between may be left out, so that balances would not add up."""
        return bool(self.kinds) or self.key_id is not None


NO_FILTER = StatementFilter()


@dataclass(frozen=True, slots=True)
class Entry:
    """One transfer. What is about a call is None for a deposit; `is_job` tells jobs from others.

    `balance_nanos` is the balance after it, None where it was not asked for.
    """

    id: UUID
    kind: TransferKind
    amount_nanos: int
    created_at: datetime
    note: str | None
    call_id: UUID | None
    is_job: bool
    key_id: UUID | None
    is_widget_key: bool
    provider: str | None
    model: str | None
    lane: str | None
    balance_nanos: int | None


class UnknownCursor(Exception):
    """The account has no transfer of the id that a page is to begin after."""


_SIGNED = "CASE WHEN credit = 'customer' THEN {0}amount_nanos ELSE -{0}amount_nanos END"
_OWNED = text("SELECT id FROM transfers WHERE id = :after AND account_id = :account_id")
# One statement, so that all of it is of one moment: the balance after the first entry is today's
# without what came after it.
_PAGE = f"""
    WITH page AS MATERIALIZED (
        SELECT transfers.id, kind, {_SIGNED.format("transfers.")} AS signed_nanos,
               transfers.created_at, note, hold_id
        FROM transfers {{join}}
        WHERE transfers.account_id = :account_id {{conditions}}
        ORDER BY transfers.id {{order}} LIMIT :limit
    )
    SELECT page.id, page.kind, page.signed_nanos AS amount_nanos, page.created_at, page.note,
           page.hold_id AS call_id, jobs.id IS NOT NULL AS is_job, holds.key_id,
           widget_keys.id IS NOT NULL AS is_widget_key,
           settlements.provider, settlements.model, settlements.lane,
           {{balance}} AS balance_nanos
    FROM page
    LEFT JOIN holds ON holds.id = page.hold_id AND holds.account_id = :account_id
    LEFT JOIN jobs ON jobs.id = page.hold_id AND jobs.account_id = :account_id
    LEFT JOIN settlements
        ON settlements.id = page.hold_id AND settlements.account_id = :account_id
    LEFT JOIN widget_keys ON widget_keys.id = holds.key_id
    ORDER BY page.id {{order}}
"""
_BALANCE_AFTER_FIRST = f"""(
    SELECT credits_nanos - debits_nanos - (
        SELECT coalesce(sum({_SIGNED.format("")}), 0)::bigint FROM transfers
        WHERE account_id = :account_id
          AND id > (SELECT id FROM page ORDER BY id {{order}} LIMIT 1))
    FROM balances WHERE account_id = :account_id
)"""


def page(
    session: Session,
    account_id: UUID,
    *,
    limit: int,
    wanted: StatementFilter = NO_FILTER,
    after: UUID | None = None,
    ascending: bool = False,
    balance_nanos: int | None = None,
) -> list[Entry]:
    """Up to `limit` entries after the entry `after`, newest first unless `ascending`.

    With balances, unless the filter leaves gaps. That of the first entry is summed from all that
    came after it, which takes the longer the more that is; who reads on in ascending order is
    spared that by giving `balance_nanos`, the one after `after`. Raises UnknownCursor.
    """
    conditions, parameters = _conditions(wanted)
    if after is not None:
        owned = session.execute(_OWNED, {"after": after, "account_id": account_id}).first()
        if owned is None:
            raise UnknownCursor
        conditions.append(f"transfers.id {'>' if ascending else '<'} :after")
    order = "ASC" if ascending else "DESC"
    is_given = ascending and balance_nanos is not None
    balance = _BALANCE_AFTER_FIRST.format(order=order)
    query = _PAGE.format(
        join="" if wanted.key_id is None else "JOIN holds ON holds.id = transfers.hold_id",
        conditions="".join(f" AND {each}" for each in conditions),
        order=order,
        balance="NULL::bigint" if is_given or wanted.has_gaps else balance,
    )
    values = {**parameters, "account_id": account_id, "after": after, "limit": limit}
    rows = session.execute(text(query), values).mappings()
    entries = [_entry(row) for row in rows]
    if not entries or wanted.has_gaps:
        return entries
    first = entries[0].balance_nanos
    if first is None:
        first = (balance_nanos or 0) + entries[0].amount_nanos
    return list(_balanced(entries, first, ascending=ascending))


def _conditions(wanted: StatementFilter) -> tuple[list[str], dict[str, object]]:
    """By id as well, which there is an index for."""
    conditions: list[str] = []
    parameters: dict[str, object] = {}
    if wanted.since is not None:
        conditions.append("transfers.id >= :first_id AND transfers.created_at >= :since")
        parameters |= {"since": wanted.since, "first_id": ids.floor(wanted.since - SKEW)}
    if wanted.until is not None:
        conditions.append("transfers.id < :end_id AND transfers.created_at < :until")
        parameters |= {"until": wanted.until, "end_id": ids.floor(wanted.until + SKEW)}
    if wanted.kinds:
        conditions.append("kind = ANY(:kinds)")
        parameters["kinds"] = [kind.value for kind in wanted.kinds]
    if wanted.key_id is not None:
        conditions.append("holds.key_id = :key_id")
        parameters["key_id"] = wanted.key_id
    return conditions, parameters


def _balanced(entries: Sequence[Entry], first_nanos: int, *, ascending: bool) -> Iterator[Entry]:
    """The entries with the balance after each, from that after the first one."""
    balance = first_nanos
    for entry, earlier in zip(entries, [None, *entries], strict=False):
        if earlier is not None:
            balance += entry.amount_nanos if ascending else -earlier.amount_nanos
        yield replace(entry, balance_nanos=balance)


def _entry(row: Mapping[Any, Any]) -> Entry:
    return Entry(**{**row, "kind": TransferKind(row["kind"])})
