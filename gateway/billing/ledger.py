"""The ledger: holds, settlements and deposits, each set-based and in the caller's transaction.

A hold is a pending transfer. It is resolved once: posted (the customer is charged, the rest is
released) or voided (all of it is released). Locks are taken in one order everywhere, holds by
id and then balances by account, so that no two sets can wait for each other.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import bindparam, select, text, update
from sqlalchemy.orm import Session

from gateway.catalogue.usage import Usage
from models import ids
from models.bulk import copy_rows
from models.ledger import Balance, Hold, Settlement, Transfer
from models.states import TRANSFER_SIDES, HoldState, TransferKind


@dataclass(frozen=True, slots=True)
class HoldRequest:
    """Money to set aside for one job (`expires_at` None) or synchronous call."""

    id: UUID
    account_id: UUID
    key_id: UUID
    amount_nanos: int
    expires_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Amounts:
    """What a usage comes to: the provider's price, the customer's, and the standard lane's."""

    cost_nanos: int
    charged_nanos: int
    list_nanos: int


@dataclass(frozen=True, slots=True)
class Charge:
    """What one job or call used. `amounts` is None where the provider reported no usage."""

    hold_id: UUID
    lane: str
    provider: str
    model: str
    price_id: str
    markup_bps: int
    usage: Usage
    amounts: Amounts | None
    batch_id: UUID | None = None


@dataclass(frozen=True, slots=True)
class _Resolved:
    """A hold that this transaction has resolved."""

    account_id: UUID
    key_id: UUID
    amount_nanos: int


@dataclass(frozen=True, slots=True)
class _Move:
    """What one charge takes from its customer, and what of it the house loses."""

    charge: Charge
    account_id: UUID
    paid_nanos: int
    lost_nanos: int


_TRANSFER_COLUMNS = (
    "id",
    "kind",
    "debit",
    "credit",
    "account_id",
    "hold_id",
    "batch_id",
    "amount_nanos",
    "note",
)
_SETTLEMENT_COLUMNS = (
    "id",
    "account_id",
    "key_id",
    "lane",
    "provider",
    "model",
    "price_id",
    "markup_bps",
    "unpriced",
    "input_uncached",
    "cache_read",
    "cache_write_short",
    "cache_write_long",
    "output",
    "reasoning",
    "cost_nanos",
    "charged_nanos",
    "list_nanos",
    "batch_id",
)

_LOCK_OPEN = text(
    """
    SELECT id, account_id, key_id, amount_nanos FROM holds
    WHERE id = ANY(:hold_ids) AND status = 'open' ORDER BY id FOR UPDATE
    """
)
_MARK_RESOLVED = text(
    "UPDATE holds SET status = :status, resolved_at = now() WHERE id = ANY(:hold_ids)"
)


def hold(session: Session, requests: Sequence[HoldRequest]) -> set[UUID]:
    """Sets the amounts aside, each request for itself, in their order; the ids that were granted.

    What an account cannot cover is not granted; the others are.
    """
    available = _lock_balances(session, {request.account_id for request in requests})
    granted: list[HoldRequest] = []
    held: dict[UUID, int] = defaultdict(int)
    for request in requests:
        if request.amount_nanos <= available.get(request.account_id, -1):
            available[request.account_id] -= request.amount_nanos
            held[request.account_id] += request.amount_nanos
            granted.append(request)
    if not granted:
        return set()
    _change_balances(session, {account: (0, amount) for account, amount in held.items()})
    copy_rows(
        session,
        Hold,
        ("id", "account_id", "key_id", "amount_nanos", "status", "expires_at"),
        (
            (
                request.id,
                request.account_id,
                request.key_id,
                request.amount_nanos,
                HoldState.OPEN.value,
                request.expires_at,
            )
            for request in granted
        ),
    )
    return {request.id for request in granted}


def void(session: Session, hold_ids: Iterable[UUID]) -> set[UUID]:
    """Releases open holds whole; the ids that were still open."""
    return resolve(session, (), hold_ids)


def settle(session: Session, charges: Sequence[Charge]) -> set[UUID]:
    """Posts open holds at what the work cost; the ids of those that were still open."""
    return resolve(session, charges, ())


