"""Batches of many lines: memory does not grow with them, and time only as it has to."""

import gc
import time
from collections.abc import Iterator

import psutil
import pytest

from gateway.lanes.results import CHUNK_LINES
from tests.integration.fake_batches import result_line, succeeded
from tests.integration.fake_dialect import FakeDialect
from tests.integration.lane_world import COST_NANOS, LINE_NANOS, World, opened

LARGE = 8_000
GROWTH_BYTES = 30_000_000
SLOWEST_LINES_PER_SECOND = 500


@pytest.fixture(params=["names", "no names"])
def world(request: pytest.FixtureRequest, database_url: str) -> Iterator[World]:
    with opened(database_url, FakeDialect(keeps_metadata=request.param == "names")) as world:
        yield world


def resident_bytes() -> int:
    gc.collect()
    resident: int = psutil.Process().memory_info().rss
    return resident


def test_a_batch_of_several_chunks_lives_its_whole_life(world: World) -> None:
    accounts = [world.account() for _ in range(3)]
    for account in accounts:
        world.accept(1_000, account=account)
    world.settle_down()
    assert len(world.dialect.made) == 1
    assert world.batch_states() == {"done": 1}
    assert world.jobs() == {"completed": 3_000}
    assert world.moved() == {"charge": 3_000 * LINE_NANOS, "provider_cost": 3_000 * COST_NANOS}
    assert len(world.rows("SELECT 1 FROM transfers WHERE kind = 'provider_cost'")) == (
        -(-3_000 // CHUNK_LINES)
    )
    world.check_books()


def test_ingesting_is_quick_and_takes_no_memory_for_the_batch(database_url: str) -> None:
    with opened(database_url) as world:
        for _ in range(4):
            world.accept(LARGE // 4)
        began = time.monotonic()
        (batch_id,) = world.cut()
        world.submit(batch_id)
        prepared = time.monotonic() - began
        batch = world.dialect.only
        batch.end_with([result_line(line.custom_id, succeeded(line) or {}) for line in batch.lines])
        world.poll()
        before = resident_bytes()
        began = time.monotonic()
        assert world.ingest(batch_id)
        seconds = time.monotonic() - began
        growth = resident_bytes() - before
        assert world.jobs() == {"completed": LARGE}
        world.check_books()
    print(f"cut and submitted {LARGE / prepared:,.0f} lines/s", end=", ")
    print(f"ingested {LARGE / seconds:,.0f} lines/s, {growth / 1e6:.1f} MB more")
    assert growth < GROWTH_BYTES
    assert LARGE / seconds > SLOWEST_LINES_PER_SECOND
