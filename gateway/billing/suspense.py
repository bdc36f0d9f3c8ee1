"""Suspense: what was held for calls whose usage the provider did not report.

It ends once: either the usage is found out, and the call is charged from what lies there, or all
of it goes back to the customer. Both lock the settlement first, so that they cannot both happen.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import Row, text
from sqlalchemy.orm import Session

from gateway.billing import daily_usage, transfers
from gateway.billing.settlements import Amounts
from gateway.catalogue.usage import Usage
from models.bulk import copy_rows
from models.ledger import Transfer
from models.states import TransferKind

_LOCK = text(
    "SELECT id FROM settlements WHERE id = ANY(:hold_ids) AND unpriced ORDER BY id FOR UPDATE"
)
# A statement of its own: what another transaction did before the lock was ours is seen only now.
_IN_SUSPENSE = text(
    """
    SELECT settlements.id AS hold_id, settlements.account_id, settlements.batch_id,
           coalesce(kept.amount_nanos, 0) AS amount_nanos
    FROM settlements
    LEFT JOIN transfers AS kept ON kept.hold_id = settlements.id AND kept.kind = 'suspense'
    WHERE settlements.id = ANY(:hold_ids) AND unpriced AND NOT EXISTS (
        SELECT 1 FROM transfers AS back
        WHERE back.hold_id = settlements.id AND back.kind = 'suspense_return')
    """
)
_CREDIT = text(
    """
    WITH locked AS (
        SELECT account_id FROM balances WHERE account_id = ANY(:account_ids)
        ORDER BY account_id FOR UPDATE
    )
    UPDATE balances SET credits_nanos = credits_nanos + back.amount_nanos
    FROM unnest(CAST(:account_ids AS uuid[]), CAST(:amounts AS bigint[]))
        AS back (account_id, amount_nanos) JOIN locked USING (account_id)
    WHERE balances.account_id = back.account_id
    """
)
_PRICE = text(
    """
    UPDATE settlements
    SET unpriced = false, input_uncached = :input_uncached, cache_read = :cache_read,
        cache_write_short = :cache_write_short, cache_write_long = :cache_write_long,
        output = :output, reasoning = :reasoning,
        cost_nanos = :cost, charged_nanos = :charged, list_nanos = :list
    WHERE id = :hold_id
    """
)


@dataclass(frozen=True, slots=True)
class Finding:
    """What a call in suspense turned out to have used, and what that comes to."""

    hold_id: UUID
    usage: Usage
    amounts: Amounts


def give_back(session: Session, hold_ids: Sequence[UUID]) -> set[UUID]:
    """Gives customers back what lies in suspense for these holds; for which of them it did."""
    rows = [row for row in _lock(session, hold_ids) if row.amount_nanos]
    _book(
        session,
        [_row(TransferKind.SUSPENSE_RETURN, row.amount_nanos, row) for row in rows],
        [(row.account_id, row.amount_nanos) for row in rows],
    )
    return {row.hold_id for row in rows}


def charge(session: Session, finding: Finding) -> bool:
    """Charges a call from its suspense and gives the rest back; False if it lies there no more.

    What it cost beyond its hold is the house's loss: its customer was told of a call that is over.
    """
    for row in _lock(session, [finding.hold_id]):
        charged = finding.amounts.charged_nanos
        taken = min(charged, row.amount_nanos)
        back = row.amount_nanos - taken
        moves = (
            (TransferKind.SUSPENSE_CHARGE, taken),
            (TransferKind.SUSPENSE_RETURN, back),
            (TransferKind.OVERRUN_LOSS, charged - taken),
            (TransferKind.PROVIDER_COST, finding.amounts.cost_nanos),
        )
        _price(session, finding)
        _book(
            session,
            [_row(kind, amount, row) for kind, amount in moves if amount],
            [(row.account_id, back)] if back else [],
        )
        daily_usage.priced(session, finding.hold_id, taken)
        return True
    return False


def _lock(session: Session, hold_ids: Sequence[UUID]) -> Sequence[Row[Any]]:
    locked = list(session.scalars(_LOCK, {"hold_ids": list(hold_ids)}))
    return session.execute(_IN_SUSPENSE, {"hold_ids": locked}).all() if locked else []


def _row(kind: TransferKind, amount_nanos: int, row: Row[Any]) -> tuple[object, ...]:
    hold_id: UUID | None = row.hold_id
    if kind is TransferKind.PROVIDER_COST:
        hold_id = None  # Costs are booked by batch.
    account_id = row.account_id if kind is TransferKind.SUSPENSE_RETURN else None
    batch_id = None if kind is TransferKind.SUSPENSE_RETURN else row.batch_id
    return transfers.row(kind, amount_nanos, account_id, hold_id, batch_id)


def _price(session: Session, finding: Finding) -> None:
    usage, amounts = finding.usage, finding.amounts
    session.execute(
        _PRICE,
        {
            "hold_id": finding.hold_id,
            **asdict(usage),
            "cost": amounts.cost_nanos,
            "charged": amounts.charged_nanos,
            "list": amounts.list_nanos,
        },
    )


def _book(
    session: Session, rows: Iterable[tuple[object, ...]], credits_: Iterable[tuple[UUID, int]]
) -> None:
    returned: dict[UUID, int] = defaultdict(int)
    for account_id, amount in credits_:
        returned[account_id] += amount
    copy_rows(session, Transfer, transfers.COLUMNS, rows)
    if returned:
        session.execute(
            _CREDIT, {"account_ids": list(returned), "amounts": list(returned.values())}
        )
