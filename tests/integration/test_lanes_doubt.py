"""A creation without an answer is looked for, adopted, or made again: never blindly repeated."""

import threading
from collections.abc import Iterator
from datetime import timedelta
from itertools import count
from uuid import UUID

import pytest
from sqlalchemy import Connection, event

from gateway.lanes import deadlines
from gateway.lanes.records import RESULTS_KEPT
from gateway.providers.dialect import (
    Ambiguous,
    BatchState,
    Broken,
    Endpoint,
    Unauthorized,
    Unavailable,
)
from tests.integration.fake_batches import FakeBatch
from tests.integration.fake_dialect import FakeDialect, Killed
from tests.integration.lane_world import COST_NANOS, LINE_NANOS, World, opened
from tests.integration.test_lanes_faults import move_clock

TIMED_OUT = Ambiguous("timed out")


@pytest.fixture(params=["names", "no names"])
def world(request: pytest.FixtureRequest, database_url: str) -> Iterator[World]:
    """At a provider that keeps the creations' names, and at one that does not."""
    with opened(database_url, FakeDialect(keeps_metadata=request.param == "names")) as world:
        yield world


@pytest.fixture
def named_world(database_url: str) -> Iterator[World]:
    with opened(database_url) as world:
        yield world


@pytest.fixture
def nameless_world(database_url: str) -> Iterator[World]:
    with opened(database_url, FakeDialect(keeps_metadata=False)) as world:
        yield world


def twin(world: World, batch: FakeBatch, ref: str | None) -> FakeBatch:
    """Another batch at the provider with the same lines."""
    lines = [
        world.dialect.encode_line(line.custom_id, Endpoint.CHAT_COMPLETIONS, line.model, line.body)
        for line in batch.lines
    ]
    return world.dialect.add(ref, b"\n".join(lines))


@pytest.mark.parametrize("error", [TIMED_OUT, Broken("not JSON")])
def test_a_creation_that_succeeded_without_an_answer_is_adopted(
    world: World, error: Exception
) -> None:
    batch_id = world.form(3)
    world.dialect.fail("create", error, after=True)
    world.submit(batch_id)
    row = world.batch(batch_id)
    assert (row.status, row.external_id, row.leased_until) == ("in_doubt", None, None)
    assert world.jobs() == {"queued": 3}
    world.resolve(batch_id)
    row = world.batch(batch_id)
    assert (row.status, row.external_id) == ("submitted", world.dialect.only.external_id)
    assert world.jobs() == {"submitted": 3}
    world.settle_down()
    assert len(world.dialect.made) == 1
    assert world.moved()["charge"] == 3 * LINE_NANOS
    world.check_books()


def test_a_creation_that_never_happened_is_looked_for_and_then_made_again(world: World) -> None:
    batch_id = world.form(3)
    world.dialect.fail("create", TIMED_OUT)
    world.submit(batch_id)
    world.resolve(batch_id)
    row = world.batch(batch_id)
    assert row.status == "in_doubt"
    assert 0 < row.due_in <= 3
    world.run("UPDATE provider_batches SET intent_at = now() - interval '119 s', due_at = now()")
    world.resolve(batch_id)
    assert world.batch(batch_id).status == "in_doubt"
    world.run("UPDATE provider_batches SET intent_at = now() - interval '121 s', due_at = now()")
    world.resolve(batch_id)
    assert world.batch(batch_id).status == "formed"
    assert world.dialect.calls["create"] == 1
    world.submit(batch_id)
    assert world.batch(batch_id).status == "submitted"
    assert world.dialect.calls["upload"] == (1 if world.dialect.keeps_metadata else 2)
    world.settle_down()
    assert len(world.dialect.made) == 1
    world.check_books()


def test_a_creation_looked_for_in_vain_is_remembered_once_whenever_its_worker_is_killed(
    world: World,
) -> None:
    for moment in count(1):
        batch_id = world.form()
        world.dialect.fail("create", TIMED_OUT)
        world.submit(batch_id)
        world.run(
            "UPDATE provider_batches SET intent_at = now() - interval '121 s', due_at = now()"
        )
        killed = killed_after_commit(world, moment, batch_id)
        world.expire_lease(batch_id)
        world.resolve(batch_id)
        row = world.batch(batch_id)
        assert (row.status, len(row.lost_intents)) == ("formed", 1), moment
        world.submit(batch_id)
        if not killed:
            break
    assert moment > 2, "the claim and what came of it are two commits at least"


