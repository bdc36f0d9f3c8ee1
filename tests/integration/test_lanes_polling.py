"""What a provider says of a batch, believed as far as it makes sense."""

import threading
from collections.abc import Iterator
from uuid import UUID

import pytest

from gateway.lanes.polling import LIST_FROM
from gateway.providers.dialect import (
    BatchState,
    Broken,
    LineFault,
    ProviderError,
    Unauthorized,
    Unavailable,
)
from tests.integration.fake_dialect import FakeDialect
from tests.integration.lane_world import LINE_NANOS, World, opened


@pytest.fixture
def world(database_url: str) -> Iterator[World]:
    with opened(database_url) as world:
        yield world


def over_quota(world: World) -> None:
    fault = LineFault("token_limit_exceeded", "Enqueued token limit reached", None)
    for batch in world.dialect.running:
        batch.refuse(fault, over_enqueued_tokens=True)


def test_a_batch_that_runs_takes_its_jobs_along_and_validating_changes_nothing(
    world: World,
) -> None:
    batch_id, batch = world.submitted(2)
    batch.state = BatchState.VALIDATING
    assert world.poll() == []
    assert (world.batch(batch_id).status, world.jobs()) == ("submitted", {"submitted": 2})
    for state in (BatchState.RUNNING, BatchState.CANCELLING, BatchState.RUNNING):
        batch.state = state
        assert world.poll() == []
        row = world.batch(batch_id)
        assert (row.status, row.provider_status) == ("in_progress", f"fake_{state}")
        assert world.jobs() == {"in_progress": 2}


def test_a_batch_that_has_ended_is_ingested_whatever_it_says_later(world: World) -> None:
    batch_id, batch = world.submitted(2)
    batch.end()
    assert world.poll() == [batch_id]
    batch.state = BatchState.RUNNING
    world.pass_time()
    assert world.poll() == []
    assert world.batch(batch_id).status == "ingesting"
    batch.refuse(LineFault(None, "never mind", None))
    world.pass_time()
    assert world.poll() == []
    assert world.ingest(batch_id)
    assert world.jobs() == {"completed": 2}
    world.check_books()


def test_a_status_that_goes_back_before_the_end_is_not_believed_for_the_jobs(
    world: World,
) -> None:
    batch_id, batch = world.submitted(1)
    world.poll()
    batch.state = BatchState.VALIDATING
    world.poll()
    assert (world.batch(batch_id).status, world.jobs()) == ("in_progress", {"in_progress": 1})


def test_an_ended_batch_is_given_a_moment_to_name_its_files(world: World) -> None:
    batch_id, batch = world.submitted(2)
    batch.end()
    files, batch.files = batch.files, {}
    assert world.poll() == []
    assert world.poll() == []
    row = world.batch(batch_id)
    assert row.status in {"submitted", "in_progress"}
    assert row.ended_at is not None
    batch.files = files
    assert world.poll() == [batch_id]
    world.ingest(batch_id)
    assert world.jobs() == {"completed": 2}


def test_an_ended_batch_without_files_has_left_everything_out_after_that_moment(
    world: World,
) -> None:
    batch_id, batch = world.submitted(2)
    batch.end_with()
    assert world.poll() == []
    world.run("UPDATE provider_batches SET ended_at = ended_at - interval '121 seconds'")
    assert world.poll() == [batch_id]
    world.ingest(batch_id)
    assert world.jobs() == {"queued": 2}
    world.check_books()


def test_results_past_their_retention_are_not_waited_for(world: World) -> None:
    batch_id, batch = world.submitted(2)
    batch.end_with()
    batch.retention_over = True
    assert world.poll() == [batch_id]
    world.ingest(batch_id)
    assert world.jobs() == {"queued": 2}


@pytest.mark.parametrize("name", ['file-"1"', "file-\\1", "dätei"])
def test_a_files_name_is_kept_as_it_is(world: World, name: str) -> None:
    batch_id, batch = world.submitted(1)
    batch.end()
    (data,) = batch.files.values()
    batch.files = {name: data}
    world.poll()
    assert world.batch(batch_id).result_files == [name]
    assert world.ingest(batch_id)
    assert world.jobs() == {"completed": 1}


