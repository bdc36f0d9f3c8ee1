"""Lanes are cut when they are ripe, fairly and each job once, whatever else there is."""

import re
import threading
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text

from gateway.lanes import due, grouping
from gateway.lanes.cutting import LINE_OVERHEAD_BYTES
from gateway.providers.dialect import BatchLimits
from models.session import transaction
from tests.integration.fake_dialect import FakeDialect
from tests.integration.lane_world import LINE_NANOS, World, opened

PASSED_OVER = r"Rows Removed by Filter: [1-9]"


@pytest.fixture
def world(database_url: str) -> Iterator[World]:
    with opened(database_url) as world:
        yield world


@pytest.fixture
def patient_world(database_url: str) -> Iterator[World]:
    """A lane is ripe after five minutes or with ten jobs; a batch holds 4,000 bytes."""
    limits = BatchLimits(requests=50_000, bytes=4_000)
    dialect = FakeDialect(limits=limits)
    with opened(database_url, dialect, window_seconds=300, ripe_requests=10) as world:
        yield world


def sizes(world: World) -> list[int]:
    rows = world.rows("SELECT request_count FROM provider_batches ORDER BY created_at, id")
    return [row.request_count for row in rows]


def accounts_of(world: World, batch_id: UUID) -> Counter[UUID]:
    rows = world.rows("SELECT account_id FROM jobs WHERE batch_id = :id", id=batch_id)
    return Counter(row.account_id for row in rows)


@pytest.mark.parametrize(
    ("count", "options", "cut"),
    [
        (9, {}, []),
        (10, {}, [10]),
        (1, {"age": timedelta(seconds=290)}, []),
        (1, {"age": timedelta(seconds=301)}, [1]),
        (2, {"size": 1_900}, []),
        (3, {"size": 1_700}, [2, 1]),
        (2, {"deadline": timedelta(minutes=11)}, []),
        (2, {"deadline": timedelta(minutes=9)}, [2]),
    ],
)
def test_a_lane_is_cut_by_number_age_bytes_or_deadline(
    patient_world: World, count: int, options: dict[str, Any], cut: list[int]
) -> None:
    world = patient_world
    world.accept(count, **options)
    world.cut()
    assert sizes(world) == cut
    assert world.lines()["open"] == sum(cut)


def test_one_ripe_job_takes_the_whole_lane_along_and_no_other_lane(patient_world: World) -> None:
    world = patient_world
    world.accept(3)
    world.accept(3, model="model-b")
    assert world.cut() == []
    world.accept(1, age=timedelta(minutes=6))
    assert len(world.cut()) == 1
    assert sizes(world) == [4]
    waiting = world.rows("SELECT model FROM jobs WHERE batch_id IS NULL")
    assert {row.model for row in waiting} == {"maker/model-b"}


def test_a_lane_longer_than_a_batch_is_cut_whole(database_url: str) -> None:
    with opened(database_url, max_requests=4) as world:
        world.accept(11)
        assert len(world.cut()) == 3
        assert sizes(world) == [4, 4, 3]
        world.settle_down()
        assert world.moved()["charge"] == 11 * LINE_NANOS


def test_a_batch_keeps_to_the_providers_bytes_and_inputs(database_url: str) -> None:
    limits = BatchLimits(requests=50, bytes=3 * (500 + LINE_OVERHEAD_BYTES), embedding_inputs=10)
    with opened(database_url, FakeDialect(limits=limits)) as world:
        world.accept(4, size=500)
        world.cut()
        assert sizes(world) == [3, 1]
        world.accept(3, model="embed", embedding_inputs=4)
        world.cut()
        assert sizes(world) == [3, 1, 2, 1]


def test_a_batch_carries_its_lines_with_their_rounds(world: World) -> None:
    job_ids = world.accept(3)
    world.run("UPDATE jobs SET round = 1 WHERE id = :id", id=job_ids[0])
    (batch_id,) = world.cut()
    rows = world.rows("SELECT job_id, round, batch_id, status FROM lines")
    assert {(row.job_id, row.round) for row in rows} == {
        (job_ids[0], 2),
        (job_ids[1], 1),
        (job_ids[2], 1),
    }
    assert {(row.batch_id, row.status) for row in rows} == {(batch_id, "open")}
    assert world.job(job_ids[0]).round == 2
    row = world.batch(batch_id)
    total = world.rows("SELECT sum(body_bytes)::int AS bytes FROM jobs")[0].bytes
    assert (row.status, row.request_count, row.body_bytes) == ("formed", 3, total)


def test_one_accounts_many_jobs_do_not_keep_anothers_few_out_of_the_first_batch(
    database_url: str,
) -> None:
    with opened(database_url, max_requests=20) as world:
        many, few, one = (world.account() for _ in range(3))
        world.accept(50, account=many)
        world.accept(3, account=few)
        world.accept(1, account=one)
        first, *_ = world.cut()
        assert accounts_of(world, first) == {many: 16, few: 3, one: 1}


