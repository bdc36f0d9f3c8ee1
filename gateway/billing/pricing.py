"""From usage to money: price snapshots by their digest, and what a usage comes to under one."""

from collections.abc import Iterable

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from gateway.billing.ledger import Amounts
from gateway.billing.prices import cost_nanos
from gateway.catalogue.rates import PriceSnapshot
from gateway.catalogue.usage import Usage
from models.ledger import Price


class NoBatchPrice(Exception):
    """A batch-lane charge under a snapshot without a batch price; intake never makes such a job."""


class PriceBook:
    """Snapshots that this process has seen; they never change under their digest."""

    def __init__(self) -> None:
        self._snapshots: dict[str, PriceSnapshot] = {}

    def store(self, session: Session, snapshot: PriceSnapshot) -> str:
        """Makes sure the snapshot is in the database; its digest.

        Written again in every transaction of a process's life would cost a statement a call, so
        only what this process has not seen committed is written; see `remember`.
        """
        if snapshot.digest not in self._snapshots:
            session.execute(
                insert(Price)
                .values(id=snapshot.digest, snapshot=snapshot.to_json())
                .on_conflict_do_nothing()
            )
        return snapshot.digest

    def remember(self, snapshot: PriceSnapshot) -> None:
        """To be called when the transaction of `store` has been committed."""
        self._snapshots[snapshot.digest] = snapshot

    def load(self, session: Session, digests: Iterable[str]) -> dict[str, PriceSnapshot]:
        """The snapshots behind digests that jobs name."""
        wanted = set(digests)
        missing = wanted - self._snapshots.keys()
        if missing:
            for row in session.scalars(select(Price).where(Price.id.in_(missing))):
                self._snapshots[row.id] = PriceSnapshot.from_json(row.snapshot)
        return {digest: self._snapshots[digest] for digest in wanted}


def amounts(usage: Usage, snapshot: PriceSnapshot, lane: str, markup_bps: int) -> Amounts:
    """What a usage costs us, its customer, and would have cost in the standard lane.

    `lane` is `batch` or `standard`. A markup below zero is that of a call on the customer's own
    key: the provider bills them for all of the price, we for a fee of it, and nobody bills us.
    """
    rates = snapshot.batch if lane == "batch" else snapshot.standard
    if rates is None:
        raise NoBatchPrice(snapshot.digest)
    cost = cost_nanos(usage, rates)
    return Amounts(
        cost_nanos=0 if markup_bps < 0 else cost,
        charged_nanos=cost_nanos(usage, rates, markup_bps) if markup_bps else cost,
        list_nanos=cost_nanos(usage, snapshot.standard, markup_bps),
    )