def test_a_batch_that_the_provider_denies_is_lost_only_after_minutes(world: World) -> None:
    batch_id, batch = world.submitted(2)
    batch.is_known = False
    assert world.poll() == []
    assert world.batch(batch_id).status == "submitted"
    world.run("UPDATE provider_batches SET submitted_at = now() - interval '6 minutes'")
    assert world.poll() == []
    assert (world.batch(batch_id).status, world.jobs()) == ("done", {"queued": 2})
    assert {row.failures for row in world.rows("SELECT failures FROM jobs")} == {1}
    world.check_books()


def test_lines_that_made_the_provider_refuse_the_batch_fail_and_the_others_run_again(
    world: World,
) -> None:
    job_ids = sorted(world.accept(5))
    (batch_id,) = world.cut()
    world.submit(batch_id)
    world.dialect.only.refuse(
        LineFault("invalid", "line two is wrong", 2),
        LineFault("invalid", "line four is wrong", 4),
        LineFault("other", "something else", None),
    )
    assert world.poll() == []
    assert world.jobs() == {"failed": 2, "queued": 3}
    assert world.error(job_ids[1])["message"] == "line two is wrong"
    assert world.error(job_ids[3])["message"] == "line four is wrong"
    assert world.job(job_ids[1]).http_status == 400
    rows = world.rows("SELECT failures FROM jobs WHERE status = 'queued'")
    assert {row.failures for row in rows} == {0}
    world.check_books()
    world.settle_down()
    assert world.jobs() == {"failed": 2, "completed": 3}
    assert world.moved()["charge"] == 3 * LINE_NANOS


def test_the_named_lines_are_counted_as_they_were_sent(world: World) -> None:
    job_ids = sorted(world.accept(4))
    (batch_id,) = world.cut()
    world.cancel(job_ids[0])
    world.submit(batch_id)
    world.dialect.only.refuse(LineFault("invalid", "wrong", 1))
    world.poll()
    assert world.job(job_ids[1]).status == "failed"
    assert world.jobs() == {"cancelled": 1, "failed": 1, "queued": 2}


@pytest.mark.parametrize("line", [None, 7])
def test_a_refusal_that_names_no_line_of_ours_fails_the_whole_batch(
    world: World, line: int | None
) -> None:
    job_ids = world.accept(3)
    (batch_id,) = world.cut()
    world.submit(batch_id)
    world.dialect.only.refuse(LineFault("invalid", "this endpoint takes no batches", line))
    world.poll()
    assert world.jobs() == {"failed": 3}
    assert world.error(job_ids[0])["message"] == "this endpoint takes no batches"
    assert (world.batch(batch_id).status, world.moved()) == ("done", {})
    world.check_books()


def test_a_refusal_without_a_word_fails_the_whole_batch(world: World) -> None:
    (job_id,) = world.accept()
    world.sweep()
    world.dialect.only.refuse()
    world.sweep()
    assert world.error(job_id)["message"] == "The provider refused the batch."


def test_a_cancelled_job_in_a_refused_batch_is_cancelled(world: World) -> None:
    job_ids = sorted(world.accept(3))
    (batch_id,) = world.cut()
    world.submit(batch_id)
    world.cancel(job_ids[2])
    world.dialect.only.refuse(LineFault("invalid", "wrong", 1))
    world.poll()
    assert world.jobs() == {"failed": 1, "queued": 1, "cancelled": 1}
    world.check_books()


def test_over_the_token_limit_the_batch_waits_as_it_is_and_no_job_fails(world: World) -> None:
    batch_id, _ = world.submitted(3)
    waits = []
    for _ in range(6):
        over_quota(world)
        assert world.poll() == []
        row = world.batch(batch_id)
        assert (row.status, row.external_id) == ("formed", None)
        assert world.jobs() == {"queued": 3}
        waits.append(round(row.due_in))
        world.pass_time()
        world.submit(batch_id)
        assert world.batch(batch_id).status == "submitted"
    assert waits == [60, 120, 240, 480, 900, 900]
    assert world.dialect.calls["upload"] == 1
    world.settle_down()
    assert world.jobs() == {"completed": 3}
    assert {row.failures for row in world.rows("SELECT failures FROM jobs")} == {0}
    assert world.lines() == {"succeeded": 3}
    world.check_books()


def test_the_end_of_one_batch_wakes_those_of_its_lane_that_wait_for_tokens(world: World) -> None:
    waiting, _ = world.submitted(1)
    over_quota(world)
    world.poll()
    other, _ = world.submitted(1, model="model-b")
    over_quota(world)
    world.poll()
    batch_id, batch = world.submitted(1)
    batch.end()
    world.poll()
    assert world.batch(waiting).due_in > 50
    world.ingest(batch_id)
    assert world.batch(waiting).due_in <= 0
    assert world.batch(other).due_in > 50, "it is of another lane"


