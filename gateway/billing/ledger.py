"""The ledger: holds, settlements and deposits, each set-based and in the caller's transaction.

A hold is a pending transfer. It is resolved once: posted (the customer is charged, the rest is
released) or voided (all of it is released). Locks are taken in one order everywhere, holds by
id and then balances by account, so that no two sets can wait for each other.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, date, datetime
from uuid import UUID

from sqlalchemy import update
from sqlalchemy.orm import Session

from gateway.billing import balances, daily_usage, holding, settlements, spending, transfers
from gateway.billing.holding import HoldRequest as HoldRequest
from gateway.billing.settlements import Amounts as Amounts
from gateway.billing.settlements import Charge as Charge
from gateway.billing.settlements import Move, Owner, Tab
from gateway.billing.spending import Refusal
from models.bulk import copy_rows, cursor, fetch_rows, run, uuid_array
from models.ledger import Balance, Transfer
from models.states import HoldState, TransferKind
from models.usage import UsageSurface

_Tabs = Mapping[tuple[UUID, UUID, date], Tab]
# Two statements, each by primary key: how many of the ids are open is nothing that the planner
# could know, and joining what it takes for one row it would go through a set once for each. Which
# are open is told, not asked for: to leave the others out it would read the partial index of all
# open holds, once a set.
_LOCK = """
    SELECT id, account_id, key_id, amount_nanos, held_on, expires_at IS NULL, status = 'open'
    FROM holds WHERE id = ANY(%(hold_ids)s::uuid[]) ORDER BY id FOR UPDATE
"""
_MARK_RESOLVED = """
    UPDATE holds SET status = %(status)s, resolved_at = now() WHERE id = ANY(%(hold_ids)s::uuid[])
"""
_GRANT = b"""
    WITH granted AS (
        SELECT * FROM unnest(
            %s::uuid[], %s::uuid[], %s::uuid[], %s::bigint[], %s::timestamptz[]
        ) AS granted (id, account_id, key_id, amount_nanos, expires_at)
    ), changed AS (
        UPDATE balances SET held_nanos = held_nanos + sums.amount_nanos
        FROM (
            SELECT account_id, sum(amount_nanos)::bigint AS amount_nanos
            FROM granted GROUP BY account_id
        ) AS sums
        WHERE balances.account_id = sums.account_id
    )
    INSERT INTO holds (id, account_id, key_id, amount_nanos, status, held_on, expires_at)
    SELECT id, account_id, key_id, amount_nanos, 'open', %s, expires_at FROM granted
