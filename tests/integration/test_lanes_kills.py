"""Whatever dies, and wherever: every job ends once, nothing runs twice, and the books are right."""

import random
from collections.abc import Iterator

import pytest

from gateway.lanes import deadlines
from gateway.providers.dialect import Ambiguous, BatchState, Broken, LineOutcome, Unavailable
from tests.integration.fake_batches import Answering, FakeLine, Json, ending, succeeded, using
from tests.integration.fake_dialect import FakeDialect, Killed, Step, failing
from tests.integration.lane_world import COST_NANOS, LINE_NANOS, World, opened

# Each step's calls on the network; what follows "#" is how many of them go well before.
POINTS = [
    "upload",
    "create",
    "get_batch",
    "get_batch#1",
    "download",
    "download#1",
    "parse_line",
    "parse_line#3",
]


@pytest.fixture(params=["names", "no names"])
def world(request: pytest.FixtureRequest, database_url: str) -> Iterator[World]:
    with opened(database_url, FakeDialect(keeps_metadata=request.param == "names")) as world:
        yield world


def schedule_kill(dialect: FakeDialect, point: str, *, after: bool) -> None:
    operation, _, earlier = point.partition("#")
    for _ in range(int(earlier or 0)):
        dialect.happens(operation, lambda: None)
    dialect.fail(operation, Killed(), after=after)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("point", POINTS)
def test_a_worker_killed_at_any_call_loses_no_job_and_runs_none_twice(
    world: World, point: str, after: bool
) -> None:
    schedule_kill(world.dialect, point, after=after)
    world.accept(6)
    seen = iter(range(6))

    def all_but_one(line: FakeLine) -> Json | None:
        # One failing line, so that there are two files.
        return ending(LineOutcome.REJECTED)(line) if next(seen) == 4 else succeeded(line)

    for _ in range(5):
        if not world.dialect.made:
            world.sweep()
    world.dialect.only.end(all_but_one)
    world.settle_down()
    assert world.kills == 1
    assert len(world.dialect.made) == 1
    assert len(world.dialect.files) == (1 if world.dialect.keeps_metadata else 0)
    assert world.jobs() == {"completed": 5, "failed": 1}
    assert world.moved() == {"charge": 5 * LINE_NANOS, "provider_cost": 5 * COST_NANOS}
    world.check_books()


def test_a_worker_killed_again_and_again_gets_there_in_the_end(world: World) -> None:
    world.accept(1)
    for operation in ("upload", "create", "get_batch", "download", "parse_line"):
        for after in (False, True):
            schedule_kill(world.dialect, operation, after=after)
    world.settle_down()
    assert world.kills == 10
    assert world.dialect.doubled() == set()
    assert world.jobs() == {"completed": 1}
    world.check_books()


MISHAPS: dict[str, list[BaseException]] = {
    "find_upload": [Unavailable("busy"), Killed()],
    "upload": [Unavailable("busy"), Ambiguous("lost"), Killed()],
    "create": [Unavailable("busy"), Ambiguous("lost"), Broken("garbled"), Killed()],
    "get_batch": [Unavailable("busy"), Broken("garbled"), Killed()],
    "list_batches": [Unavailable("busy"), Broken("garbled"), Killed()],
    "cancel_batch": [Unavailable("busy"), Killed()],
    "download": [Unavailable("busy"), Broken("cut short"), Killed()],
    "parse_line": [Killed()],
}
"""What may go wrong with a call. What says that nothing was done is never raised after it was."""


def mischievous(rng: random.Random, dialect: FakeDialect) -> None:
    """Lets one call in four go wrong, and one line in fifty kill its reader."""

    def whim(operation: str) -> Step | None:
        likely = 0.02 if operation == "parse_line" else 0.25
        if operation not in MISHAPS or rng.random() >= likely:
            return None
        error = rng.choice(MISHAPS[operation])
        creates = operation in ("upload", "create")
        after = rng.random() < 0.5 and not (creates and isinstance(error, Unavailable))
        return failing(error, after=after)

    dialect.whim = whim


def fickle(rng: random.Random) -> Answering:
    """Answers of every kind."""
    kinds: list[Answering] = [
        *[succeeded] * 6,
        using(None),
        ending(LineOutcome.REJECTED),
        ending(LineOutcome.RETRYABLE),
        ending(LineOutcome.EXPIRED),
        ending(LineOutcome.CANCELLED),
        lambda _line: None,
    ]
    return lambda line: rng.choice(kinds)(line)


@pytest.mark.parametrize("seed", range(5))
def test_under_any_mixture_of_faults_every_invariant_holds(world: World, seed: int) -> None:
    rng = random.Random(seed)
    accounts = [world.account() for _ in range(3)]
    jobs = [
        (account, job_id)
        for account in accounts
        for model in ("model-a", "model-b")
        for job_id in world.accept(10, account=account, model=model)
    ]
    mischievous(rng, world.dialect)
    answering = fickle(rng)
    for turn in range(12):
        world.sweep()
        for batch in world.dialect.running:
            if rng.random() < 0.5:
                batch.end(answering)
        account, job_id = rng.choice(jobs)
        if rng.random() < 0.5:
            world.survive(world.cancel, job_id, account)
        if rng.random() < 0.2:
            world.run("UPDATE jobs SET deadline_at = now() WHERE id = :id", id=job_id)
            deadlines.expire_overdue(world.engine)
        if turn % 4 == 0:
            world.check_books()
    world.dialect.whim = lambda _operation: None
    world.settle_down()
    assert world.dialect.doubled() == set()
    assert world.lines()["open"] == 0
    assert_every_charge_of_the_provider_is_booked(world)
    world.check_books()


def assert_every_charge_of_the_provider_is_booked(world: World) -> None:
    """Answers with a usage cost something; each is in the books once, whoever bears it."""
    answered = sum(
        b'"input_uncached"' in line
        for batch in world.dialect.made.values()
        if batch.state is BatchState.ENDED
        for data in batch.files.values()
        for line in data.splitlines()
    )
    moved = world.moved()
    assert moved["provider_cost"] + moved["unbilled_cost"] == answered * COST_NANOS
