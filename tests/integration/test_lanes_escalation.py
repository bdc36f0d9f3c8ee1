"""The ladder: who leaves the batch lane, when, for what money, and what becomes of the batch."""

import logging
from collections.abc import Iterator
from datetime import timedelta

import pytest

from gateway.billing import ledger
from gateway.lanes import deadlines, escalation
from gateway.lanes.durations import KNOWN_FROM
from gateway.providers.dialect import Ambiguous, LineFault, LineOutcome, Unavailable
from models.session import transaction
from models.states import RunReason
from tests.integration.fake_batches import ending, succeeded
from tests.integration.ladder import (
    STANDARD_COST_NANOS,
    STANDARD_NANOS,
    claim,
    escalate,
    held_nanos,
    in_a_batch,
    near,
    pass_time,
    perform,
    run_due,
    seen,
    sweep,
)
from tests.integration.lane_world import COST_NANOS, HOLD_NANOS, LINE_NANOS, World, opened

HOOK = {"url": "https://hook.example/"}
DAY = timedelta(days=1)


@pytest.fixture
def world(database_url: str) -> Iterator[World]:
    with opened(database_url) as world:
        yield world


def test_a_job_whose_batch_takes_too_long_is_answered_in_the_standard_lane(world: World) -> None:
    (job_id,) = in_a_batch(world, webhook=HOOK)
    assert escalate(world) == 1
    job = seen(world, job_id)
    assert (job.status, job.lane, job.is_escalated, job.batch_id) == (
        "in_progress",
        "standard",
        True,
        None,
    )
    assert (job.standard_reason, job.estimated_nanos) == (RunReason.DEADLINE, 2 * HOLD_NANOS)
    assert world.events() == {"job.escalated": 1}
    assert run_due(world) == 1
    job = seen(world, job_id)
    assert (job.status, job.attempts, job.charged_nanos) == ("completed", 2, STANDARD_NANOS)
    assert (job.list_nanos, job.lane) == (STANDARD_NANOS, "standard")
    assert b'"echo: question 0"' in (job.result or b"")
    assert f'"chatcmpl-{job_id.hex}"'.encode() in (job.result or b"")
    assert world.moved() == {"charge": STANDARD_NANOS, "provider_cost": STANDARD_COST_NANOS}
    assert world.events() == {"job.escalated": 1, "job.completed": 1}
    assert (escalate(world), run_due(world)) == (0, 0)
    world.check_books()


def test_a_job_that_has_time_left_stays(world: World) -> None:
    (job_id,) = in_a_batch(world)
    near(world, job_id, seconds=600)
    assert escalate(world) == 0
    assert (seen(world, job_id).lane, held_nanos(world, job_id)) == ("batch", HOLD_NANOS)


def test_the_batch_that_everybody_left_is_stopped_and_its_late_answers_are_the_houses(
    world: World,
) -> None:
    job_ids = in_a_batch(world, 2)
    escalate(world)
    assert run_due(world) == 2
    assert not world.dialect.only.was_cancelled, "nobody has rung"
    sweep(world)
    assert world.dialect.only.was_cancelled
    first = world.dialect.only.lines[0]
    world.dialect.only.end(
        lambda line: succeeded(line) if line is first else ending(LineOutcome.CANCELLED)(line)
    )
    world.settle_down()
    assert world.lines() == {"late": 1, "returned": 1}
    assert world.jobs() == {"completed": 2}
    assert [seen(world, job_id).charged_nanos for job_id in job_ids] == [STANDARD_NANOS] * 2
    assert world.moved() == {
        "charge": 2 * STANDARD_NANOS,
        "provider_cost": 2 * STANDARD_COST_NANOS,
        "unbilled_cost": COST_NANOS,
    }
    world.check_books()


