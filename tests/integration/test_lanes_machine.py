"""Jobs and their batches under any sequence of events that Hypothesis thinks of."""

from collections.abc import Callable
from datetime import timedelta
from uuid import UUID

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from gateway.lanes import deadlines
from gateway.providers.dialect import Ambiguous, LineOutcome, Unavailable
from tests.integration.fake_batches import Answering, ending, succeeded, using
from tests.integration.fake_dialect import FakeDialect, Killed
from tests.integration.lane_world import World, opened
from tests.integration.test_lanes_faults import move_clock

ANSWERS: dict[str, Answering] = {
    "answered": succeeded,
    "without usage": using(None),
    "refused": ending(LineOutcome.REJECTED),
    "overloaded": ending(LineOutcome.RETRYABLE),
    "expired": ending(LineOutcome.EXPIRED),
    "missing": lambda _line: None,
}
MISHAPS: dict[str, Callable[[], BaseException]] = {
    "lost": lambda: Ambiguous("lost"),
    "away": lambda: Unavailable("away"),
    "killed": Killed,
}


class LanesMachine(RuleBasedStateMachine):
    """A customer, a provider and a clock, each as contrary as it likes."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world
        self.account = world.account()
        self.jobs: list[UUID] = []
        for script in world.dialect.scripts.values():
            script.clear()

    @rule(count=st.integers(1, 3), model=st.sampled_from(["model-a", "model-b"]))
    def ask(self, count: int, model: str) -> None:
        self.jobs += self.world.accept(count, account=self.account, model=model)

    @rule()
    def sweep(self) -> None:
        self.world.sweep()

    @rule(
        operation=st.sampled_from(["upload", "create", "get_batch", "list_batches", "download"]),
        mishap=st.sampled_from(sorted(MISHAPS)),
        after=st.booleans(),
    )
    def go_wrong(self, operation: str, mishap: str, after: bool) -> None:
        if operation not in ("upload", "create") and mishap == "lost":
            mishap = "away"
        # What says that nothing was done is never said after it was.
        done = after and not (operation in ("upload", "create") and mishap == "away")
        self.world.dialect.fail(operation, MISHAPS[mishap](), after=done)

    @rule(number=st.integers(0, 3), answer=st.sampled_from(sorted(ANSWERS)))
    def end_a_batch(self, number: int, answer: str) -> None:
        running = self.world.dialect.running
        if running:
            running[number % len(running)].end(ANSWERS[answer])

    @rule(number=st.integers(0, 20))
    def cancel(self, number: int) -> None:
        if self.jobs:
            job_id = self.jobs[number % len(self.jobs)]
            self.world.survive(self.world.cancel, job_id, self.account)

    @rule(number=st.integers(0, 20))
    def let_expire(self, number: int) -> None:
        if self.jobs:
            job_id = self.jobs[number % len(self.jobs)]
            self.world.run("UPDATE jobs SET deadline_at = now() WHERE id = :id", id=job_id)
            deadlines.expire_overdue(self.world.engine)

    @rule(minutes=st.sampled_from([-10, 10]))
    def set_the_clock(self, minutes: int) -> None:
        move_clock(self.world, timedelta(minutes=minutes))

    def teardown(self) -> None:
        for script in self.world.dialect.scripts.values():
            script.clear()
        self.world.settle_down()
        assert self.world.dialect.doubled() == set()
        assert self.world.lines()["open"] == 0
        self.world.check_books()


def test_any_sequence_of_events_ends_every_job_once_with_the_books_right(
    database_url: str,
) -> None:
    with opened(database_url, FakeDialect()) as world:

        class Machine(LanesMachine):
            def __init__(self) -> None:
                super().__init__(world)

        run_state_machine_as_test(
            Machine,
            settings=settings(
                max_examples=10,
                stateful_step_count=20,
                derandomize=True,
                deadline=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