def resolve(session: Session, charges: Sequence[Charge], voided: Iterable[UUID]) -> set[UUID]:
    """Posts some open holds and voids others; the ids of those that were still open.

    Both in one call, because balances are locked once: who locks some, and then others, meets
    who does it the other way round.

    1. Holds are resolved; one that was resolved before is left out, so nothing is charged twice.
    2. A charge is covered by its own hold first. What exceeds it draws the balance, with what
       other holds of this set gave back; what the balance cannot give is the house's loss.
    3. A charge without usage moves its whole hold to suspense.
    """
    wanted: dict[UUID, Charge] = {}
    for charge in charges:
        wanted.setdefault(charge.hold_id, charge)
    posted = _resolve(session, wanted, HoldState.POSTED)
    released = _resolve(session, voided, HoldState.VOIDED)
    owners = posted | released
    if not owners:
        return set()
    settled = [(charge, posted[each]) for each, charge in wanted.items() if each in posted]
    pools = _lock_balances(session, {owner.account_id for owner in owners.values()})
    held: dict[UUID, int] = defaultdict(int)
    for owner in owners.values():
        held[owner.account_id] += owner.amount_nanos
        pools[owner.account_id] += owner.amount_nanos
    for charge, owner in settled:
        # What its own hold covers is not there for the overruns of others.
        pools[owner.account_id] -= min(_charged(charge, owner), owner.amount_nanos)
    moves = _moves(settled, pools)
    debits: dict[UUID, int] = defaultdict(int)
    for move in moves:
        debits[move.account_id] += move.paid_nanos
    _change_balances(
        session, {account: (debits[account], -amount) for account, amount in held.items()}
    )
    if settled:
        copy_rows(session, Transfer, _TRANSFER_COLUMNS, _transfers(moves))
        rows = (_settlement(*each) for each in settled)
        copy_rows(session, Settlement, _SETTLEMENT_COLUMNS, rows)
    return set(owners)


def _charged(charge: Charge, owner: _Resolved) -> int:
    return owner.amount_nanos if charge.amounts is None else charge.amounts.charged_nanos


def _moves(settled: Iterable[tuple[Charge, _Resolved]], pools: dict[UUID, int]) -> list[_Move]:
    """Who pays what; `pools` is what each account has left for overruns, and is drawn from."""
    moves = []
    for charge, owner in settled:
        charged = _charged(charge, owner)
        overrun = max(0, charged - owner.amount_nanos)
        drawn = min(overrun, pools[owner.account_id])
        pools[owner.account_id] -= drawn
        moves.append(_Move(charge, owner.account_id, charged - overrun + drawn, overrun - drawn))
    return moves


def _transfers(moves: Iterable[_Move]) -> Iterator[tuple[object, ...]]:
    """The charges, what the house loses on them, and what it owes the provider for each batch."""
    costs: dict[UUID | None, int] = defaultdict(int)
    for move in moves:
        charge = move.charge
        kind = TransferKind.SUSPENSE if charge.amounts is None else TransferKind.CHARGE
        if charge.amounts is not None:
            costs[charge.batch_id] += charge.amounts.cost_nanos
        for moved, amount, account_id in (
            (kind, move.paid_nanos, move.account_id),
            (TransferKind.OVERRUN_LOSS, move.lost_nanos, None),
        ):
            if amount:
                yield _transfer(moved, amount, account_id, charge.hold_id, charge.batch_id)
    for batch_id, cost in costs.items():
        if cost:
            yield _transfer(TransferKind.PROVIDER_COST, cost, None, None, batch_id)


def deposit(session: Session, account_id: UUID, amount_nanos: int, note: str) -> None:
    """Credits an account that exists with a positive amount."""
    session.execute(
        update(Balance)
        .where(Balance.account_id == account_id)
        .values(credits_nanos=Balance.credits_nanos + amount_nanos)
    )
    copy_rows(
        session,
        Transfer,
        _TRANSFER_COLUMNS,
        [_transfer(TransferKind.DEPOSIT, amount_nanos, account_id, None, None, note)],
    )


