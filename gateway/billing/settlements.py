"""What is written of calls that are charged: transfers, settlements, and the day's usage."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple
from uuid import UUID

from sqlalchemy.orm import Session

from gateway.billing import daily_usage, transfers
from gateway.billing.daily_usage import Slot, Sums, Use
from gateway.catalogue.usage import Usage
from models.bulk import copy_rows
from models.ledger import Settlement, Transfer
from models.states import TransferKind
from models.usage import UsageSurface


class Amounts(NamedTuple):
    """What a usage comes to: the provider's price, the customer's, and the standard lane's."""

    cost_nanos: int
    charged_nanos: int
    list_nanos: int


class Charge(NamedTuple):
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


@dataclass(slots=True)
class Tab:
    """What the holds that are resolved together were, and what is charged for them.

    One for each account, key and day.
    """

    released_nanos: int = 0
    paid_nanos: int = 0


class Owner(NamedTuple):
    """Whose a hold is that this transaction has resolved."""

    account_id: UUID
    key_id: UUID
    amount_nanos: int
    surface: UsageSurface
    tab: Tab


@dataclass(slots=True)
class Move:
    """What one charge takes from its customer, and what of it the house loses."""

    charge: Charge
    owner: Owner
    paid_nanos: int
    lost_nanos: int


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


def write(session: Session, moves: Sequence[Move]) -> None:
    """The transfers and settlements of charges that are decided."""
    copy_rows(session, Transfer, transfers.COLUMNS, _transfers(moves))
    copy_rows(session, Settlement, _SETTLEMENT_COLUMNS, map(_settlement, moves))


def usage(moves: Iterable[Move]) -> Sums:
    """What the same come to in their day; see `daily_usage`."""
    return daily_usage.summed(map(_use, moves))


def _transfers(moves: Iterable[Move]) -> Iterator[tuple[object, ...]]:
    """The charges, what the house loses on them, and what it owes the provider for each batch."""
    costs: dict[UUID | None, int] = defaultdict(int)
    for move in moves:
        charge = move.charge
        hold_id, batch_id = charge.hold_id, charge.batch_id
        kind = TransferKind.SUSPENSE
        if charge.amounts is not None:
            kind = TransferKind.CHARGE
            costs[batch_id] += charge.amounts.cost_nanos
        if move.paid_nanos:
            yield transfers.row(kind, move.paid_nanos, move.owner.account_id, hold_id, batch_id)
        if move.lost_nanos:
            yield transfers.row(TransferKind.OVERRUN_LOSS, move.lost_nanos, None, hold_id, batch_id)
    for batch_id, cost in costs.items():
        if cost:
            yield transfers.row(TransferKind.PROVIDER_COST, cost, None, None, batch_id)


def _use(move: Move) -> Use:
    charge, owner = move.charge, move.owner
    return Use(
        Slot(
            owner.account_id,
            owner.key_id,
            charge.provider,
            charge.model,
            charge.lane,
            owner.surface,
        ),
        charge.usage,
        held_nanos=owner.amount_nanos,
        paid_nanos=move.paid_nanos,
        list_nanos=None if charge.amounts is None else charge.amounts.list_nanos,
    )


def _settlement(move: Move) -> tuple[object, ...]:
    charge, owner = move.charge, move.owner
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
