"""Batches that their provider does not end, or says nothing more of: nothing waits for ever."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from uuid import UUID

import pytest

from gateway.lanes.records import RESULTS_KEPT
from gateway.lanes.reports import RUNNING_PATIENCE
from gateway.lanes.works import Works
from gateway.providers.dialect import BatchState, Unauthorized
from tests.integration.fake_batches import FakeBatch, result_line, succeeded
from tests.integration.lane_world import COST_NANOS, LINE_NANOS, World, opened
from tests.integration.test_lanes_faults import move_clock

HOUR = timedelta(hours=1)


@pytest.fixture
def world(database_url: str) -> Iterator[World]:
    with opened(database_url) as world:
        yield world


def stuck(world: World, count: int = 2) -> tuple[UUID, FakeBatch]:
    """A batch whose provider neither ends nor cancels it, a while before our patience ends."""
    batch_id, batch = world.submitted(count, deadline=timedelta(days=90))
    move_clock(world, RUNNING_PATIENCE - HOUR)
    world.sweep()
    assert (batch.state, batch.was_cancelled) == (BatchState.CANCELLING, True)
    assert world.batch(batch_id).status == "in_progress"
    return batch_id, batch


def without_keys(world: World) -> Works:
    """The worker's tools when all keys have been taken out of its environment."""
    none = replace(world.works.credentials, house={})
    return replace(world.works, credentials=none)


def alerts(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [each.message for each in caplog.records if getattr(each, "alert", False)]


def test_a_batch_that_is_never_ended_goes_back_to_the_queue_and_its_late_cost_is_the_houses(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    batch_id, batch = stuck(world)
    move_clock(world, 2 * HOUR)
    world.sweep()
    assert world.batch(batch_id).status == "done"
    assert world.jobs()["queued"] == 2
    assert alerts(caplog) == ["batch.overdue", "batch.never_ended", "batch.orphans_found"]
    world.sweep()
    _, again = world.dialect.made.values()
    batch.end()
    again.end()
    world.settle_down()
    assert world.jobs() == {"completed": 2}
    assert world.moved() == {
        "charge": 2 * LINE_NANOS,
        "provider_cost": 2 * COST_NANOS,
        "unbilled_cost": 2 * COST_NANOS,
    }
    world.check_books()


def test_what_a_batch_that_is_never_ended_shows_of_its_results_is_taken_in(world: World) -> None:
    batch_id, batch = stuck(world)
    first = batch.lines[0]
    answer = succeeded(first)
    assert answer is not None
    batch.files = {"partial": result_line(first.custom_id, answer) + b"\n"}
    move_clock(world, 2 * HOUR)
    for ended in world.poll():
        world.ingest(ended)
    assert world.batch(batch_id).status == "done"
    assert world.jobs() == {"completed": 1, "queued": 1}
    assert world.rows("SELECT 1 FROM orphan_batches") == []
    world.settle_down()
    assert world.moved() == {"charge": 2 * LINE_NANOS, "provider_cost": 2 * COST_NANOS}
    world.check_books()


def test_jobs_whose_batches_are_never_ended_fail_uncharged_after_three_rounds(world: World) -> None:
    (job_id,) = world.accept(deadline=timedelta(days=90))
    for _ in range(3):
        for _ in range(2):
            world.sweep()
        move_clock(world, RUNNING_PATIENCE + HOUR)
    for _ in range(2):
        world.sweep()
    assert len(world.dialect.made) == 3
    assert (world.jobs(), world.error(job_id)["code"]) == ({"failed": 1}, 502)
    assert world.moved() == {}
    world.check_books()


@pytest.mark.parametrize("key", ["revoked", "gone"])
def test_a_batch_that_its_provider_tells_nothing_of_is_given_up_when_its_results_are_gone(
    world: World, key: str, caplog: pytest.LogCaptureFixture
) -> None:
    batch_id, _ = world.submitted(deadline=timedelta(days=90))
    with_key = world.works
    if key == "gone":
        world.works = without_keys(world)
    move_clock(world, RESULTS_KEPT - HOUR)
    for expected in ("submitted", "done"):
        world.dialect.fail("get_batch", Unauthorized("revoked"))
        world.run("UPDATE provider_batches SET due_at = now()")
        assert world.poll() == []
        assert world.batch(batch_id).status == expected
        move_clock(world, 2 * HOUR)
    assert world.jobs() == {"queued": 1}
    assert alerts(caplog) == ["batch.not_told_of"]
    world.works = with_key
    world.dialect.scripts["get_batch"].clear()
    world.settle_down()
    assert world.jobs() == {"completed": 1}
    world.check_books()


def test_results_that_no_key_can_fetch_are_given_up_when_they_are_gone(world: World) -> None:
    batch_id, _ = world.ended(deadline=timedelta(days=90))
    world.works = without_keys(world)
    for waited, expected in ((RESULTS_KEPT - HOUR, "ingesting"), (2 * HOUR, "done")):
        move_clock(world, waited)
        world.ingest(batch_id)
        assert world.batch(batch_id).status == expected
    assert world.jobs() == {"queued": 1}


def test_an_orphan_that_is_never_ended_is_given_up_when_its_results_are_gone(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    stuck(world)
    move_clock(world, 2 * HOUR)
    world.sweep()
    move_clock(world, RESULTS_KEPT)
    world.settle_orphans()
    (orphan,) = world.rows("SELECT booked_at, cost_nanos FROM orphan_batches")
    assert (orphan.booked_at is not None, orphan.cost_nanos) == (True, 0)
    assert alerts(caplog)[-1] == "orphan.given_up"
