"""A call that kills every worker that touches it ends after a bounded number of deaths, alone."""

from collections.abc import Iterator
from uuid import UUID

import pytest

from gateway.lanes.isolation import CRASHES_AT_MOST, CRASHES_AT_RESULTS, CRASHES_TO_DIVIDE
from gateway.lanes.returning import MAX_FAILURES
from gateway.providers.dialect import Endpoint, LineResult, Unavailable
from tests.integration.fake_batches import Json
from tests.integration.fake_dialect import FakeDialect, Killed
from tests.integration.lane_world import LINE_NANOS, World, opened

JOBS = 12


class Poisoned(FakeDialect):
    """The process dies of some jobs: of writing their calls, or of reading their results."""

    fatal_calls: frozenset[str] = frozenset()
    fatal_results: frozenset[str] = frozenset()

    def encode_line(self, custom_id: str, endpoint: Endpoint, model: str, body: Json) -> bytes:
        if custom_id.partition("-")[0] in self.fatal_calls:
            raise Killed
        return super().encode_line(custom_id, endpoint, model, body)

    def parse_line(self, line: bytes) -> LineResult:
        result = super().parse_line(line)
        if result.custom_id.partition("-")[0] in self.fatal_results:
            raise Killed
        return result


@pytest.fixture
def dialect() -> Poisoned:
    return Poisoned()


@pytest.fixture
def world(database_url: str, dialect: Poisoned) -> Iterator[World]:
    with opened(database_url, dialect) as world:
        yield world


def named(*job_ids: UUID) -> frozenset[str]:
    return frozenset(job_id.hex for job_id in job_ids)


def test_a_call_that_kills_whoever_writes_it_fails_alone_after_a_few_deaths(
    world: World, dialect: Poisoned
) -> None:
    """A poisonous job: the others of its batch are answered, and it takes few workers along."""
    job_ids = world.accept(JOBS)
    dialect.fatal_calls = named(job_ids[5])
    world.settle_down()
    assert world.jobs() == {"completed": JOBS - 1, "failed": 1}
    assert world.job(job_ids[5]).http_status == 502
    # The whole, the tenth part of it, and the call alone.
    assert world.kills <= 2 * CRASHES_TO_DIVIDE + CRASHES_AT_MOST
    assert dialect.doubled() == set()
    assert world.moved()["charge"] == (JOBS - 1) * LINE_NANOS
    assert world.lines() == {"succeeded": JOBS - 1, "failed": 1}
    world.check_books()


def test_a_result_that_kills_whoever_reads_it_fails_after_its_rounds(
    world: World, dialect: Poisoned
) -> None:
    job_ids = world.accept(3)
    dialect.fatal_results = named(job_ids[1])
    world.settle_down(sweeps=60)
    assert world.job(job_ids[1]).status == "failed"
    assert world.kills <= MAX_FAILURES * CRASHES_AT_RESULTS
    assert not world.jobs().keys() - {"completed", "failed"}
    world.check_books()


def test_deaths_that_were_not_the_batchs_fault_divide_nothing(
    world: World, dialect: Poisoned
) -> None:
    """Every worker dies once in a while; what gets on in between starts from nothing."""
    batch_id = world.form(3)
    for _ in range(4):
        dialect.fail("upload", Killed(), Unavailable("busy"))
        for _ in range(2):
            world.pass_time()
            world.survive(world.submit, batch_id)
    world.settle_down()
    assert world.kills == 4
    assert len(dialect.made) == 1
    assert world.jobs() == {"completed": 3}


def test_a_divided_batch_keeps_each_line_once_and_cancellations_reach_the_parts(
    world: World, dialect: Poisoned
) -> None:
    job_ids = world.accept(JOBS)
    (whole,) = world.cut()
    dialect.fail("upload", *[Killed()] * CRASHES_TO_DIVIDE)
    while world.batch(whole).status != "done":
        world.pass_time()
        world.survive(world.submit, whole)
    parts = world.rows(
        "SELECT id, request_count, body_bytes FROM provider_batches WHERE status = 'formed'"
    )
    assert sorted(row.request_count for row in parts) == [1] * 8 + [2] * 2
    assert sum(row.body_bytes for row in parts) == world.batch(whole).body_bytes
    assert world.lines() == {"open": JOBS}
    assert {row.batch_id for row in world.rows("SELECT batch_id FROM jobs")} == {
        row.id for row in parts
    }
    world.cancel(job_ids[0])
    world.settle_down()
    assert world.jobs() == {"completed": JOBS - 1, "cancelled": 1}
    assert dialect.doubled() == set()
    world.check_books()