"""


def hold(session: Session, requests: Sequence[HoldRequest]) -> dict[UUID, Refusal]:
    """Sets the amounts aside, each request for itself, in their order; what is refused, and why.

    What an account cannot cover, or exceeds a cap of its key, is refused; the others are held.
    """
    if not requests or holding.hold_all(session, requests):
        return {}
    today = datetime.now(UTC).date()
    available = balances.lock(session, {request.account_id for request in requests})
    # What is beyond all money is not counted at all: the sum would have no room in the row.
    payable = [each for each in requests if each.amount_nanos <= available.get(each.account_id, -1)]
    rooms = spending.add(session, _by_key(payable, today))
    refused = {each.id: Refusal.FUNDS for each in requests}
    for request in payable:
        account_id, amount = request.account_id, request.amount_nanos
        if amount > available[account_id]:
            continue
        why_not = rooms.take(request.key_id, today, amount)
        if why_not is None:
            available[account_id] -= amount
            del refused[request.id]
        else:
            refused[request.id] = why_not
    granted = [request for request in requests if request.id not in refused]
    not_held = [request for request in payable if request.id in refused]
    spending.add(session, _by_key(not_held, today, sign=-1))
    if granted:
        _grant(session, granted, today)
    return refused


def _grant(session: Session, requests: Sequence[HoldRequest], today: date) -> None:
    """Holds what the balances, which are locked, can give."""
    with cursor(session) as driver_cursor:
        driver_cursor.execute(_GRANT, holding.arguments(requests, today))


def _by_key(
    requests: Iterable[HoldRequest], day: date, sign: int = 1
) -> dict[tuple[UUID, date], int]:
    sums: dict[tuple[UUID, date], int] = defaultdict(int)
    for request in requests:
        sums[request.key_id, day] += sign * request.amount_nanos
    return sums


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
    4. Balances come last, for they are what everybody wants, when all that is to be added is
       known; unless one must be looked into.
    """
    wanted: dict[UUID, Charge | None] = dict.fromkeys(voided)
    for charge in reversed(charges):
        wanted[charge.hold_id] = charge
    tabs: dict[tuple[UUID, UUID, date], Tab] = defaultdict(Tab)
    moves: list[Move] = []
    released: list[UUID] = []
    # All at once: in two goes their order would be lost.
    for hold_id, account_id, key_id, amount, held_on, is_job, is_open in fetch_rows(
        session, _LOCK, {"hold_ids": uuid_array(wanted)}
    ):
        if not is_open:
            continue
        tab = tabs[account_id, key_id, held_on]
        tab.released_nanos += amount
        wants = wanted[hold_id]
        if wants is None:
            released.append(hold_id)
        else:
            surface = UsageSurface.ASYNC if is_job else UsageSurface.SYNC
            moves.append(_move(wants, Owner(account_id, key_id, amount, surface, tab)))
    posted = [move.charge.hold_id for move in moves]
    _mark(session, HoldState.POSTED, posted)
    _mark(session, HoldState.VOIDED, released)
    if not tabs:
        return set()
    _cover_overruns(session, moves, tabs)
    if moves:
        settlements.write(session, moves)
    used = settlements.usage(moves)
    changes: dict[UUID, tuple[int, int]] = defaultdict(lambda: (0, 0))
    for (account_id, _, _), tab in tabs.items():
        debits, held = changes[account_id]
        changes[account_id] = (debits + tab.paid_nanos, held - tab.released_nanos)
    balances.change(session, changes)
    spending.add(
        session,
        {(key, day): tab.paid_nanos - tab.released_nanos for (_, key, day), tab in tabs.items()},
    )
    daily_usage.add(session, used)
    return {*posted, *released}


def _mark(session: Session, status: HoldState, hold_ids: Collection[UUID]) -> None:
    """Resolves holds that are locked already."""
    if hold_ids:
        parameters = {"hold_ids": uuid_array(hold_ids), "status": status.value}
        run(session, _MARK_RESOLVED, parameters)


def _move(charge: Charge, owner: Owner) -> Move:
    """A charge as far as its own hold covers it."""
    held = owner.amount_nanos
    charged = held if charge.amounts is None else charge.amounts.charged_nanos
    paid = min(charged, held)
    owner.tab.paid_nanos += paid
    return Move(charge, owner, paid, charged - paid)


def _cover_overruns(session: Session, moves: Iterable[Move], tabs: _Tabs) -> None:
    """Draws on the balances for what holds did not cover, in order, as far as they go."""
    overruns = [move for move in moves if move.lost_nanos]
    if not overruns:
        return
    pools = balances.lock(session, {account_id for account_id, _, _ in tabs})
    for (account_id, _, _), tab in tabs.items():
        # What its own hold covers is not there for the overruns of others.
        pools[account_id] += tab.released_nanos - tab.paid_nanos
    for move in overruns:
        drawn = min(move.lost_nanos, pools[move.owner.account_id])
        pools[move.owner.account_id] -= drawn
        move.owner.tab.paid_nanos += drawn
        move.paid_nanos += drawn
        move.lost_nanos -= drawn


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
        transfers.COLUMNS,
        [transfers.row(TransferKind.DEPOSIT, amount_nanos, account_id, None, None, note)],
    )


def book_unbilled_cost(
    session: Session,
    batch_id: UUID | None,
    cost_nanos: int,
    note: str,
    *,
    transfer_id: UUID | None = None,
) -> None:
    """What the house owes a provider for work that no customer is charged for.

    Whoever may have to repeat a transaction whose commit was not heard gives the transfer's id,
    and it is booked once.
    """
    if not cost_nanos or (transfer_id and session.get(Transfer, transfer_id)):
        return
    kind = TransferKind.UNBILLED_COST
    row = transfers.row(kind, cost_nanos, None, None, batch_id, note, transfer_id=transfer_id)
    copy_rows(session, Transfer, transfers.COLUMNS, [row])