def test_a_batch_that_others_still_wait_for_goes_on(world: World) -> None:
    first, _ = in_a_batch(world, 2)
    near(world, first, seconds=60)
    world.run("UPDATE jobs SET deadline_at = now() + interval '1 day' WHERE id <> :id", id=first)
    assert escalate(world) == 1
    sweep(world)
    assert not world.dialect.only.was_cancelled
    assert world.rows("SELECT 1 FROM batch_cancellations") == []
    world.settle_down()
    assert world.jobs() == {"completed": 2}
    assert world.moved()["charge"] == STANDARD_NANOS + LINE_NANOS
    world.check_books()


def test_a_job_that_may_not_escalate_expires_at_its_deadline(world: World) -> None:
    (job_id,) = in_a_batch(world)
    world.run("UPDATE jobs SET escalate = false")
    assert escalate(world) == 0
    near(world, job_id, seconds=0)
    assert (escalate(world), deadlines.expire_overdue(world.engine)) == (0, 1)
    assert (world.jobs(), world.moved()) == ({"expired": 1}, {})
    sweep(world)
    assert world.dialect.only.was_cancelled, "a batch whose jobs all expired"
    world.check_books()


@pytest.mark.parametrize(("most", "goes"), [(2 * HOLD_NANOS - 1, 0), (2 * HOLD_NANOS, 1)])
def test_a_job_goes_only_if_the_standard_ceiling_is_what_it_may_cost(
    world: World, most: int, goes: int
) -> None:
    in_a_batch(world)
    world.run("UPDATE jobs SET max_cost_nanos = :most", most=most)
    assert escalate(world) == goes


def test_a_job_whose_balance_does_not_cover_the_standard_ceiling_stays_until_it_does(
    world: World,
) -> None:
    account = world.account(3 * HOLD_NANOS)
    job_ids = in_a_batch(world, 2, account=account)
    assert escalate(world) == 1, "the rest covers one of them"
    assert escalate(world) == 0
    assert world.jobs() == {"in_progress": 1, "submitted": 1}
    assert sorted(held_nanos(world, each) for each in job_ids) == [HOLD_NANOS, 2 * HOLD_NANOS]
    with transaction(world.engine) as session:
        ledger.deposit(session, account, HOLD_NANOS, "more")
    assert escalate(world) == 1
    assert run_due(world) == 2
    assert world.moved()["charge"] == 2 * STANDARD_NANOS
    world.check_books()


def test_who_cannot_pay_takes_nobodys_turn(world: World) -> None:
    poor = world.account(2 * HOLD_NANOS)
    in_a_batch(world, 2, account=poor)
    (other,) = in_a_batch(world)
    assert escalate(world) == 1
    assert seen(world, other).lane == "standard"


def test_a_job_that_waits_leaves_the_queue_and_is_never_cut(world: World) -> None:
    (job_id,) = world.accept()
    near(world, job_id)
    assert escalate(world) == 1
    assert (world.cut(), world.jobs()) == ([], {"in_progress": 1})
    run_due(world)
    assert (world.jobs(), world.lines(), world.dialect.made) == ({"completed": 1}, {}, {})
    assert seen(world, job_id).attempts == 1
    world.check_books()


def test_a_job_in_a_batch_that_is_not_sent_yet_is_left_out_of_it(world: World) -> None:
    goes, stays = world.accept(2)
    (batch_id,) = world.cut()
    near(world, goes)
    assert escalate(world) == 1
    world.submit(batch_id)
    assert [line.custom_id for line in world.dialect.only.lines] == [f"{stays.hex}-1"]
    assert world.job(goes).status == "in_progress"
    run_due(world)
    world.settle_down()
    assert (world.jobs(), world.lines()) == ({"completed": 2}, {"withdrawn": 1, "succeeded": 1})
    world.check_books()


def test_a_batch_that_all_left_before_it_was_sent_is_never_sent(world: World) -> None:
    (job_id,) = world.accept()
    (batch_id,) = world.cut()
    near(world, job_id)
    escalate(world)
    world.submit(batch_id)
    assert (world.dialect.made, world.batch_states()) == ({}, {"done": 1})
    run_due(world)
    assert world.jobs() == {"completed": 1}
    sweep(world)
    assert world.rows("SELECT 1 FROM batch_cancellations") == []
    world.check_books()


