"""Runs of the standard lane: races with the batch's results, kills, retries, and their money."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest

from gateway.lanes import deadlines
from gateway.lanes.cancellation import Cancellation
from gateway.lanes.records import Target
from gateway.lanes.returning import MAX_FAILURES
from gateway.lanes.standard_lane import StandardLane
from gateway.providers.dialect import (
    Answer,
    Broken,
    Rejected,
    Unauthorized,
    Unavailable,
)
from tests.integration.fake_dialect import Killed
from tests.integration.ladder import (
    STANDARD_COST_NANOS,
    STANDARD_NANOS,
    ask,
    claim,
    escalate,
    in_a_batch,
    near,
    pass_time,
    perform,
    run_due,
    run_row,
    seen,
)
from tests.integration.lane_world import COST_NANOS, HOLD_NANOS, LINE_NANOS, World, opened


@pytest.fixture
def world(database_url: str) -> Iterator[World]:
    with opened(database_url) as world:
        yield world


def take_in(world: World) -> None:
    """The batches that run end with an answer to every line, and are taken in."""
    for batch in world.dialect.running:
        batch.end()
    world.pass_time()
    for batch_id in world.poll():
        world.ingest(batch_id)


def standard(charges: int = 1, unbilled: int = 0) -> dict[str, int]:
    """What has moved for so many standard calls that were charged, and costs that were not."""
    moved = {
        "charge": charges * STANDARD_NANOS,
        "provider_cost": charges * STANDARD_COST_NANOS,
        "unbilled_cost": unbilled,
    }
    return {kind: nanos for kind, nanos in moved.items() if nanos}


def logged(world: World) -> list[tuple[str, int, int]]:
    """The request log's rows: lane, HTTP status and attempts, of batches and calls together."""
    rows = world.rows("SELECT lane, http_status, attempts FROM request_log")
    return [(row.lane, row.http_status, row.attempts) for row in rows]


# What it costs.