def book_unbilled_cost(session: Session, batch_id: UUID, cost_nanos: int, note: str) -> None:
    """What the house owes a provider for work that no customer is charged for."""
    if cost_nanos:
        copy_rows(
            session,
            Transfer,
            _TRANSFER_COLUMNS,
            [_transfer(TransferKind.UNBILLED_COST, cost_nanos, None, None, batch_id, note)],
        )


def return_suspense(session: Session, hold_ids: Sequence[UUID]) -> None:
    """Gives customers back what lies in suspense for these holds; each at most once."""
    rows = session.execute(
        select(Transfer.hold_id, Transfer.account_id, Transfer.amount_nanos).where(
            Transfer.hold_id.in_(hold_ids), Transfer.kind == TransferKind.SUSPENSE
        )
    ).all()
    returned: dict[UUID, int] = defaultdict(int)
    for _, account_id, amount in rows:
        assert account_id is not None  # a CHECK: a suspense transfer debits a customer
        returned[account_id] += amount
    _lock_balances(session, returned)
    for account_id, amount in returned.items():
        session.execute(
            update(Balance)
            .where(Balance.account_id == account_id)
            .values(credits_nanos=Balance.credits_nanos + amount)
        )
    copy_rows(
        session,
        Transfer,
        _TRANSFER_COLUMNS,
        [
            _transfer(TransferKind.SUSPENSE_RETURN, amount, account_id, hold_id, None)
            for hold_id, account_id, amount in rows
        ],
    )


def _transfer(
    kind: TransferKind,
    amount_nanos: int,
    account_id: UUID | None,
    hold_id: UUID | None,
    batch_id: UUID | None,
    note: str | None = None,
) -> tuple[object, ...]:
    debit, credit = TRANSFER_SIDES[kind]
    return (
        ids.new(),
        kind.value,
        debit.value,
        credit.value,
        account_id,
        hold_id,
        batch_id,
        amount_nanos,
        note,
    )


def _settlement(charge: Charge, owner: _Resolved) -> tuple[object, ...]:
    usage, amounts = charge.usage, charge.amounts
    return (
        charge.hold_id,
        owner.account_id,
        owner.key_id,
        charge.lane,
        charge.provider,
        charge.model,
        charge.price_id,
        charge.markup_bps,
        amounts is None,
        usage.input_uncached,
        usage.cache_read,
        usage.cache_write_short,
        usage.cache_write_long,
        usage.output,
        usage.reasoning,
        None if amounts is None else amounts.cost_nanos,
        None if amounts is None else amounts.charged_nanos,
        None if amounts is None else amounts.list_nanos,
        charge.batch_id,
    )


def _lock_balances(session: Session, account_ids: Iterable[UUID]) -> dict[UUID, int]:
    """Locks the accounts' balances; what is available in each, in nano-USD."""
    rows = session.execute(
        select(
            Balance.account_id,
            Balance.credits_nanos - Balance.debits_nanos - Balance.held_nanos,
        )
        .where(Balance.account_id.in_(list(account_ids)))
        .order_by(Balance.account_id)
        .with_for_update()
    )
    return {row[0]: row[1] for row in rows}


def _change_balances(session: Session, changes: Mapping[UUID, tuple[int, int]]) -> None:
    """Adds (debits, held) to balances that are locked already."""
    if changes:
        session.connection().execute(
            update(Balance)
            .where(Balance.account_id == bindparam("changed_account"))
            .values(
                debits_nanos=Balance.debits_nanos + bindparam("more_debits"),
                held_nanos=Balance.held_nanos + bindparam("more_held"),
            ),
            [
                {"changed_account": account_id, "more_debits": debits, "more_held": held}
                for account_id, (debits, held) in changes.items()
            ],
        )


def _resolve(
    session: Session, hold_ids: Iterable[UUID], status: HoldState
) -> dict[UUID, _Resolved]:
    """Resolves those of the holds that are open.

    Locked by one statement and changed by another, each by primary key: how many of the ids are
    open is nothing that the planner could know.
    """
    wanted = list(hold_ids)
    rows = session.execute(_LOCK_OPEN, {"hold_ids": wanted}).all() if wanted else ()
    if rows:
        session.execute(
            _MARK_RESOLVED, {"hold_ids": [row.id for row in rows], "status": status.value}
        )
    return {row.id: _Resolved(row.account_id, row.key_id, row.amount_nanos) for row in rows}
