"""What the actors work with, built once when the worker process starts."""

import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import Engine

from gateway.billing.pricing import PriceBook
from gateway.house import build
from gateway.lanes.leases import LeaseKeeper
from gateway.lanes.works import Works
from gateway.webhooks.delivery import Courier
from settings import Settings
from workers.bell import Bell

POOL_SIZE = 7
"""Of the 18 connections that the default formation may use."""
HEAVY_AT_ONCE = 4
"""Half of the threads: whatever is submitted and ingested, the clock and the webhooks go on."""

STALE_SPOOL_SECONDS = 86_400


@dataclass(frozen=True, slots=True)
class Toolbox:
    """The worker's tools."""

    settings: Settings
    engine: Engine
    works: Works
    prices: PriceBook
    courier: Courier
    bell: Bell
    _heavy: threading.BoundedSemaphore = field(
        default_factory=lambda: threading.BoundedSemaphore(HEAVY_AT_ONCE)
    )

    @contextmanager
    def heavy_work(self) -> Iterator[bool]:
        """Whether there is room for another long piece of work; if not, a sweep rings again."""
        entered = self._heavy.acquire(blocking=False)
        try:
            yield entered
        finally:
            if entered:
                self._heavy.release()


class _Holder:
    """The process's toolbox; Dramatiq gives actors no other way to be handed something."""

    toolbox: Toolbox | None = None


def fill(settings: Settings) -> Toolbox:
    """Builds the toolbox of this process."""
    house = build(settings, name="offpeak-worker", pool_size=POOL_SIZE)
    vault = house.webhook_vault
    toolbox = Toolbox(
        settings=settings,
        engine=house.engine,
        works=Works(
            engine=house.engine,
            dialects=house.dialects,
            credentials=house.credentials,
            policy=house.policy,
            leases=LeaseKeeper(house.engine),
            spool_root=_spool_root(),
        ),
        prices=PriceBook(),
        courier=Courier(
            house.engine,
            vault.open,
            allow_private=settings.webhook_allow_private,
        ),
        bell=Bell(settings),
    )
    _Holder.toolbox = toolbox
    return toolbox


def _spool_root() -> Path:
    """Where batches are spooled; what killed processes left there a day ago is swept out."""
    root = Path(tempfile.gettempdir()) / f"offpeak-spool-{os.getuid()}"
    root.mkdir(mode=0o700, exist_ok=True)
    for folder in root.iterdir():
        with suppress(FileNotFoundError):
            if time.time() - folder.stat().st_mtime > STALE_SPOOL_SECONDS:
                shutil.rmtree(folder, ignore_errors=True)
    return root


def tools() -> Toolbox:
    """The toolbox of this process, once it is filled."""
    assert _Holder.toolbox is not None
    return _Holder.toolbox