def test_accounts_take_turns_until_each_has_nothing_left(database_url: str) -> None:
    with opened(database_url, max_requests=10) as world:
        accounts = [world.account() for _ in range(4)]
        for account, count in zip(accounts, (20, 20, 2, 1), strict=True):
            world.accept(count, account=account)
        batches = world.cut()
        first = accounts_of(world, batches[0])
        assert first[accounts[2]] == 2
        assert first[accounts[3]] == 1
        assert sorted((first[accounts[0]], first[accounts[1]])) == [3, 4]
        assert sum((accounts_of(world, each) for each in batches), Counter()) == dict(
            zip(accounts, (20, 20, 2, 1), strict=True)
        )


def test_a_job_that_somebody_holds_is_left_for_the_next_turn(world: World) -> None:
    job_ids = world.accept(3)
    with transaction(world.engine) as session:
        session.execute(text("SELECT 1 FROM jobs WHERE id = :id FOR UPDATE"), {"id": job_ids[1]})
        (first,) = world.cut()
    assert world.batch(first).request_count == 2
    (second,) = world.cut()
    assert world.job(job_ids[1]).batch_id == second


def test_a_lane_that_is_being_cut_is_not_waited_for(world: World) -> None:
    world.accept(3)
    with transaction(world.engine) as session:
        session.execute(text("SELECT 1 FROM lanes FOR UPDATE"))
        assert world.cut() == []
    assert len(world.cut()) == 1


def test_several_cutters_at_once_cut_each_job_once(database_url: str) -> None:
    with opened(database_url, max_requests=7) as world:
        for model in ("model-a", "model-b"):
            world.accept(100, model=model)
        start = threading.Barrier(4, timeout=10)

        def cut() -> None:
            start.wait()
            world.cut()

        cutters = [threading.Thread(target=cut) for _ in range(4)]
        for cutter in cutters:
            cutter.start()
        for cutter in cutters:
            cutter.join(20)
        world.cut()
        assert world.lines() == {"open": 200}
        assert sum(sizes(world)) == 200
        assert world.rows("SELECT 1 FROM jobs WHERE batch_id IS NULL OR round <> 1") == []


def test_jobs_that_are_cancelled_or_final_are_not_cut(world: World) -> None:
    job_ids = world.accept(3)
    world.cancel(job_ids[0])
    world.run(
        "UPDATE jobs SET status = 'expired', completed_at = now() WHERE id = :id", id=job_ids[1]
    )
    (batch_id,) = world.cut()
    assert world.batch(batch_id).request_count == 1
    assert world.cut() == []


def test_a_lane_of_a_provider_that_nobody_speaks_to_waits(world: World) -> None:
    world.accept(2, provider="unheard-of")
    world.accept(1)
    assert len(world.cut()) == 1
    assert world.rows("SELECT 1 FROM jobs WHERE batch_id IS NULL AND status = 'queued'") != []


def plan(world: World, statement: Any, **parameters: Any) -> str:
    with world.engine.connect() as connection:
        # So few rows would be scanned; what counts is that they need not be.
        connection.execute(text("SET LOCAL enable_seqscan = off"))
        rows = connection.execute(text(f"EXPLAIN (ANALYZE, TIMING off) {statement}"), parameters)
        return "\n".join(row[0] for row in rows)


def test_reading_what_waits_does_not_touch_what_is_finished_or_on_its_way(world: World) -> None:
    world.accept(20)
    world.run(
        """
        INSERT INTO jobs (id, account_id, key_id, lane_id, status, endpoint, model, body_bytes,
                          standard_nanos, price_id, markup_bps, deadline_at, completed_at, batch_id)
        SELECT uuidv7(), account_id, key_id, lane_id, other.status, endpoint, model, 10,
               standard_nanos, price_id, 0, deadline_at, other.completed_at, uuidv7()
        FROM jobs CROSS JOIN generate_series(1, 200) CROSS JOIN (
            VALUES ('completed', now()), ('submitted', NULL)
        ) AS other (status, completed_at)
        """
    )
    world.run("ANALYZE jobs")
    lane_id = world.rows("SELECT id FROM lanes")[0].id
    for statement, parameters in (
        (grouping._LOAD, {"enough": 1_000}),
        (grouping._WAITING, {"limit": 1_000}),
    ):
        explained = plan(world, statement, lane_id=lane_id, **parameters)
        assert "ix_jobs_waiting" in explained
        assert "Seq Scan" not in explained
        assert not re.search(PASSED_OVER, explained)


def test_what_is_due_is_read_by_its_index(world: World) -> None:
    world.form(1)
    world.run(
        """
        INSERT INTO provider_batches (id, lane_id, status, request_count, body_bytes)
        SELECT uuidv7(), lane_id, 'done', 1, 1
        FROM provider_batches CROSS JOIN generate_series(1, 2000)
        """
    )
    world.run("ANALYZE provider_batches")
    explained = plan(world, due._DUE, statuses=["formed"])
    assert "ix_provider_batches_due" in explained
    assert not re.search(PASSED_OVER, explained)
