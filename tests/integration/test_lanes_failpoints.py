"""A job's whole journey, struck at every commit and every provider call, by every kind of fault.

accept → cut → submit → poll → take in, with its money → webhook. Whatever happens at whichever
moment, the job ends once, nothing runs twice, the books are right, and its owner is told.
"""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from uuid import UUID

import httpx
import orjson
import pytest
from sqlalchemy.exc import SQLAlchemyError

from gateway.calls.idempotency import KeyedCall, Stored
from gateway.calls.intake import Intake, Submission
from gateway.lanes import grouping
from gateway.providers.dialect import ProviderError
from gateway.webhooks.delivery import Courier
from models import ids
from models.session import transaction
from tests.integration.failpoints import Failpoints, Fault
from tests.integration.fake_dialect import FakeDialect, Killed
from tests.integration.lane_world import COST_NANOS, LINE_NANOS, World, opened

JOBS = 2
FEWEST_MOMENTS = 25
DELIVERY_MOMENTS = JOBS + 1
"""A claim and the outcomes; how often the courier then looks for more is chance."""
HOOK = "https://203.0.113.7/hook"
SECRET = "whsec_" + "c2VjcmV0" * 4
BROKEN_OFF = (SQLAlchemyError, ProviderError, Killed)
"""What ends a step of the journey; the sweep begins it again."""


@dataclass
class Journeys:
    """Journeys on one database, one after the other, each of jobs in a lane of its own."""

    world: World
    account: UUID
    couriers: list[Courier] = field(default_factory=list)
    accepted: set[UUID] = field(default_factory=set)
    moments: int = 0
    heard: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))

    def __post_init__(self) -> None:
        self.failpoints = Failpoints(self.world, self._another)
        self.failpoints.listen()
        transport = httpx.MockTransport(self._hear)
        self.couriers += [
            Courier(
                self.world.engine,
                lambda _owner, _sealed: SECRET,
                allow_private=True,
                threads=2,
                transport=transport,
            )
            for _ in range(2)
        ]

    def _hear(self, request: httpx.Request) -> httpx.Response:
        """The owner's receiver: which events it was told of, by job."""
        event = orjson.loads(request.content)
        self.heard[event["data"]["id"]].add(request.headers["webhook-id"])
        return httpx.Response(204)

    def go(self, name: str, fault: Fault | None, at: int) -> None:
        """One journey, as far as it gets."""
        self._set_aside()
        self.failpoints.arm(fault, at)
        self._accept(name)
        try:
            self._walk(name)
        except BROKEN_OFF:
            assert self.failpoints.struck
        self.failpoints.rest()
        if self.world.rows(
            "SELECT FROM provider_batches WHERE status IN ('submitting', 'in_doubt')"
        ):
            # Where creations have no names the next journey would have to wait for this one.
            self.settle_down()

    def _accept(self, name: str) -> None:
        """The caller says the same again, under the same key, until there is an answer."""
        submissions = [
            self._keyed(each, f"{name}-{number}")
            for number, each in enumerate(
                self.world.submissions(
                    JOBS, account=self.account, model=name, webhook={"url": HOOK}
                )
            )
        ]
        while True:
            try:
                with transaction(self.world.engine) as session:
                    told = Intake().accept(session, submissions)
            except BROKEN_OFF:
                self.failpoints.rest()
                submissions = [self._asked_again(each) for each in submissions]
            else:
                break
        for answer in told:
            assert isinstance(answer, Stored)
            self.accepted.add(UUID(answer.body.decode()))

    def _keyed(self, submission: Submission, key: str) -> Submission:
        answer = Stored(202, {}, str(submission.job_id).encode())
        keyed = KeyedCall(self.account, key, b"", submission.job_id, answer)
        return replace(submission, answer=answer, keyed=keyed)

    def _asked_again(self, submission: Submission) -> Submission:
        """The same call once more, which would be another job were it not for its key."""
        assert submission.keyed is not None
        return self._keyed(replace(submission, job_id=ids.new()), submission.keyed.key)

    def _walk(self, name: str) -> None:
        world = self.world
        (lane,) = world.rows("SELECT id FROM lanes WHERE model = :name", name=name)
        for batch_id in grouping.cut_lane(world.works, lane.id):
            world.submit(batch_id)
        world.poll()
        for batch in world.dialect.running:
            batch.end()
        for batch_id in world.poll():
            world.ingest(batch_id)
        self.moments = self.failpoints.passed + DELIVERY_MOMENTS
        self.couriers[0].drain()

    def _another(self) -> None:
        """What another worker does while the first one is stopped."""
        self.world.sweep()
        for batch in self.world.dialect.running:
            batch.end()
        self.world.sweep()
        self.couriers[1].drain()

    def settle_down(self) -> None:
        """Everything that was broken off is swept up."""
        self.world.settle_down()
        self.world.run("UPDATE deliveries SET due_at = now(), leased_until = NULL")
        self.couriers[1].drain()

    def _set_aside(self) -> None:
        """What earlier journeys left unfinished is not looked at during this one."""
        later = "due_at = now() + interval '1 day'"
        self.world.run(f"UPDATE provider_batches SET {later} WHERE status <> 'done'")
        self.world.run(f"UPDATE deliveries SET {later} WHERE status = 'pending'")

    def check(self) -> None:
        """Whatever happened, this holds."""
        world = self.world
        # Every accepted job ended, with one result; nobody was given a job that is not there.
        assert world.jobs() == {"completed": len(self.accepted)}
        assert {row.id for row in world.rows("SELECT id FROM jobs")} == self.accepted
        assert len(world.rows("SELECT FROM job_results")) == len(self.accepted)
        # Nothing ran twice: no line was in two batches that were left to run.
        assert world.dialect.doubled() == set()
        # Every line was charged exactly once, at its price, and the house lost nothing.
        assert world.moved() == {
            "charge": len(self.accepted) * LINE_NANOS,
            "provider_cost": len(self.accepted) * COST_NANOS,
        }
        world.check_books()
        # Every owner was told, as often as need be, of one event.
        told = {ids.show(ids.Prefix.JOB, job_id) for job_id in self.accepted}
        assert self.heard.keys() == told
        assert {len(event_ids) for event_ids in self.heard.values()} == {1}


def cases() -> Iterator[tuple[bool, Fault]]:
    """Every fault; without names only what a creation can be lost by."""
    yield from ((True, fault) for fault in Fault)
    yield from ((False, fault) for fault in (Fault.UNHEARD, Fault.KILLED_AFTER, Fault.TWICE))


@pytest.fixture
def journeys(database_url: str, named: bool) -> Iterator[Journeys]:
    """At a provider that keeps the creations' names, or at one that does not."""
    dialect = FakeDialect(keeps_metadata=named)
    with opened(database_url, dialect) as world, ExitStack() as cleanup:
        made = Journeys(world, world.account())
        for courier in made.couriers:
            cleanup.callback(courier.close)
        yield made


@pytest.mark.parametrize(("named", "fault"), [*cases()])
def test_a_journey_struck_at_any_moment_by_any_fault_comes_to_its_one_end(
    journeys: Journeys, fault: Fault
) -> None:
    """Also of those who ask: killed or cut off around the commit of their acceptance."""
    journeys.go("whole", None, 0)
    moments = journeys.moments
    assert moments >= FEWEST_MOMENTS
    for at in range(1, moments + 1):
        journeys.go(f"model-{at}", fault, at)
        assert journeys.failpoints.struck
    journeys.settle_down()
    journeys.check()