def test_a_batch_in_doubt_that_all_have_left_is_cancelled_once_it_is_found(world: World) -> None:
    (job_id,) = world.accept()
    (batch_id,) = world.cut()
    world.dialect.fail("create", Ambiguous("timed out"), after=True)
    world.submit(batch_id)
    near(world, job_id)
    escalate(world)
    for _ in range(4):
        sweep(world)
    assert world.dialect.only.was_cancelled
    world.settle_down(ending(LineOutcome.CANCELLED))
    assert world.jobs() == {"completed": 1}
    world.check_books()


def test_a_batch_that_is_refused_ends_only_the_jobs_that_are_in_it(world: World) -> None:
    left, stayed = in_a_batch(world, 2)
    world.run("UPDATE jobs SET deadline_at = now() + interval '1 day' WHERE id = :id", id=stayed)
    assert escalate(world) == 1
    world.dialect.only.refuse(LineFault("invalid", "no such model", None))
    world.pass_time()
    world.poll()
    assert (world.job(left).status, world.job(stayed).status) == ("in_progress", "failed")
    run_due(world)
    assert world.job(left).status == "completed"
    world.check_books()


def test_a_line_that_is_named_as_refused_does_not_end_a_job_that_left(world: World) -> None:
    job_ids = in_a_batch(world, 2)
    escalate(world)
    world.dialect.only.refuse(LineFault("invalid", "bad line", 1))
    world.pass_time()
    world.poll()
    assert world.jobs() == {"in_progress": 2}
    run_due(world)
    assert [seen(world, each).charged_nanos for each in job_ids] == [STANDARD_NANOS] * 2
    world.check_books()


@pytest.mark.parametrize("outcome", [LineOutcome.REJECTED, LineOutcome.EXPIRED, None])
def test_a_result_without_an_answer_does_not_disturb_a_job_that_left(
    world: World, outcome: LineOutcome | None
) -> None:
    (job_id,) = in_a_batch(world)
    escalate(world)
    world.dialect.only.end((lambda _line: None) if outcome is None else ending(outcome))
    # A batch that ends without any file is given time to name one.
    for _ in range(4):
        world.pass_time()
        for batch_id in world.poll():
            assert world.ingest(batch_id)
    assert (world.job(job_id).status, world.lines()["open"]) == ("in_progress", 0)
    run_due(world)
    assert (world.jobs(), seen(world, job_id).charged_nanos) == ({"completed": 1}, STANDARD_NANOS)
    world.check_books()


def test_a_job_whose_line_came_back_too_late_for_another_batch_goes_up_the_ladder(
    world: World,
) -> None:
    (job_id,) = in_a_batch(world)
    world.dialect.only.end(ending(LineOutcome.EXPIRED))
    world.pass_time()
    for batch_id in world.poll():
        world.ingest(batch_id)
    assert world.job(job_id).status == "queued"
    assert escalate(world) == 1
    run_due(world)
    assert (seen(world, job_id).attempts, world.jobs()) == (2, {"completed": 1})
    world.check_books()


def test_results_that_are_at_hand_are_waited_for_and_not_for_ever(world: World) -> None:
    (job_id,) = in_a_batch(world)
    world.dialect.only.end()
    world.pass_time()
    (batch_id,) = world.poll()
    assert escalate(world) == 0, "it has ended, and is about to be taken in"
    world.run("UPDATE provider_batches SET ended_at = now() - interval '6 minutes'")
    assert escalate(world) == 1
    world.ingest(batch_id)
    assert seen(world, job_id).charged_nanos == LINE_NANOS, "the batch's answer came first"
    assert run_due(world) == 0
    world.check_books()


def test_a_cancelled_job_is_not_escalated(world: World) -> None:
    (job_id,) = in_a_batch(world)
    world.cancel(job_id)
    assert escalate(world) == 0


# What is learned.


