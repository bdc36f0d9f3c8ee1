"""A formed batch reaches its provider once, or its jobs end or wait: no third thing."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from gateway.lanes import deadlines
from gateway.lanes.submission import FILE_TRUSTED_REFUSALS
from gateway.providers.dialect import (
    Ambiguous,
    ProviderError,
    Rejected,
    Unauthorized,
    Unavailable,
)
from tests.integration.fake_dialect import FakeDialect, Killed
from tests.integration.lane_world import LINE_NANOS, World, opened


@pytest.fixture
def world(database_url: str) -> Iterator[World]:
    with opened(database_url) as world:
        yield world


@pytest.fixture
def plain_world(database_url: str) -> Iterator[World]:
    """At a provider that keeps no metadata and takes the lines with the creation."""
    with opened(database_url, FakeDialect("plain", keeps_metadata=False)) as world:
        yield world


def test_a_batch_goes_to_its_provider_with_every_line_in_the_order_of_its_jobs(
    world: World,
) -> None:
    job_ids = world.accept(5)
    (batch_id,) = world.cut()
    assert {world.job(each).batch_id for each in job_ids} == {batch_id}
    assert world.jobs() == {"queued": 5}
    world.submit(batch_id)
    batch = world.dialect.only
    asked = [(f"{job_id.hex}-1", f"question {number}") for number, job_id in enumerate(job_ids)]
    assert [
        (line.custom_id, line.body["messages"][0]["content"]) for line in batch.lines
    ] == sorted(asked)
    assert {line.model for line in batch.lines} == {"model-a"}
    row = world.batch(batch_id)
    assert (row.status, row.external_id) == ("submitted", batch.external_id)
    assert (row.leased_until, row.last_error, row.request_count) == (None, None, 5)
    assert batch.ref == row.intent_ref
    assert world.jobs() == {"submitted": 5}
    assert world.job(job_ids[0]).submitted_at is not None
    world.settle_down()
    assert world.jobs() == {"completed": 5}
    assert world.moved()["charge"] == 5 * LINE_NANOS
    world.check_books()


def test_a_batch_that_is_rung_for_twice_is_created_once(world: World) -> None:
    batch_id = world.form(2)
    world.submit(batch_id)
    world.submit(batch_id)
    assert world.dialect.calls["create"] == 1


def test_a_provider_that_carries_the_lines_in_the_creation_gets_no_file(
    plain_world: World,
) -> None:
    plain_world.accept(3)
    plain_world.settle_down()
    assert plain_world.dialect.files == {}
    assert plain_world.jobs() == {"completed": 3}


@pytest.mark.parametrize("operation", ["upload", "create"])
@pytest.mark.parametrize("error", [Unavailable("busy"), Unauthorized("no money")])
def test_a_provider_that_did_nothing_is_asked_again_later_and_later(
    world: World, operation: str, error: ProviderError
) -> None:
    batch_id = world.form(2)
    waits = []
    for refusals in (1, 2, 3):
        world.dialect.fail(operation, error)
        world.submit(batch_id)
        row = world.batch(batch_id)
        assert (row.status, row.refusals, row.leased_until) == ("formed", refusals, None)
        assert row.last_error == error.message
        waits.append(row.due_in)
        world.submit(batch_id)
        assert world.dialect.calls[operation] == refusals, "it is not due yet"
        world.pass_time()
    for wait, doubled in zip(waits, (2, 4, 8), strict=True):
        assert doubled / 2 - 0.5 < wait <= doubled
    assert world.jobs() == {"queued": 2}
    world.settle_down()
    assert world.jobs() == {"completed": 2}
    assert len(world.dialect.files) == 1
    assert world.batch(batch_id).refusals == 0
    world.check_books()


def test_a_provider_that_says_when_to_come_back_is_obeyed(world: World) -> None:
    batch_id = world.form()
    world.dialect.fail("create", Unavailable("busy", status=429, retry_after_seconds=120))
    world.submit(batch_id)
    assert 119 < world.batch(batch_id).due_in <= 150


def test_a_file_that_was_uploaded_is_used_again_after_a_refusal(world: World) -> None:
    batch_id = world.form(2)
    world.dialect.fail("create", Unavailable("busy"))
    world.submit(batch_id)
    world.pass_time()
    world.submit(batch_id)
    assert world.dialect.calls["upload"] == 1
    assert world.dialect.only.input_file_id == "file-1"


def test_a_file_that_the_provider_has_lost_is_uploaded_again_in_the_end(world: World) -> None:
    batch_id = world.form(2)
    for _ in range(FILE_TRUSTED_REFUSALS):
        world.dialect.fail("create", Unavailable("cannot find file"))
        world.submit(batch_id)
        world.pass_time()
    world.dialect.files.clear()
    world.submit(batch_id)
    assert world.dialect.calls["upload"] == 2
    assert world.batch(batch_id).status == "submitted"


@pytest.mark.parametrize("operation", ["upload", "create"])
def test_a_batch_that_the_provider_rejects_fails_all_its_jobs_with_its_message(
    world: World, operation: str
) -> None:
    job_ids = world.accept(3, webhook={"url": "https://hook.example/"})
    (batch_id,) = world.cut()
    world.dialect.fail(operation, Rejected("this model is retired", status=404))
    world.submit(batch_id)
    assert world.jobs() == {"failed": 3}
    assert world.error(job_ids[0]) == {
        "type": "bad_request",
        "message": "this model is retired",
        "code": 400,
    }
    assert {world.job(each).hold for each in job_ids} == {"voided"}
    assert world.moved() == {}
    assert world.events() == {"job.failed": 3}
    assert (world.batch(batch_id).status, world.lines()) == ("done", {"failed": 3})
    world.check_books()


def test_a_batch_without_a_credential_waits_for_one(world: World) -> None:
    batch_id = world.form()
    credentials: Any = world.works.credentials.house
    credential = credentials.pop(("fake", "house"))
    world.submit(batch_id)
    row = world.batch(batch_id)
    assert row.status == "formed"
    assert 50 < row.due_in <= 60
    credentials["fake", "house"] = credential
    world.settle_down()
    assert world.jobs() == {"completed": 1}


def test_what_was_cancelled_or_has_expired_is_left_out_before_anything_is_sent(
    world: World,
) -> None:
    job_ids = world.accept(4)
    (batch_id,) = world.cut()
    world.cancel(job_ids[0])
    world.run("UPDATE jobs SET deadline_at = now() WHERE id = :id", id=job_ids[1])
    deadlines.expire_overdue(world.engine)
    assert world.jobs() == {"cancelling": 1, "expired": 1, "queued": 2}
    world.submit(batch_id)
    assert world.jobs() == {"cancelled": 1, "expired": 1, "submitted": 2}
    assert len(world.dialect.only.lines) == 2
    assert world.batch(batch_id).request_count == 2
    assert world.lines() == {"withdrawn": 2, "open": 2}
    world.settle_down()
    assert world.moved()["charge"] == 2 * LINE_NANOS
    world.check_books()


def test_a_batch_that_has_lost_all_its_lines_is_done_without_a_word_to_the_provider(
    world: World,
) -> None:
    job_ids = world.accept(2)
    (batch_id,) = world.cut()
    for job_id in job_ids:
        world.cancel(job_id)
    world.submit(batch_id)
    assert world.jobs() == {"cancelled": 2}
    assert world.batch(batch_id).status == "done"
    assert world.dialect.calls == {}
    world.check_books()


def test_a_line_that_was_cancelled_after_the_upload_makes_a_new_file(world: World) -> None:
    job_ids = world.accept(3)
    (batch_id,) = world.cut()
    world.dialect.fail("create", Unavailable("busy"))
    world.submit(batch_id)
    world.cancel(job_ids[1])
    world.pass_time()
    world.submit(batch_id)
    batch = world.dialect.only
    assert {line.custom_id for line in batch.lines} == {
        f"{job_ids[0].hex}-1",
        f"{job_ids[2].hex}-1",
    }
    assert world.dialect.calls["upload"] == 2


def test_a_claim_that_was_lost_during_the_upload_writes_nothing_and_creates_nothing(
    world: World,
) -> None:
    batch_id = world.form(2)
    world.dialect.happens("upload", lambda: world.steal(batch_id))
    world.submit(batch_id)
    row = world.batch(batch_id)
    assert (row.status, row.input_file_id, row.epoch) == ("uploading", None, 2)
    assert row.leased_until is not None
    assert world.dialect.calls["create"] == 0


def test_a_claim_that_was_lost_during_the_creation_writes_nothing(world: World) -> None:
    batch_id = world.form(2)
    world.dialect.happens("create", lambda: world.steal(batch_id), after=True)
    world.submit(batch_id)
    row = world.batch(batch_id)
    assert (row.status, row.external_id, row.leased_until is None) == ("submitting", None, False)
    assert world.jobs() == {"queued": 2}
    world.expire_lease(batch_id)
    world.settle_down()
    assert len(world.dialect.made) == 1, "the other one adopted it"
    assert world.jobs() == {"completed": 2}


def test_a_claim_that_was_lost_before_an_error_writes_nothing(world: World) -> None:
    batch_id = world.form(2)

    def fail_late() -> None:
        world.steal(batch_id)
        raise Rejected("no")

    world.dialect.happens("create", fail_late)
    world.submit(batch_id)
    assert world.jobs() == {"queued": 2}
    assert world.batch(batch_id).status == "submitting"


def test_a_worker_whose_lease_ran_out_unnoticed_does_not_create(world: World) -> None:
    batch_id = world.form(2)
    renewed = world.works.leases._renewed

    def sleep_on() -> None:
        for claim in renewed:
            renewed[claim] -= 31

    world.dialect.happens("upload", sleep_on)
    world.submit(batch_id)
    assert world.dialect.calls["create"] == 0
    world.settle_down()
    assert world.jobs() == {"completed": 2}


def test_where_creations_carry_no_name_there_is_one_in_flight_for_a_credential(
    plain_world: World,
) -> None:
    world = plain_world
    first = world.form(2, model="model-a")
    second = world.form(2, model="model-b")
    world.dialect.happens("create", lambda: world.submit(second))
    world.submit(first)
    assert world.dialect.calls["create"] == 1
    row = world.batch(second)
    assert (row.status, row.refusals) == ("formed", 0)
    assert 0 < row.due_in <= 1
    world.settle_down()
    assert world.jobs() == {"completed": 4}


def test_a_creation_in_doubt_is_in_flight_too(plain_world: World) -> None:
    world = plain_world
    first = world.form(2, model="model-a")
    second = world.form(2, model="model-b")
    world.dialect.fail("create", Ambiguous("timed out"))
    world.submit(first)
    world.submit(second)
    assert world.dialect.calls["create"] == 1
    assert (world.batch(first).status, world.batch(second).status) == ("in_doubt", "formed")


def test_where_creations_carry_names_they_do_not_wait_for_each_other(world: World) -> None:
    first = world.form(1, model="model-a")
    second = world.form(1, model="model-b")
    world.dialect.happens("create", lambda: world.submit(second))
    world.submit(first)
    assert world.dialect.calls["create"] == 2


def test_a_call_that_cannot_be_written_fails_alone(world: World) -> None:
    job_ids = world.accept(3)
    (batch_id,) = world.cut()
    world.run("UPDATE job_bodies SET body = 'no JSON' WHERE job_id = :id", id=job_ids[1])
    world.submit(batch_id)
    assert world.dialect.calls == {}
    assert world.job(job_ids[1]).http_status == 400
    assert world.jobs() == {"failed": 1, "queued": 2}
    world.submit(batch_id)
    assert world.batch(batch_id).request_count == 2
    world.settle_down()
    assert world.jobs() == {"failed": 1, "completed": 2}
    assert len(world.dialect.made) == 1
    world.check_books()


def test_a_batch_of_nothing_but_unwritable_calls_is_done(world: World) -> None:
    batch_id = world.form(2)
    world.run("UPDATE job_bodies SET body = 'no JSON'")
    world.submit(batch_id)
    world.submit(batch_id)
    assert (world.jobs(), world.batch(batch_id).status) == ({"failed": 2}, "done")
    world.check_books()


def test_a_disk_that_is_full_is_tried_again_later(world: World) -> None:
    batch_id = world.form(2)
    world.dialect.fail("upload", OSError("no space left on device"))
    with pytest.raises(OSError, match="no space left"):
        world.submit(batch_id)
    row = world.batch(batch_id)
    assert row.leased_until is None
    assert row.due_in > 10
    world.settle_down()
    assert world.jobs() == {"completed": 2}


def test_a_job_that_kills_its_worker_every_time_ends_at_its_deadline(world: World) -> None:
    world.accept(1, deadline=timedelta(minutes=5))
    world.accept(1, model="model-b")
    for attempt in range(4):
        world.dialect.fail("upload", Killed())
        world.sweep()
        assert world.kills == attempt + 1
    assert world.jobs()["queued"] == 1, "the other lane's goes on"
    world.run("UPDATE jobs SET deadline_at = now() WHERE status = 'queued'")
    deadlines.expire_overdue(world.engine)
    world.settle_down()
    assert world.jobs() == {"expired": 1, "completed": 1}
    world.check_books()


def test_a_provider_that_is_away_does_not_delay_the_batches_of_another(
    database_url: str,
) -> None:
    away, well = FakeDialect("away"), FakeDialect("well")
    with opened(database_url, away, well) as world:
        world.accept(2, provider="away")
        world.accept(2, provider="well")
        away.fail("upload", *[Unavailable("away")] * 20)
        for _ in range(2):
            for batch in well.running:
                batch.end()
            world.sweep()
        assert world.jobs() == {"queued": 2, "completed": 2}
        assert world.rows("SELECT max(refusals) FROM provider_batches") != [(0,)]


def test_a_job_can_wait_for_days_and_still_ends(world: World) -> None:
    job_ids: list[UUID] = world.accept(2, deadline=timedelta(hours=1))
    (batch_id,) = world.cut()
    world.dialect.fail("upload", Unavailable("away"))
    world.submit(batch_id)
    world.run("UPDATE jobs SET deadline_at = now()")
    deadlines.expire_overdue(world.engine)
    world.pass_time()
    world.submit(batch_id)
    assert {world.job(each).http_status for each in job_ids} == {504}
    assert (world.batch(batch_id).status, world.lines()) == ("done", {"withdrawn": 2})
    world.check_books()
