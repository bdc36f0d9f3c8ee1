"""Both lanes under any mixture of faults: every job ends once, and every answer is in the books."""

import random
from collections import Counter
from collections.abc import Iterator

import pytest

from gateway.lanes import deadlines
from gateway.providers.dialect import (
    Ambiguous,
    BatchState,
    Broken,
    LineOutcome,
    Rejected,
    Unavailable,
)
from tests.integration.fake_batches import Answering, ending, succeeded
from tests.integration.fake_dialect import FakeDialect, Killed, Step, failing
from tests.integration.ladder import (
    STANDARD_COST_NANOS,
    claim,
    escalate,
    near,
    pass_time,
    perform,
    sweep,
)
from tests.integration.lane_world import COST_NANOS, HOLD_NANOS, World, opened

MISHAPS: dict[str, list[BaseException]] = {
    "create": [Unavailable("busy"), Ambiguous("lost"), Killed()],
    "get_batch": [Unavailable("busy"), Killed()],
    "cancel_batch": [Unavailable("busy"), Killed()],
    "download": [Unavailable("busy"), Broken("cut short"), Killed()],
    "call": [Unavailable("busy"), Broken("garbled"), Rejected("no"), Killed()],
}
TURNS = 6


@pytest.fixture
def world(database_url: str) -> Iterator[World]:
    with opened(database_url) as world:
        yield world


def mischievous(rng: random.Random, dialect: FakeDialect) -> Counter[str]:
    """Lets one operation in four go wrong before it takes effect; how many did, by its name."""
    gone_wrong: Counter[str] = Counter()

    def whim(operation: str) -> Step | None:
        if operation not in MISHAPS or rng.random() >= 0.25:
            return None
        gone_wrong[operation] += 1
        return failing(rng.choice(MISHAPS[operation]), after=False)

    dialect.whim = whim
    return gone_wrong


@pytest.mark.parametrize("seed", range(2))
def test_under_any_mixture_of_faults_each_job_ends_once_and_each_answer_is_booked_once(
    world: World, seed: int
) -> None:
    rng = random.Random(seed)
    accounts = [world.account(10 * HOLD_NANOS), world.account()]
    jobs = {job_id: account for account in accounts for job_id in world.accept(8, account=account)}
    gone_wrong = mischievous(rng, world.dialect)
    kinds: list[Answering] = [*[succeeded] * 4, ending(LineOutcome.EXPIRED), lambda _line: None]
    for _ in range(TURNS):
        sweep(world)
        job_id = rng.choice(list(jobs))
        world.run("UPDATE jobs SET max_cost_nanos = NULL WHERE id = :id", id=job_id)
        near(world, job_id, seconds=rng.choice([0, 60, 60, 60]))
        stopped = [] if escalate(world) == 0 else claim(world, 1)
        for batch in world.dialect.running:
            if rng.random() < 0.3:
                batch.end(lambda line: rng.choice(kinds)(line))
        sweep(world)
        for run in stopped:
            # It was stopped for longer than its lease, and goes on as if nothing had happened.
            world.survive(perform, world, run)
        if rng.random() < 0.3:
            cancelled = rng.choice(list(jobs))
            world.survive(world.cancel, cancelled, jobs[cancelled])
    world.dialect.whim = lambda _operation: None
    finish(world)
    assert world.jobs()["completed"] > 0
    assert world.lines()["open"] == 0
    assert world.dialect.doubled() == set()
    assert_every_answer_is_booked(world, world.dialect.calls["call"] - gone_wrong["call"])
    world.check_books()


def finish(world: World) -> None:
    """Sweeps until nothing is left to do."""
    for _ in range(40):
        left = world.rows(
            "SELECT (SELECT count(*) FROM jobs WHERE completed_at IS NULL) "
            "+ (SELECT count(*) FROM provider_batches WHERE status <> 'done') AS things"
        )
        if not left[0].things:
            return
        for batch in world.dialect.running:
            batch.end()
        sweep(world)
        pass_time(world)
        deadlines.expire_overdue(world.engine)
    raise AssertionError(f"jobs: {world.jobs()}, batches: {world.batch_states()}")


def assert_every_answer_is_booked(world: World, answers: int) -> None:
    """Each answer of either lane costs something, and somebody bears it once."""
    lines = sum(
        b'"input_uncached"' in line
        for batch in world.dialect.made.values()
        if batch.state is BatchState.ENDED
        for data in batch.files.values()
        for line in data.splitlines()
    )
    moved = world.moved()
    booked = moved["provider_cost"] + moved["unbilled_cost"]
    assert booked == lines * COST_NANOS + answers * STANDARD_COST_NANOS
