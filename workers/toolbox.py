"""What the actors work with, built once when the worker process starts."""

import os
import shutil
import tempfile
import time
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Engine

from gateway.billing.pricing import PriceBook
from gateway.calls.guarded import call_once
from gateway.house import House, build
from gateway.lanes.leases import LeaseKeeper
from gateway.lanes.records import Target
from gateway.lanes.standard_lane import StandardLane
from gateway.lanes.works import Works
from gateway.net.guard import Dialler
from gateway.providers.dialect import Answer
from gateway.webhooks.delivery import Courier
from gateway.webhooks.transport import GuardedTransport
from settings import Settings
from workers.bell import Actor, Bell
from workers.room import Room

POOL_SIZE = 7
"""Of the 18 connections that the default formation may use."""
HEAVY_AT_ONCE = 4
"""Half of the threads: whatever is submitted and ingested, the clock and the webhooks go on."""

STALE_SPOOL_SECONDS = 86_400


@dataclass(frozen=True, slots=True)
class Toolbox:
    """The worker's tools."""

    settings: Settings
    house: House
    engine: Engine
    works: Works
    prices: PriceBook
    standard_lane: StandardLane
    courier: Courier
    bell: Bell
    room: Room

    def heavy_work(self) -> AbstractContextManager[bool]:
        """Whether there is room for another long piece of work; if not, it is rung for again."""
        return self.room.place()


class _Holder:
    """The process's toolbox; Dramatiq gives actors no other way to be handed something."""

    toolbox: Toolbox | None = None


def fill(settings: Settings) -> Toolbox:
    """Builds the toolbox of this process."""
    house = build(settings, name="offpeak-worker", pool_size=POOL_SIZE)
    vault = house.webhook_vault
    works = Works(
        engine=house.engine,
        dialects=house.dialects,
        credentials=house.lane_credentials(),
        policy=house.policy,
        leases=LeaseKeeper(house.engine),
        tier_prices=house.catalogue.tier_prices,
        spool_root=_spool_root(),
    )
    bell, prices = Bell(settings), PriceBook()

    def ask(target: Target, body: dict[str, Any], timeout_seconds: float) -> Answer:
        return call_once(
            house.breakers,
            target.dialect,
            target.credential,
            target.endpoint,
            target.model,
            body,
            timeout_seconds,
        )

    toolbox = Toolbox(
        settings=settings,
        house=house,
        engine=house.engine,
        works=works,
        prices=prices,
        standard_lane=StandardLane(
            works, prices, ask, answered=lambda: bell.ring(Actor.DELIVER_WEBHOOKS)
        ),
        courier=Courier(
            house.engine,
            vault.open,
            allow_private=settings.webhook_allow_private,
            transport=GuardedTransport(Dialler(settings.webhook_allow_private)),
        ),
        bell=bell,
        room=Room(HEAVY_AT_ONCE, lambda: bell.ring(Actor.SWEEP_BATCHES)),
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
