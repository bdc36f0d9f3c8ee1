"""What a web process writes, one kind a transaction: many calls' holds, jobs, settlements.

A transaction of one kind takes its locks in one order (idempotency keys, holds, balances, each
sorted). Two kinds in one transaction would take balances twice, and two processes could then
wait for each other.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from gevent.threadpool import ThreadPool
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from gateway.billing import holding, ledger
from gateway.billing.ledger import Charge, HoldRequest
from gateway.billing.pricing import PriceBook
from gateway.calls import errors, idempotency
from gateway.calls.errors import CallError
from gateway.calls.idempotency import Stored
from gateway.calls.intake import Intake, Submission
from gateway.calls.realtime import Call
from models.session import transaction
from web.loop import Statements


class Kind(Enum):
    """What can be written; callers wait for the first two."""

    BEGIN = "begin"
    ACCEPT = "accept"
    SETTLE = "settle"
    ABANDON = "abandon"


NOT_DURABLE = frozenset({Kind.BEGIN, Kind.ABANDON})
"""What a crash of PostgreSQL may undo: holds of calls that die with it."""


@dataclass(frozen=True, slots=True)
class Settled:
    """A call that has been answered, its price, and the answer to keep under its key."""

    call: Call
    charge: Charge
    answer: Stored


class Writes:
    """Writes groups of one kind, one at a time; `thread` is where the caller commits them."""

    def __init__(self, engine: Engine, thread: ThreadPool) -> None:
        self._engine = engine
        self._statements = Statements(engine, thread)
        self._intake = Intake()
        self._prices = PriceBook()
        self._write: Mapping[Kind, Callable[[Session, Sequence[Any]], Sequence[Any]]] = {
            Kind.BEGIN: self._begin,
            Kind.ACCEPT: self._intake.accept,
            Kind.SETTLE: self._settle,
            Kind.ABANDON: self._abandon,
        }

    def commit_at_once(self, kind: Kind, payloads: Sequence[Any]) -> bool:
        """Writes a group by one statement, on the event loop; whether it could be.

        So are calls held that have no idempotency key, if the money is there for all of them.
        Otherwise nothing has been done, and `commit` is to.
        """
        if kind is not Kind.BEGIN or any(call.keyed is not None for call in payloads):
            return False
        parameters = holding.all_of([_hold_request(call) for call in payloads])
        if parameters is None:
            return False
        return self._statements.ask(holding.NOT_DURABLY, parameters) == holding.HELD

    def let_go(self) -> None:
        """Gives back the connection of `commit_at_once`, which is for one of the two at a time."""
        self._statements.give_back()

    def commit(self, kind: Kind, payloads: Sequence[Any]) -> Sequence[Any]:
        """One transaction; each payload's outcome.

        A `Call` to begin: None, or the earlier answer or the CallError that its caller gets.
        A `Submission` to accept: the answer or the CallError. `Settled` and a `Call` to abandon:
        None.
        """
        with transaction(self._engine, durable=kind not in NOT_DURABLE) as session:
            outcomes = self._write[kind](session, payloads)
        if kind is Kind.ACCEPT:
            self._intake.committed()
        if kind is Kind.SETTLE:
            for settled in payloads:
                self._prices.remember(settled.call.prices(settled.charge.price_id))
        return outcomes

    def _begin(self, session: Session, calls: Sequence[Call]) -> list[Stored | CallError | None]:
        keyed = [call.keyed for call in calls if call.keyed is not None]
        told = dict(idempotency.claim(session, keyed))
        fresh = [call for call in calls if call.id not in told]
        not_held = ledger.hold(session, [_hold_request(call) for call in fresh])
        refused = [call for call in fresh if call.id in not_held]
        idempotency.forget(session, [call.keyed for call in refused if call.keyed is not None])
        told.update({call_id: errors.not_held(why) for call_id, why in not_held.items()})
        return [told.get(call.id) for call in calls]

    def _settle(self, session: Session, group: Sequence[Settled]) -> list[None]:
        snapshots = {each.charge.price_id: each.call.prices(each.charge.price_id) for each in group}
        for snapshot in snapshots.values():
            self._prices.store(session, snapshot)
        ledger.settle(session, [each.charge for each in group])
        for each in group:
            if each.call.keyed is not None:
                idempotency.answer(session, each.call.keyed, each.answer)
        return [None for _ in group]

    def _abandon(self, session: Session, calls: Sequence[Call]) -> list[None]:
        ledger.void(session, [call.id for call in calls])
        idempotency.forget(session, [call.keyed for call in calls if call.keyed is not None])
        return [None for _ in calls]


def _hold_request(call: Call) -> HoldRequest:
    return HoldRequest(call.id, call.account_id, call.key_id, call.estimated_nanos, call.expires_at)


Payload = Call | Submission | Settled
