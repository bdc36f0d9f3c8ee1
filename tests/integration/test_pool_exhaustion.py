"""A worker whose connections are all taken: its actors fail, and the sweep brings the work back."""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import pytest
from sqlalchemy import Engine
from sqlalchemy.exc import TimeoutError as PoolTimeout

from gateway.lanes.leases import LeaseKeeper
from gateway.lanes.standard_lane import StandardLane
from models.migrate import sqlalchemy_url
from models.session import connect
from tests.integration.ladder import ask, escalate, in_a_batch
from tests.integration.lane_world import COST_NANOS, LINE_NANOS, World, opened
from tests.integration.webhook_world import make_world

POOL_SIZE = 2
POOL_TIMEOUT_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Tight:
    """A pool that can be emptied."""

    engine: Engine
    taken: ExitStack

    def exhaust(self) -> None:
        for _ in range(POOL_SIZE - self.engine.pool.checkedout()):  # type: ignore[attr-defined]  # QueuePool's
            self.taken.enter_context(self.engine.connect())

    def give_back(self) -> None:
        self.taken.pop_all().close()


@pytest.fixture
def tight(database_url: str) -> Iterator[Tight]:
    engine = connect(
        sqlalchemy_url(database_url),
        pool_size=POOL_SIZE,
        pool_timeout_seconds=POOL_TIMEOUT_SECONDS,
        name="tight-test",
    )
    with ExitStack() as taken:
        yield Tight(engine, taken)
    engine.dispose()


@pytest.fixture
def world(database_url: str, tight: Tight) -> Iterator[World]:
    """What looks on has connections of its own."""
    with opened(database_url) as world:
        world.works = replace(world.works, engine=tight.engine, leases=LeaseKeeper(tight.engine))
        yield world


def without_connections(step: Callable[..., Any], *arguments: Any) -> Any:
    """What an actor's message comes to."""
    try:
        return step(*arguments)
    except PoolTimeout:
        return None


@pytest.mark.parametrize("operation", ["upload", "create", "get_batch", "download"])
def test_a_step_that_finds_no_connection_for_what_it_has_done_is_taken_up_by_a_sweep(
    world: World, tight: Tight, operation: str
) -> None:
    world.accept(3)
    world.dialect.happens(operation, tight.exhaust, after=True)
    for _ in range(8):
        world.pass_time()
        without_connections(world.sweep)
        tight.give_back()
        for batch in world.dialect.running:
            batch.end()
    assert world.dialect.calls[operation] >= 1
    world.settle_down()
    assert world.jobs() == {"completed": 3}
    assert world.dialect.doubled() == set()
    assert world.moved() == {"charge": 3 * LINE_NANOS, "provider_cost": 3 * COST_NANOS}
    world.check_books()


def test_every_actor_of_the_lanes_fails_at_once_while_all_connections_are_taken(
    world: World, tight: Tight
) -> None:
    batch_id = world.form()
    world.accept()
    tight.exhaust()
    for step in (
        world.cut,
        world.poll,
        world.cancel_batches,
        world.settle_orphans,
        world.watch,
        lambda: world.submit(batch_id),
        lambda: world.resolve(batch_id),
        lambda: world.ingest(batch_id),
    ):
        with pytest.raises(PoolTimeout):
            step()
    tight.give_back()
    world.settle_down()
    assert world.jobs() == {"completed": 2}


def test_a_standard_call_that_finds_no_connection_is_written_when_there_is_one(
    world: World, tight: Tight
) -> None:
    in_a_batch(world)
    escalate(world)
    world.dialect.happens("call", tight.exhaust, after=True)
    ended = threading.Semaphore(0)
    lane = StandardLane(world.works, world.prices, ask, answered=ended.release)
    assert lane.start_due() == 1
    assert not ended.acquire(timeout=0.5)
    tight.give_back()
    assert ended.acquire(timeout=10)
    assert lane.close()
    assert (world.jobs(), world.dialect.calls["call"]) == ({"completed": 1}, 1)
    world.check_books()


def test_a_courier_without_a_connection_fails_and_delivers_when_it_is_rung_for_again(
    database_url: str, tight: Tight
) -> None:
    with make_world(database_url) as world:
        world.happen(world.sink.url("/hook"))
        courier = replace(world, engine=tight.engine).make_courier()
        tight.exhaust()
        with pytest.raises(PoolTimeout):
            courier.drain()
        tight.give_back()
        assert courier.drain() == 1
        assert len(world.sink.at("/hook")) == 1
