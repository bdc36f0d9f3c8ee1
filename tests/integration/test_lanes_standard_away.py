"""Runs of the standard lane whose answers come while the database is away: none is made twice."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from psycopg.errors import UndefinedTable
from sqlalchemy.exc import OperationalError

from gateway.lanes import standard
from gateway.lanes.leases import LeaseKeeper
from gateway.lanes.records import Target
from gateway.lanes.standard_lane import StandardLane
from gateway.lanes.works import Works
from gateway.providers.dialect import Answer, Broken
from models.migrate import sqlalchemy_url
from models.session import connect
from tests.integration.database_proxy import DatabaseProxy
from tests.integration.ladder import (
    STANDARD_COST_NANOS,
    STANDARD_NANOS,
    ask,
    claim,
    escalate,
    in_a_batch,
    run_due,
    run_row,
)
from tests.integration.lane_world import World, opened

AWAY_SECONDS = 1.5
STANDARD = {"charge": STANDARD_NANOS, "provider_cost": STANDARD_COST_NANOS}


@pytest.fixture
def world(database_url: str) -> Iterator[World]:
    with opened(database_url) as world:
        yield world


@pytest.fixture
def proxy(database_url: str) -> Iterator[DatabaseProxy]:
    with DatabaseProxy(database_url) as proxy:
        yield proxy


@pytest.fixture
def works(world: World, proxy: DatabaseProxy) -> Iterator[Works]:
    """The tools of a worker whose way to the database fails."""
    engine = connect(sqlalchemy_url(proxy.url), pool_size=2, name="run-away-test")
    yield replace(world.works, engine=engine, leases=LeaseKeeper(engine))
    engine.dispose()


def then(happens: Callable[[], object]) -> standard.Ask:
    """The provider answers, and before anybody can write that down something happens."""

    def answer(target: Target, body: dict[str, Any], timeout_seconds: float) -> Answer:
        answered = ask(target, body, timeout_seconds)
        happens()
        return answered

    return answer


def go_away(proxy: DatabaseProxy) -> None:
    proxy.cut()
    threading.Timer(AWAY_SECONDS, proxy.mend).start()


def perform(world: World, works: Works, how: standard.Ask, **options: float) -> None:
    (run,) = claim(world)
    standard.perform(works, world.prices, how, run, **options)


def test_an_answer_that_cannot_be_written_is_kept_until_the_database_is_back(
    world: World, works: Works, proxy: DatabaseProxy
) -> None:
    in_a_batch(world)
    escalate(world)
    others: list[int] = []

    def meanwhile() -> None:
        go_away(proxy)
        others.append(run_due(world))

    ended = threading.Semaphore(0)
    lane = StandardLane(works, world.prices, then(meanwhile), answered=ended.release)
    assert lane.start_due() == 1
    assert ended.acquire(timeout=20)
    assert lane.close()
    assert (world.dialect.calls["call"], others) == (1, [0])
    assert (world.jobs(), world.moved()) == ({"completed": 1}, STANDARD)
    world.check_books()


def test_an_answer_whose_commit_was_not_heard_is_delivered_and_charged_once(
    world: World, works: Works, proxy: DatabaseProxy
) -> None:
    (job_id,) = in_a_batch(world)
    escalate(world)
    perform(world, works, then(lambda: proxy.cut_reply_to(b"COMMIT")))
    assert not proxy.is_armed
    assert run_row(world, job_id).ended_at is not None
    assert (world.jobs(), world.moved()) == ({"completed": 1}, STANDARD)
    world.check_books()


def test_the_cost_of_an_answer_that_came_too_late_is_booked_once_if_its_commit_was_not_heard(
    world: World, works: Works, proxy: DatabaseProxy
) -> None:
    in_a_batch(world)
    escalate(world)

    def lose() -> None:
        world.run("UPDATE standard_runs SET epoch = epoch + 1")
        proxy.cut_reply_to(b"COMMIT")

    perform(world, works, then(lose))
    assert not proxy.is_armed
    assert (world.jobs(), world.moved()) == (
        {"in_progress": 1},
        {"unbilled_cost": STANDARD_COST_NANOS},
    )


def test_a_failure_whose_commit_was_not_heard_counts_once(
    world: World, works: Works, proxy: DatabaseProxy
) -> None:
    (job_id,) = in_a_batch(world)
    escalate(world)
    world.dialect.happens("call", lambda: proxy.cut_reply_to(b"COMMIT"))
    world.dialect.fail("call", Broken("garbled"))

    def garbled(target: Target, body: dict[str, Any], timeout_seconds: float) -> Answer:
        ask(target, body, timeout_seconds)
        return ask(target, body, timeout_seconds)

    perform(world, works, garbled)
    assert not proxy.is_armed
    row = run_row(world, job_id)
    assert (row.failures, row.leased_until) == (1, None)


def test_a_database_that_stays_away_is_given_up_and_the_run_is_somebody_elses(
    world: World, works: Works, proxy: DatabaseProxy, caplog: pytest.LogCaptureFixture
) -> None:
    (job_id,) = in_a_batch(world)
    escalate(world)
    with pytest.raises(OperationalError):
        perform(world, works, then(proxy.cut), patience_seconds=0.5)
    assert {each.message for each in caplog.records} >= {"run.not_written"}
    assert world.jobs() == {"in_progress": 1}
    world.run("UPDATE standard_runs SET leased_until = now() - interval '1 second'")
    assert run_due(world) == 1
    assert run_row(world, job_id).failures == 1, "a lease that ended by itself"
    assert (world.jobs(), world.moved()) == ({"completed": 1}, STANDARD)
    world.check_books()


def test_what_the_database_refuses_is_not_tried_again(world: World, works: Works) -> None:
    in_a_batch(world)
    escalate(world)

    def forbid() -> None:
        world.run("ALTER TABLE job_results RENAME TO gone")

    try:
        with pytest.raises(UndefinedTable, match="job_results"):
            perform(world, works, then(forbid), patience_seconds=60)
    finally:
        world.run("ALTER TABLE gone RENAME TO job_results")
