"""What every step of a provider batch's life needs, gathered once by the worker."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from uuid import UUID

from sqlalchemy import Engine

from gateway.catalogue.rates import PriceSnapshot
from gateway.lanes.credentials import Credentials
from gateway.lanes.leases import LeaseKeeper
from gateway.providers.dialect import BatchLimits, Dialect

TierPrices = Callable[[str, str, str], PriceSnapshot | None]
"""(provider, its name of a model, tier) -> the prices of a call that ran there, if it has some."""


def backoff_seconds(going_on: timedelta, *, shortest: float, longest: float) -> float:
    """The wait before the next try at what has failed for so long: a tenth of that."""
    return min(longest, max(shortest, going_on.total_seconds() / 10))


@dataclass(frozen=True, slots=True)
class LanePolicy:
    """The settings that shape provider batches.

    `max_requests` may lower a provider's own limit, never raise it.
    """

    window: timedelta
    ripe_requests: int
    poll_interval: timedelta
    doubt: timedelta
    max_requests: int | None = None

    def within(self, limits: BatchLimits) -> BatchLimits:
        """A provider's limits under these settings."""
        if self.max_requests is None or self.max_requests >= limits.requests:
            return limits
        return BatchLimits(self.max_requests, limits.bytes, limits.embedding_inputs)


@dataclass(frozen=True, slots=True)
class Works:
    """The worker's tools."""

    engine: Engine
    dialects: Mapping[str, Dialect]
    credentials: Credentials
    policy: LanePolicy
    leases: LeaseKeeper
    tier_prices: TierPrices
    spool_root: Path

    @contextmanager
    def spool(self, batch_id: UUID) -> Iterator[Path]:
        """A folder of its own for one piece of work, gone when it ends."""
        folder = Path(mkdtemp(prefix=f"{batch_id.hex}-", dir=self.spool_root))
        try:
            yield folder
        finally:
            rmtree(folder, ignore_errors=True)
