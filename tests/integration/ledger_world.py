"""Accounts and calls with money: what a test of the ledger works with."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import func, select

from gateway.billing import ledger, raising, suspense
from gateway.billing.ledger import Charge, HoldRequest
from gateway.billing.pricing import PriceBook
from gateway.billing.spending import Refusal
from gateway.catalogue.usage import Usage
from models import ids
from models.accounts import Account
from models.ledger import Balance
from models.migrate import sqlalchemy_url
from models.session import connect, transaction
from tests.integration.lane_records import Records
from tests.integration.lane_world import PRICES, charge_of


class Money(NamedTuple):
    """An account's side of the books, in nano-USD."""

    credits: int
    debits: int
    held: int

    @property
    def available(self) -> int:
        return self.credits - self.debits - self.held


@dataclass
class Ledger(Records):
    """The ledger's functions, each in a transaction of its own.

    Holds are those of synchronous calls, so that they need no job to be right.
    """

    def account(self, credit_nanos: int) -> UUID:
        account_id = ids.new()
        with transaction(self.engine) as session:
            session.add(Account(id=account_id, name="a", webhook_secret=b"sealed"))
            session.flush()
            session.add(Balance(account_id=account_id))
            session.flush()
            if credit_nanos:
                ledger.deposit(session, account_id, credit_nanos, "opening credit")
        return account_id

    def deposit(self, account_id: UUID, amount_nanos: int) -> None:
        with transaction(self.engine) as session:
            ledger.deposit(session, account_id, amount_nanos, "more")

    def request(self, account_id: UUID, amount_nanos: int) -> HoldRequest:
        """A call that may cost so much."""
        return HoldRequest(ids.new(), account_id, account_id, amount_nanos, self.soon())

    def soon(self) -> datetime:
        with self.engine.connect() as connection:
            now: datetime = connection.execute(select(func.now())).scalar_one()
        return now + timedelta(hours=1)

    def hold(self, *requests: HoldRequest) -> set[UUID]:
        return {request.id for request in requests} - self.refused(*requests).keys()

    def refused(self, *requests: HoldRequest) -> dict[UUID, Refusal]:
        """Why those are refused that are not held now."""
        with transaction(self.engine) as session:
            return ledger.hold(session, requests)

    def held(self, account_id: UUID, amount_nanos: int) -> UUID:
        """The id of a hold that is granted."""
        request = self.request(account_id, amount_nanos)
        assert self.hold(request) == {request.id}
        return request.id

    def void(self, *hold_ids: UUID) -> set[UUID]:
        with transaction(self.engine) as session:
            return ledger.void(session, hold_ids)

    def settle(self, *charges: Charge) -> set[UUID]:
        return self.resolve(charges, ())

    def resolve(self, charges: Sequence[Charge], voided: Sequence[UUID]) -> set[UUID]:
        with transaction(self.engine) as session:
            PriceBook().store(session, PRICES)
            return ledger.resolve(session, charges, voided)

    def raise_holds(self, amounts_nanos: Mapping[UUID, int]) -> set[UUID]:
        with transaction(self.engine) as session:
            return raising.raise_holds(session, amounts_nanos)

    def return_suspense(self, *hold_ids: UUID) -> set[UUID]:
        with transaction(self.engine) as session:
            return suspense.give_back(session, hold_ids)

    def money(self, account_id: UUID) -> Money:
        (row,) = self.rows(
            "SELECT credits_nanos, debits_nanos, held_nanos FROM balances WHERE account_id = :id",
            id=account_id,
        )
        return Money(row.credits_nanos, row.debits_nanos, row.held_nanos)


def costing(hold_id: UUID, nanos: int | None, batch_id: UUID | None = None) -> Charge:
    """A charge of so many nano-USD (a multiple of 11), or one without usage.

    In the batch lane an input token costs a nano-USD, and the markup is a tenth.
    """
    if nanos is None:
        return charge_of(hold_id, None, batch_id)
    assert nanos % 11 == 0
    charge = charge_of(hold_id, Usage(input_uncached=nanos // 11 * 10), batch_id)
    assert charge.amounts is not None
    assert charge.amounts.charged_nanos == nanos
    return charge


@contextmanager
def opened(database_url: str, *, pool_size: int = 8) -> Iterator[Ledger]:
    engine = connect(
        sqlalchemy_url(database_url),
        pool_size=pool_size,
        pool_timeout_seconds=30,
        name="ledger-test",
    )
    yield Ledger(engine)
    engine.dispose()