@pytest.mark.parametrize("refused_too_often", [1_100, 30_000])
def test_a_batch_that_was_refused_a_thousand_times_is_refused_like_any_other(
    world: World, refused_too_often: int
) -> None:
    batch_id, _ = world.submitted(1)
    world.run("UPDATE provider_batches SET refusals = :n", n=refused_too_often)
    over_quota(world)
    world.poll()
    assert round(world.batch(batch_id).due_in) == 900


def test_few_batches_are_asked_for_one_by_one_and_many_by_one_list(world: World) -> None:
    batches = [world.submitted(1, model=f"model-{n}") for n in range(LIST_FROM - 1)]
    world.poll()
    assert (world.dialect.calls["get_batch"], world.dialect.calls["list_batches"]) == (2, 0)
    batches.append(world.submitted(1, model="model-last"))
    for _, batch in batches:
        batch.end()
    assert set(world.poll()) == {batch_id for batch_id, _ in batches}
    assert (world.dialect.calls["get_batch"], world.dialect.calls["list_batches"]) == (2, 1)


def test_what_a_list_leaves_out_is_asked_for(world: World) -> None:
    batches = [world.submitted(1, model=f"model-{n}") for n in range(3)]
    for _, batch in batches:
        batch.end()
    batches[0][1].is_listed = False
    assert set(world.poll()) == {batch_id for batch_id, _ in batches}
    world.dialect.fail("list_batches", Broken("garbled"))
    assert world.poll() == []


@pytest.mark.parametrize("error", [Unavailable("busy"), Unauthorized("revoked"), Broken("?")])
def test_a_look_that_fails_is_repeated_at_the_next_turn(world: World, error: ProviderError) -> None:
    batch_id, batch = world.submitted(1)
    batch.end()
    world.dialect.fail("get_batch", error)
    assert world.poll() == []
    assert world.poll() == [batch_id]


def test_a_provider_that_is_away_does_not_keep_the_others_waiting(database_url: str) -> None:
    away, well = FakeDialect("away"), FakeDialect("well")
    with opened(database_url, away, well) as world:
        for number in range(6):
            world.accept(provider="away", model=f"model-{number}")
        world.accept(provider="well")
        for batch_id in world.cut():
            world.submit(batch_id)
        away.fail("list_batches", Unavailable("away"))
        away.fail("get_batch", *[Unavailable("away")] * 6)
        well.only.end()
        assert len(world.poll()) == 1
        assert away.calls["get_batch"] == 3


def test_two_pollers_at_once_look_at_each_batch_once(world: World) -> None:
    batches = dict(world.submitted(1, model=f"model-{n}") for n in range(6))
    for batch in batches.values():
        batch.end()
    start = threading.Barrier(2, timeout=10)
    found: list[UUID] = []

    def poll() -> None:
        start.wait()
        found.extend(world.poll())

    pollers = [threading.Thread(target=poll) for _ in range(2)]
    for poller in pollers:
        poller.start()
    for poller in pollers:
        poller.join(10)
    assert sorted(found) == sorted(batches)


def test_a_report_on_a_creation_that_no_longer_counts_is_ignored(world: World) -> None:
    """The batch was refused and created again while a poller was at the network."""
    batch_id, batch = world.submitted(1)

    def recreate() -> None:
        world.run("UPDATE provider_batches SET external_id = 'ext-new', due_at = now()")

    batch.end()
    world.dialect.happens("get_batch", recreate, after=True)
    assert world.poll() == []
    assert world.batch(batch_id).status == "submitted"


@pytest.mark.parametrize(("age", "seconds"), [("0 s", 30), ("1500 s", 30), ("1 hour", 72)])
def test_an_older_batch_is_looked_at_less_often(
    database_url: str, age: str, seconds: float
) -> None:
    with opened(database_url, poll_interval_seconds=30) as world:
        batch_id, _ = world.submitted(1)
        world.run(
            f"UPDATE provider_batches SET due_at = now(), submitted_at = now() - interval '{age}'"
        )
        world.poll()
        # Never sooner than the interval: some milliseconds have passed since.
        assert seconds * 0.99 < world.batch(batch_id).due_in < seconds * 1.21
        calls = world.dialect.calls["get_batch"]
        world.poll()
        assert world.dialect.calls["get_batch"] == calls == 1
