"""Leases on provider batches: who works on one now, and proof of it for every later write.

Claiming raises the row's epoch. Whoever finds another epoch on the row than the one it claimed
has lost the work (it was stopped for longer than the lease, say) and must write nothing more.
"""

import logging
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import Engine, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from models.session import transaction
from models.states import BatchStatus

log = logging.getLogger(__name__)

LEASE_SECONDS = 30
RENEWAL_SECONDS = 10
BREAKDOWN_SECONDS = 30.0


class LeaseLost(Exception):
    """Somebody else works on this batch now; nothing of ours may be written any more."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A batch that is ours as long as its epoch stands.

    `crashes` is how many claims before this one were not given back, since the last progress.
    """

    batch_id: UUID
    epoch: int
    status: BatchStatus
    crashes: int = 0


_CLAIM = text(
    f"""
    UPDATE provider_batches
    SET epoch = epoch + 1, leased_until = now() + interval '{LEASE_SECONDS} seconds',
        crashes = crashes + (leased_until IS NOT NULL)::int
    WHERE id = :batch_id AND status = ANY(:statuses) AND due_at <= now()
      AND (leased_until IS NULL OR leased_until < now())
    RETURNING epoch, status, crashes
    """
)
_RENEW = text(
    f"""
    UPDATE provider_batches SET leased_until = now() + interval '{LEASE_SECONDS} seconds'
    WHERE id = :batch_id AND epoch = :epoch AND leased_until IS NOT NULL
    RETURNING epoch
    """
)
_RELEASE = text(
    """
    UPDATE provider_batches
    SET leased_until = NULL, due_at = greatest(due_at, now() + make_interval(secs => :delay))
    WHERE id = :batch_id AND epoch = :epoch
    """
)
_FENCE = text("SELECT 1 FROM provider_batches WHERE id = :batch_id AND epoch = :epoch FOR UPDATE")


def claim(session: Session, batch_id: UUID, statuses: Collection[BatchStatus]) -> Claim | None:
    """Takes a due batch that nobody holds; None if it is not ours to take."""
    row = session.execute(
        _CLAIM, {"batch_id": batch_id, "statuses": [status.value for status in statuses]}
    ).first()
    if row is None:
        return None
    return Claim(batch_id, row.epoch, BatchStatus(row.status), row.crashes)


def fence(session: Session, claim: Claim) -> None:
    """Locks the batch's row for this transaction; LeaseLost if the claim no longer stands."""
    row = session.execute(_FENCE, {"batch_id": claim.batch_id, "epoch": claim.epoch}).first()
    if row is None:
        raise LeaseLost


class LeaseKeeper:
    """Renews, from one thread, the leases of all the work that is going on in this process."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._renewed: dict[Claim, float] = {}
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    @contextmanager
    def holding(self, claim: Claim) -> Iterator[None]:
        """Keeps the claim alive while the block runs, and gives it back at the end."""
        with self._lock:
            self._renewed[claim] = time.monotonic()
            if self._thread is None:
                self._thread = threading.Thread(target=self._renew, name="leases", daemon=True)
                self._thread.start()
        delay = 0.0
        try:
            yield
        except Exception:
            # What broke down for no reason that is provided for would do so again at once.
            delay = BREAKDOWN_SECONDS
            raise
        finally:
            with self._lock:
                del self._renewed[claim]
            self._release(claim, delay)

    def _release(self, claim: Claim, delay: float) -> None:
        try:
            with transaction(self._engine) as session:
                session.execute(
                    _RELEASE, {"batch_id": claim.batch_id, "epoch": claim.epoch, "delay": delay}
                )
        except SQLAlchemyError:
            log.warning("lease.not_released", extra={"batch_id": str(claim.batch_id)})

    def check(self, claim: Claim) -> None:
        """To be called right before what cannot be undone: LeaseLost if the lease ran out."""
        with self._lock:
            renewed = self._renewed.get(claim)
        if renewed is None or time.monotonic() - renewed >= LEASE_SECONDS:
            raise LeaseLost

    def _renew(self) -> None:
        while True:
            time.sleep(RENEWAL_SECONDS)
            with self._lock:
                claims = list(self._renewed)
            for claim in claims:
                self._renew_one(claim)

    def _renew_one(self, claim: Claim) -> None:
        asked = time.monotonic()
        try:
            with transaction(self._engine) as session:
                stands = session.execute(
                    _RENEW, {"batch_id": claim.batch_id, "epoch": claim.epoch}
                ).first()
        except SQLAlchemyError:
            # The next round tries again; work whose lease runs out meanwhile finds out by itself.
            log.warning("lease.not_renewed", extra={"batch_id": str(claim.batch_id)})
            return
        with self._lock:
            if stands and claim in self._renewed:
                self._renewed[claim] = asked