def past_batches(world: World, count: int, taken: timedelta) -> None:
    """So many batches of the usual provider have ended, each after that time."""
    world.run(
        """
        INSERT INTO provider_batches (id, lane_id, status, request_count, body_bytes, external_id,
                                      submitted_at, ended_at, done_at)
        SELECT gen_random_uuid(), lanes.id, 'done', 1, 1, 'past-' || number,
               now() - :taken - interval '1 day', now() - interval '1 day', now()
        FROM lanes, generate_series(1, :count) AS number
        """,
        taken=taken,
        count=count,
    )


@pytest.mark.parametrize(
    ("known", "seconds", "goes"),
    [(KNOWN_FROM - 1, 3_000, 0), (KNOWN_FROM, 3_000, 1), (KNOWN_FROM, 4_000, 0)],
)
def test_a_job_that_waits_goes_when_no_batch_as_quick_as_the_providers_would_come_in_time(
    world: World, known: int, seconds: int, goes: int
) -> None:
    (job_id,) = world.accept()
    past_batches(world, known, timedelta(hours=1))
    near(world, job_id, seconds=seconds)
    assert escalate(world) == goes


def test_a_batch_that_was_cut_short_says_nothing_about_the_providers_speed(world: World) -> None:
    (job_id,) = world.accept()
    past_batches(world, KNOWN_FROM, timedelta(hours=1))
    world.run("INSERT INTO batch_cancellations (batch_id) SELECT id FROM provider_batches")
    near(world, job_id, seconds=3_000)
    assert escalate(world) == 0


def test_quick_calls_let_jobs_stay_longer(world: World) -> None:
    (job_id,) = in_a_batch(world)
    near(world, job_id, seconds=90)
    world.run(
        """
        INSERT INTO standard_runs (id, lane_id, reason, call_milliseconds, ended_at)
        SELECT gen_random_uuid(), lanes.id, 'deadline', 900, now()
        FROM lanes, generate_series(1, :count)
        """,
        count=KNOWN_FROM,
    )
    assert escalate(world) == 0
    near(world, job_id, seconds=34)
    assert escalate(world) == 1


def test_of_more_jobs_than_one_set_all_leave(world: World) -> None:
    count = escalation.AT_ONCE + 1
    in_a_batch(world, count)
    assert escalate(world) == count


# Batches that nobody waits for, or that their provider should have ended.


def test_a_cancellation_that_the_provider_did_not_hear_is_asked_for_again(world: World) -> None:
    in_a_batch(world)
    escalate(world)
    world.dialect.fail("cancel_batch", Unavailable("away"), Unavailable("away"))
    for _ in range(2):
        sweep(world)
        assert not world.dialect.only.was_cancelled
    sweep(world)
    assert world.dialect.only.was_cancelled
    calls = world.dialect.calls["cancel_batch"]
    sweep(world)
    assert world.dialect.calls["cancel_batch"] == calls, "once is enough"


def test_a_batch_stuck_beyond_its_window_is_alarmed_and_cancelled_and_its_jobs_go_on(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.accept()
    world.sweep()
    world.run("UPDATE provider_batches SET submitted_at = now() - interval '25 hours'")
    world.sweep()
    assert not world.dialect.only.was_cancelled, "there is a margin"
    world.run("UPDATE provider_batches SET submitted_at = now() - interval '26 hours 1 second'")
    with caplog.at_level(logging.ERROR):
        world.sweep()
        world.sweep()
    alarms = [each for each in caplog.records if each.message == "batch.overdue"]
    assert [getattr(each, "alert", False) for each in alarms] == [True]
    assert world.dialect.only.was_cancelled
    world.dialect.only.end(ending(LineOutcome.CANCELLED))
    world.sweep()
    world.settle_down()
    assert world.jobs() == {"completed": 1}
    assert len(world.dialect.made) == 2
    world.check_books()


def test_a_run_taken_while_jobs_leave_is_a_run_of_theirs(world: World) -> None:
    """Claimed before the sweep that cancels their batch, made after it."""
    in_a_batch(world)
    escalate(world)
    (run,) = claim(world)
    pass_time(world)
    world.cancel_batches()
    perform(world, run)
    assert world.jobs() == {"completed": 1}
    world.check_books()