@pytest.mark.parametrize(
    ("tier", "charged"), [("default", STANDARD_NANOS), ("priority", 2 * STANDARD_NANOS)]
)
def test_a_call_is_charged_at_the_tier_that_its_provider_says_it_ran_at(
    world: World, tier: str, charged: int
) -> None:
    job_id = made_at(world, tier)
    assert seen(world, job_id).charged_nanos == charged
    assert world.moved() == {"charge": charged, "provider_cost": charged * 10 // 11}
    world.check_books()


def test_a_call_at_a_tier_that_has_no_price_is_unpriced(world: World) -> None:
    job = seen(world, made_at(world, "scale"))
    assert (job.status, job.unpriced, job.charged_nanos) == ("completed", True, None)
    assert world.moved().keys() == {"suspense"}
    world.check_books()


def made_at(world: World, tier: str) -> UUID:
    """A job whose standard call has been answered at that tier."""
    (job_id,) = in_a_batch(world)
    escalate(world)
    (run,) = claim(world)

    def answer(target: Target, body: dict[str, Any], timeout_seconds: float) -> Answer:
        return replace(ask(target, body, timeout_seconds), service_tier=tier)

    perform(world, run, answer)
    return job_id


# What comes first wins.


def test_a_batch_result_that_comes_while_the_call_runs_is_the_one_result_and_charge(
    world: World,
) -> None:
    (job_id,) = in_a_batch(world)
    escalate(world)
    world.dialect.happens("call", lambda: take_in(world))
    run_due(world)
    job = seen(world, job_id)
    assert (job.status, job.lane, job.charged_nanos) == ("completed", "batch", LINE_NANOS)
    assert job.is_escalated
    assert world.moved() == {
        "charge": LINE_NANOS,
        "provider_cost": COST_NANOS,
        "unbilled_cost": STANDARD_COST_NANOS,
    }
    assert run_row(world, job_id).ended_at is not None
    pass_time(world)
    assert run_due(world) == 0
    world.check_books()


def test_a_batch_result_that_comes_after_the_calls_is_late_and_the_houses(world: World) -> None:
    (job_id,) = in_a_batch(world)
    escalate(world)

    def answer_first() -> None:
        run_due(world)

    world.dialect.happens("download", answer_first)
    take_in(world)
    assert (world.lines(), seen(world, job_id).charged_nanos) == ({"late": 1}, STANDARD_NANOS)
    assert world.moved() == standard(unbilled=COST_NANOS)
    world.check_books()


def test_answers_of_both_lanes_that_meet_give_each_job_one_result_and_one_charge(
    world: World,
) -> None:
    job_ids = in_a_batch(world, 24)
    escalate(world)
    claimed = claim(world)
    world.dialect.only.end()
    world.pass_time()
    (batch_id,) = world.poll()
    together = threading.Barrier(5)

    def perform_some(number: int) -> None:
        together.wait()
        for run in claimed[number::4]:
            perform(world, run)

    with ThreadPoolExecutor(5) as pool:
        performed = [pool.submit(perform_some, number) for number in range(4)]
        together.wait()
        assert world.ingest(batch_id)
        for each in performed:
            each.result()
    assert world.jobs() == {"completed": 24}
    charged = [seen(world, job_id).charged_nanos for job_id in job_ids]
    assert set(charged) <= {LINE_NANOS, STANDARD_NANOS}
    moved = world.moved()
    assert moved["charge"] == sum(nanos or 0 for nanos in charged)
    # Every answer of either lane is in the books once, whoever bears it.
    booked = moved["provider_cost"] + moved["unbilled_cost"]
    assert booked == 24 * (COST_NANOS + STANDARD_COST_NANOS)
    world.check_books()


# Kills, and leases that ended.


@pytest.mark.parametrize("after", [False, True], ids=["before the call", "after the call"])
def test_a_call_whose_worker_was_killed_is_made_again_and_charged_once(
    world: World, after: bool
) -> None:
    (job_id,) = in_a_batch(world)
    escalate(world)
    world.dialect.fail("call", Killed(), after=after)
    assert (run_due(world), world.kills) == (1, 1)
    assert run_due(world) == 0, "its lease has not ended"
    pass_time(world)
    assert run_due(world) == 1
    assert (world.jobs(), seen(world, job_id).attempts) == ({"completed": 1}, 3)
    assert world.moved() == standard()
    world.check_books()


def test_a_worker_killed_between_escalation_and_call_costs_one_lease(world: World) -> None:
    in_a_batch(world)
    escalate(world)
    claim(world)
    assert run_due(world) == 0
    pass_time(world)
    assert run_due(world) == 1
    assert (world.jobs(), world.moved()) == ({"completed": 1}, standard())
    world.check_books()


def test_a_call_that_kills_its_workers_fails_in_the_end(world: World) -> None:
    (job_id,) = in_a_batch(world)
    escalate(world)
    world.dialect.fail("call", *[Killed()] * 10)
    for _ in range(MAX_FAILURES + 2):
        run_due(world)
        pass_time(world)
    assert world.kills == MAX_FAILURES
    assert (world.job(job_id).http_status, world.moved()) == (502, {})
    world.check_books()


def test_an_answer_after_the_lease_was_lost_is_the_houses_and_changes_nothing(
    world: World,
) -> None:
    (job_id,) = in_a_batch(world)
    escalate(world)
    (stopped,) = claim(world)
    pass_time(world)
    (other,) = claim(world)
    perform(world, stopped)
    assert world.jobs() == {"in_progress": 1}
    assert world.moved() == standard(0, STANDARD_COST_NANOS)
    perform(world, other)
    assert world.moved() == standard(1, STANDARD_COST_NANOS)
    assert seen(world, job_id).charged_nanos == STANDARD_NANOS
    world.check_books()


def test_a_refusal_after_the_lease_was_lost_ends_nothing(world: World) -> None:
    in_a_batch(world)
    escalate(world)
    (stopped,) = claim(world)
    pass_time(world)
    claim(world)
    for error in (Rejected("no"), Unavailable("away")):
        world.dialect.fail("call", error)
        perform(world, stopped)
    assert world.jobs() == {"in_progress": 1}


def test_an_answer_that_is_written_down_twice_counts_once(world: World) -> None:
    """The commit went through and was not heard of."""
    in_a_batch(world)
    escalate(world)
    (run,) = claim(world)
    perform(world, run)
    perform(world, run)
    assert world.moved() == standard()
    world.check_books()


# What the provider says.


def test_a_call_is_tried_again_while_its_provider_is_away_until_it_is_answered(
    world: World,
) -> None:
    (job_id,) = in_a_batch(world)
    escalate(world)
    away = [Unavailable("busy", status=429, retry_after_seconds=20), Unavailable("down")]
    world.dialect.fail("call", *away, Unauthorized("key"))
    waits = []
    for _ in range(3):
        assert run_due(world) == 1
        assert run_due(world) == 0, "it waits"
        (row,) = world.rows(
            "SELECT extract(epoch FROM due_at - now())::float AS wait FROM standard_runs"
        )
        waits.append(row.wait)
        pass_time(world)
    assert run_due(world) == 1
    assert 19 < waits[0] <= 25
    assert (world.jobs(), seen(world, job_id).attempts) == ({"completed": 1}, 5)
    assert logged(world) == [("standard", 200, 5)]
    assert world.moved() == standard()
    world.check_books()


def test_a_call_that_its_provider_refuses_fails_the_job(world: World) -> None:
    (job_id,) = in_a_batch(world)
    escalate(world)
    world.dialect.fail("call", Rejected("no such model"))
    run_due(world)
    job = world.job(job_id)
    assert (job.status, job.http_status, job.hold) == ("failed", 400, "voided")
    assert logged(world) == [("standard", 400, 2)]
    assert world.moved() == {}
    world.check_books()


def test_answers_that_nobody_can_read_fail_the_job_after_three(world: World) -> None:
    (job_id,) = in_a_batch(world)
    escalate(world)
    world.dialect.fail("call", *[Broken("garbled")] * 5)
    for _ in range(MAX_FAILURES + 1):
        run_due(world)
        world.run("UPDATE standard_runs SET due_at = now()")
    assert world.dialect.calls["call"] == MAX_FAILURES
    assert (world.job(job_id).http_status, world.moved()) == (502, {})
    world.check_books()


def test_a_call_without_a_usage_is_unpriced(world: World) -> None:
    (job_id,) = in_a_batch(world)
    escalate(world)
    (run,) = claim(world)

    def uncounted(target: Target, body: dict[str, Any], timeout_seconds: float) -> Answer:
        return Answer(ask(target, body, timeout_seconds).body, None)

    perform(world, run, uncounted)
    job = seen(world, job_id)
    assert (job.status, job.unpriced, job.charged_nanos) == ("completed", True, None)
    assert world.moved() == {"suspense": 2 * HOLD_NANOS}
    world.check_books()


def test_a_job_without_a_configured_provider_waits_for_one(world: World) -> None:
    (job_id,) = world.accept(provider="nobody")
    near(world, job_id)
    escalate(world)
    assert run_due(world) == 1
    assert (world.jobs(), run_row(world, job_id).failures) == ({"in_progress": 1}, 0)


# Deadlines and cancellations.


def test_a_deadline_that_passes_while_the_call_runs_expires_the_job_and_the_cost_is_the_houses(
    world: World,
) -> None:
    (job_id,) = in_a_batch(world)
    escalate(world)

    def too_long() -> None:
        near(world, job_id, seconds=0)
        deadlines.expire_overdue(world.engine)

    world.dialect.happens("call", too_long, after=True)
    run_due(world)
    assert (world.jobs(), world.moved()) == ({"expired": 1}, standard(0, STANDARD_COST_NANOS))
    world.check_books()


def test_no_call_is_begun_after_the_deadline_and_none_may_take_longer(world: World) -> None:
    (job_id,) = in_a_batch(world)
    escalate(world)
    (run,) = claim(world)
    given: list[float] = []

    def patient(target: Target, body: dict[str, Any], timeout_seconds: float) -> Answer:
        given.append(timeout_seconds)
        world.dialect.fail("call", Unavailable("away", code="timeout"))
        return ask(target, body, timeout_seconds)

    perform(world, run, patient)
    assert 0 < given[0] <= 60
    near(world, job_id, seconds=0)
    world.run("UPDATE standard_runs SET due_at = now()")
    assert claim(world) == []
    deadlines.expire_overdue(world.engine)
    assert (world.jobs(), world.moved()) == ({"expired": 1}, {})
    claim(world)
    assert run_row(world, job_id).ended_at is not None
    world.check_books()


def test_a_job_whose_call_has_not_begun_is_cancelled_at_once_and_free(world: World) -> None:
    (job_id,) = in_a_batch(world)
    escalate(world)
    assert world.cancel(job_id) is Cancellation.DONE
    assert run_due(world) == 0
    assert (world.jobs(), world.moved()) == ({"cancelled": 1}, {})
    world.check_books()


def test_a_job_whose_call_runs_is_asked_for_and_what_is_answered_is_delivered(
    world: World,
) -> None:
    (job_id,) = in_a_batch(world)
    escalate(world)
    outcomes: list[Cancellation] = []
    world.dialect.happens("call", lambda: outcomes.append(world.cancel(job_id)))
    run_due(world)
    assert outcomes == [Cancellation.ASKED]
    assert (world.jobs(), world.moved()) == ({"completed": 1}, standard())
    world.check_books()


def test_a_job_to_be_cancelled_whose_call_fails_is_cancelled(world: World) -> None:
    (job_id,) = in_a_batch(world)
    escalate(world)

    def cancel_and_fail() -> None:
        world.cancel(job_id)
        raise Unavailable("away")

    world.dialect.happens("call", cancel_and_fail)
    run_due(world)
    world.run("UPDATE standard_runs SET due_at = now()")
    assert run_due(world) == 0
    assert (world.jobs(), world.moved()) == ({"cancelled": 1}, {})
    world.check_books()


# The threads.


def test_a_storm_of_deadlines_makes_so_many_calls_at_once_and_no_more(world: World) -> None:
    in_a_batch(world, 40)
    escalate(world)
    lock, now, most = threading.Lock(), [0], [0]
    gate = threading.Event()

    def slow(target: Target, body: dict[str, Any], timeout_seconds: float) -> Answer:
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        if most[0] >= 8:
            gate.set()
        gate.wait(5)
        answer = ask(target, body, timeout_seconds)
        with lock:
            now[0] -= 1
        return answer

    ended = threading.Semaphore(0)
    lane = StandardLane(world.works, world.prices, slow, answered=ended.release, at_once=8)
    assert lane.start_due() == 8
    assert lane.start_due() == 0, "there is no room"
    for _ in range(40):
        assert ended.acquire(timeout=20)
    assert lane.close(5)
    assert most[0] == 8
    assert (world.jobs(), world.moved()) == ({"completed": 40}, standard(40))
    assert lane.start_due() == 0, "it is closed"
    world.check_books()


def test_a_lane_that_closes_waits_for_its_calls_and_says_if_some_are_left(world: World) -> None:
    in_a_batch(world)
    escalate(world)
    gate = threading.Event()

    def stuck(target: Target, body: dict[str, Any], timeout_seconds: float) -> Answer:
        gate.wait(5)
        return ask(target, body, timeout_seconds)

    lane = StandardLane(world.works, world.prices, stuck, answered=lambda: None)
    assert lane.start_due() == 1
    assert not lane.close(0.05)
    gate.set()
    assert lane.close(5)
    assert world.jobs() == {"completed": 1}


def test_a_lane_whose_call_breaks_down_goes_on_with_the_next(world: World) -> None:
    in_a_batch(world, 2)
    escalate(world)
    faults = [ZeroDivisionError("a fault of ours")]

    def faulty(target: Target, body: dict[str, Any], timeout_seconds: float) -> Answer:
        if faults:
            raise faults.pop()
        return ask(target, body, timeout_seconds)

    ended = threading.Semaphore(0)
    lane = StandardLane(world.works, world.prices, faulty, answered=ended.release, at_once=1)
    lane.start_due()
    for _ in range(2):
        assert ended.acquire(timeout=5)
    assert lane.close(5)
    assert world.jobs() == {"completed": 1, "in_progress": 1}
    pass_time(world)
    run_due(world)
    assert world.jobs() == {"completed": 2}
    world.check_books()