def killed_after_commit(world: World, moment: int, batch_id: UUID) -> bool:
    """Looks for the creation; whether it came to that commit, after which its worker is dead."""
    commits = count(1)

    def strike(connection: Connection) -> None:
        if threading.current_thread().name != "leases" and next(commits) == moment:
            connection.connection.commit()
            raise Killed

    event.listen(world.engine, "commit", strike)
    kills = world.kills
    world.survive(world.resolve, batch_id)
    event.remove(world.engine, "commit", strike)
    return world.kills > kills


def test_a_creation_that_nobody_can_be_asked_about_is_made_again_in_the_end(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """A month later no provider would have its results, and its key may be gone for good."""
    batch_id = world.form()
    world.dialect.fail("create", TIMED_OUT)
    world.submit(batch_id)
    world.dialect.fail("list_batches", Unauthorized("revoked"), Unauthorized("revoked"))
    move_clock(world, RESULTS_KEPT - timedelta(minutes=5))
    world.resolve(batch_id)
    assert world.batch(batch_id).status == "in_doubt"
    move_clock(world, timedelta(minutes=10))
    world.resolve(batch_id)
    assert world.batch(batch_id).status == "formed"
    assert [each.message for each in caplog.records if getattr(each, "alert", False)] == [
        "batch.doubt_given_up"
    ]


def test_a_batch_that_is_listed_late_is_found_in_time(world: World) -> None:
    batch_id = world.form(3)
    world.dialect.fail("create", TIMED_OUT, after=True)
    world.submit(batch_id)
    world.dialect.only.is_listed = False
    for _ in range(2):
        world.pass_time()
        world.resolve(batch_id)
        assert world.batch(batch_id).status == "in_doubt"
    world.dialect.only.is_listed = True
    world.pass_time()
    world.resolve(batch_id)
    assert world.batch(batch_id).status == "submitted"


def test_of_several_the_oldest_counts_and_the_others_are_cancelled_at_the_houses_cost(
    named_world: World,
) -> None:
    world = named_world
    batch_id = world.form(3)
    world.dialect.fail("create", TIMED_OUT, after=True)
    world.submit(batch_id)
    first = world.dialect.only
    second, third = (twin(world, first, first.ref) for _ in range(2))
    world.resolve(batch_id)
    assert world.batch(batch_id).external_id == first.external_id
    noted = world.rows("SELECT external_id FROM orphan_batches ORDER BY external_id")
    assert [row.external_id for row in noted] == [second.external_id, third.external_id]
    world.settle_orphans()
    assert (first.state, second.state) == (BatchState.RUNNING, BatchState.CANCELLING)
    world.pass_time()
    world.settle_orphans()
    assert world.rows("SELECT 1 FROM orphan_batches WHERE booked_at IS NOT NULL") == []
    # One was too far on to be stopped, the other did nothing.
    second.end()
    third.end_with()
    third.retention_over = True
    world.settle_down()
    assert world.jobs() == {"completed": 3}
    assert world.moved() == {
        "charge": 3 * LINE_NANOS,
        "provider_cost": 3 * COST_NANOS,
        "unbilled_cost": 3 * COST_NANOS,
    }
    booked = {
        row.external_id: row.cost_nanos
        for row in world.rows("SELECT external_id, cost_nanos FROM orphan_batches")
    }
    assert booked == {second.external_id: 3 * COST_NANOS, third.external_id: 0}
    world.settle_orphans()
    assert world.moved()["unbilled_cost"] == 3 * COST_NANOS
    world.check_books()


def test_where_creations_have_no_names_the_batches_of_strangers_are_left_alone(
    nameless_world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """Somebody else with the same key makes batches of the same size at the same time."""
    world = nameless_world
    batch_id = world.form(3)
    world.dialect.fail("create", TIMED_OUT, after=True)
    world.submit(batch_id)
    first = world.dialect.only
    stranger = twin(world, first, None)
    world.resolve(batch_id)
    assert world.batch(batch_id).external_id == first.external_id
    for _ in range(3):
        world.sweep()
    assert world.rows("SELECT FROM orphan_batches") == []
    assert stranger.state is BatchState.RUNNING
    (told,) = [record for record in caplog.records if record.message == "batch.creation_ambiguous"]
    assert told.levelname == "ERROR"
    first.end()
    stranger.end()
    world.settle_down()
    world.check_books()


def test_an_orphan_that_ended_before_it_names_its_files_is_not_booked_at_nothing(
    named_world: World,
) -> None:
    world = named_world
    batch_id = world.form(2)
    world.dialect.fail("create", TIMED_OUT, after=True)
    world.submit(batch_id)
    other = twin(world, world.dialect.only, world.dialect.only.ref)
    world.resolve(batch_id)
    other.end()
    files, other.files = other.files, {}
    world.settle_orphans()
    assert world.moved() == {}
    other.files = files
    world.pass_time()
    world.settle_orphans()
    assert world.moved() == {"unbilled_cost": 2 * COST_NANOS}


def test_a_batch_that_appears_after_the_creation_was_repeated_is_found_and_stopped(
    world: World,
) -> None:
    """Listed too late; without names it is told by its time and its size."""
    batch_id = world.form(2)
    world.dialect.fail("create", TIMED_OUT, after=True)
    world.submit(batch_id)
    hidden = world.dialect.only
    hidden.is_listed = False
    while len(world.dialect.made) == 1:
        world.sweep()
        # The provider's clock goes on like ours.
        hidden.created_at -= timedelta(seconds=50)
    hidden.is_listed = True
    assert world.batch(batch_id).status in {"submitted", "in_progress"}
    world.sweep()
    assert hidden.was_cancelled
    world.settle_down()
    assert len(world.dialect.made) == 2
    assert world.jobs() == {"completed": 2}
    assert world.moved()["charge"] == 2 * LINE_NANOS
    world.check_books()


def test_of_several_that_may_be_the_lost_one_none_is_stopped(
    nameless_world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world = nameless_world
    batch_id = world.form(2)
    world.dialect.fail("create", TIMED_OUT, after=True)
    world.submit(batch_id)
    hidden = world.dialect.only
    world.run(
        "UPDATE provider_batches SET status = 'in_doubt', intent_at = now() - interval '121 s'"
    )
    hidden.is_listed = False
    hidden.created_at -= timedelta(seconds=121)
    world.resolve(batch_id)
    assert world.batch(batch_id).status == "formed"
    stranger = twin(world, hidden, None)
    stranger.created_at = hidden.created_at
    hidden.is_listed = True
    world.submit(batch_id)
    world.watch()
    assert not hidden.was_cancelled
    assert not stranger.was_cancelled
    assert "batch.creation_ambiguous" in caplog.text


def test_a_creation_in_flight_is_not_taken_for_a_lost_one(nameless_world: World) -> None:
    """Its batch is at the provider, and nobody has written its id down yet."""
    world = nameless_world
    batch_id = world.form(2)
    world.dialect.fail("create", TIMED_OUT)
    world.submit(batch_id)
    world.run("UPDATE provider_batches SET intent_at = now() - interval '121 s', due_at = now()")
    world.resolve(batch_id)
    world.run("UPDATE provider_batches SET lost_intents = ARRAY[now()]")
    world.dialect.happens("create", world.watch, after=True)
    world.submit(batch_id)
    world.watch()
    assert world.rows("SELECT FROM orphan_batches") == []
    assert world.batch(batch_id).status == "submitted"


def test_a_named_batch_is_found_however_far_the_clocks_are_apart(named_world: World) -> None:
    """The provider's clock is ten minutes behind ours, or ours was set forward."""
    world = named_world
    batch_id = world.form(2)
    world.dialect.fail("create", TIMED_OUT, after=True)
    world.submit(batch_id)
    world.dialect.only.created_at -= timedelta(minutes=10)
    world.resolve(batch_id)
    assert world.batch(batch_id).status == "submitted"


def test_a_batch_that_appears_after_its_jobs_have_ended_is_found_and_stopped(
    named_world: World,
) -> None:
    """Nobody made the creation again, for there was nothing left to create."""
    world = named_world
    batch_id = world.form(2)
    world.dialect.fail("create", TIMED_OUT, after=True)
    world.submit(batch_id)
    world.dialect.only.is_listed = False
    world.run("UPDATE jobs SET deadline_at = now()")
    deadlines.expire_overdue(world.engine)
    while world.batch(batch_id).status != "done":
        world.sweep()
    world.dialect.only.is_listed = True
    world.sweep()
    assert world.dialect.only.was_cancelled
    world.settle_down()
    assert world.moved() == {"unbilled_cost": 2 * COST_NANOS}
    world.check_books()


def test_a_worker_that_died_in_the_creation_leaves_a_doubt(world: World) -> None:
    for after in (False, True):
        batch_id = world.form(2)
        world.dialect.fail("create", Killed(), after=after)
        with pytest.raises(Killed):
            world.submit(batch_id)
        assert world.batch(batch_id).status == "submitting"
        world.settle_down()
    assert world.dialect.doubled() == set()
    assert len(world.dialect.made) == 2
    assert world.jobs() == {"completed": 4}
    world.check_books()


def test_other_batches_are_not_taken_for_the_one_in_doubt(world: World) -> None:
    """Those of other sizes or names, those of before, and those that count already."""
    settled_id, settled = world.submitted(3)
    batch_id = world.form(3)
    world.dialect.fail("create", TIMED_OUT)
    world.submit(batch_id)
    ref = world.batch(batch_id).intent_ref
    stranger = twin(world, settled, "somebody-else")
    stranger.lines = stranger.lines[:2]
    twin(world, settled, ref).refuse()
    twin(world, settled, ref).created_at -= timedelta(minutes=20)
    world.resolve(batch_id)
    assert world.batch(batch_id).status == "in_doubt"
    assert world.batch(settled_id).status == "submitted"


def test_a_list_that_cannot_be_had_leaves_the_doubt_however_old(world: World) -> None:
    batch_id = world.form(2)
    world.dialect.fail("create", TIMED_OUT, after=True)
    world.submit(batch_id)
    for age, longest in (("0 s", 3), ("300 s", 30), ("1 day", 60)):
        world.run(f"UPDATE provider_batches SET intent_at = now() - interval '{age}'")
        world.dialect.fail("list_batches", Unavailable("away"))
        world.resolve(batch_id)
        row = world.batch(batch_id)
        assert row.status == "in_doubt"
        assert longest - 1 < row.due_in <= longest + 1
        world.pass_time()
    world.resolve(batch_id)
    assert world.batch(batch_id).status == "submitted"


def test_a_resolver_that_was_stopped_past_its_lease_writes_nothing(world: World) -> None:
    batch_id = world.form(2)
    world.dialect.fail("create", TIMED_OUT, after=True)
    world.submit(batch_id)
    twin(world, world.dialect.only, world.dialect.only.ref)
    world.dialect.happens("list_batches", lambda: world.steal(batch_id))
    world.resolve(batch_id)
    row = world.batch(batch_id)
    assert (row.status, row.external_id, row.leased_until is None) == ("in_doubt", None, False)
    assert world.rows("SELECT 1 FROM orphan_batches") == []


def test_jobs_that_expired_in_doubt_are_late_when_the_batch_is_found(world: World) -> None:
    batch_id = world.form(2)
    world.dialect.fail("create", TIMED_OUT, after=True)
    world.submit(batch_id)
    world.run("UPDATE jobs SET deadline_at = now()")
    deadlines.expire_overdue(world.engine)
    world.settle_down()
    assert world.jobs() == {"expired": 2}
    assert world.moved() == {"unbilled_cost": 2 * COST_NANOS}
    world.check_books()


def test_the_watch_notes_each_orphan_once_and_leaves_strangers_alone(named_world: World) -> None:
    world = named_world
    batch_id, batch = world.submitted(2)
    other = twin(world, batch, f"{batch_id.hex}-99")
    twin(world, batch, "not-one-of-ours")
    twin(world, batch, f"{'0' * 32}-1")
    twin(world, batch, None)
    for _ in range(2):
        world.watch()
    (orphan,) = world.rows("SELECT external_id, batch_id FROM orphan_batches")
    assert (orphan.external_id, orphan.batch_id) == (other.external_id, batch_id)
