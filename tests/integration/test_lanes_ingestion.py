"""Result lines in every condition become each job's one result, and its one charge."""

import random
from collections.abc import Iterator
from decimal import Decimal
from uuid import UUID

import pytest

from gateway.calls import jobs
from gateway.catalogue.rates import PriceSnapshot
from gateway.catalogue.usage import Usage
from gateway.lanes import deadlines
from gateway.lanes.records import custom_id, parse_custom_id
from gateway.providers.dialect import LineOutcome
from models import ids
from models.session import transaction
from tests.integration.fake_batches import (
    USAGE,
    FakeLine,
    Json,
    ending,
    result_line,
    succeeded,
    using,
)
from tests.integration.lane_world import (
    COST_NANOS,
    HOLD_NANOS,
    LINE_NANOS,
    STANDARD,
    World,
    opened,
)

RETURNING = [LineOutcome.EXPIRED, LineOutcome.RETRYABLE, LineOutcome.CANCELLED]


@pytest.fixture
def world(database_url: str) -> Iterator[World]:
    with opened(database_url) as world:
        yield world


def said(line: FakeLine) -> str:
    content: str = line.body["messages"][0]["content"]
    return content


def job_of(line: FakeLine) -> UUID:
    named = parse_custom_id(line.custom_id)
    assert named is not None
    return named[0]


def test_every_line_becomes_the_result_of_its_job_whatever_the_order(world: World) -> None:
    job_ids = world.accept(30, webhook={"url": "https://hook.example/"})
    (batch_id,) = world.cut()
    world.submit(batch_id)
    batch = world.dialect.only
    random.Random(7).shuffle(batch.lines)
    batch.end()
    world.poll()
    assert world.ingest(batch_id)
    assert world.jobs() == {"completed": 30}
    assert world.lines() == {"succeeded": 30}
    assert world.events() == {"job.completed": 30}
    assert world.moved() == {"charge": 30 * LINE_NANOS, "provider_cost": 30 * COST_NANOS}
    for number, job_id in enumerate(job_ids):
        job = world.job(job_id)
        assert (job.http_status, job.hold, job.charged_nanos) == (200, "posted", LINE_NANOS)
        assert f'"echo: question {number}"'.encode() in bytes(job.result)
        assert ids.show(ids.Prefix.COMPLETION, job_id).encode() in bytes(job.result)
        assert b'"model":"maker/model-a"' in bytes(job.result)
    assert world.batch(batch_id).status == "done"
    world.check_books()


def test_a_batch_is_taken_in_once_however_often_it_is_rung_for(world: World) -> None:
    batch_id, _ = world.ended(3)
    assert world.ingest(batch_id)
    assert not world.ingest(batch_id)
    assert world.moved()["charge"] == 3 * LINE_NANOS


def strange_lines(caplog: pytest.LogCaptureFixture) -> list[tuple[object, object]]:
    """How many ids the log told to be unknown, and repeated."""
    told = [vars(each) for each in caplog.records if each.message == "batch.strange_lines"]
    return [(each["unknown"], each["repeated"]) for each in told]


def test_of_a_line_that_comes_twice_the_first_counts_and_the_log_tells_of_it(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    batch_id, batch = world.submitted(2)
    cheap = result_line(batch.lines[0].custom_id, using(Usage(1))(batch.lines[0]) or {})
    batch.end(succeeded, cheap, cheap)
    world.poll()
    world.ingest(batch_id)
    assert world.jobs() == {"completed": 2}
    assert world.moved()["charge"] == 2 * LINE_NANOS
    assert strange_lines(caplog) == [(0, 2)]


def test_lines_of_others_and_of_nobody_are_passed_over_and_told_of(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    other = world.submitted(1, model="model-b")[1].lines[0]
    batch_id, batch = world.submitted(1)
    own = batch.lines[0]
    strangers = [
        other.custom_id,
        custom_id(ids.new(), 1),
        custom_id(job_of(own), 2),
        own.custom_id.upper(),
        own.custom_id + "0",
        own.custom_id.replace("-", "-0"),
        own.custom_id.replace("-", "-+"),
        "somebody-else's",
        "1" * 500,
        "x",
    ]
    answer = succeeded(own) or {}
    batch.end(succeeded)
    batch.files = {
        "f": b"".join(result_line(name, answer) + b"\n" for name in strangers)
        + next(iter(batch.files.values()))
    }
    world.poll()
    world.ingest(batch_id)
    assert world.jobs() == {"completed": 1, "in_progress": 1}
    assert world.moved()["charge"] == LINE_NANOS
    assert strange_lines(caplog) == [(len(strangers), 0)]


def test_a_line_of_another_round_does_not_hide_the_right_one(world: World) -> None:
    batch_id, batch = world.submitted(1)
    line = batch.lines[0]
    foreign = result_line(custom_id(job_of(line), 7), succeeded(line) or {})
    right = result_line(line.custom_id, succeeded(line) or {})
    batch.end_with([foreign, right])
    world.poll()
    world.ingest(batch_id)
    assert world.jobs() == {"completed": 1}
    assert world.dialect.calls["download"] == 1


def test_what_was_missing_only_from_the_first_download_is_found_in_the_second(
    world: World,
) -> None:
    batch_id, batch = world.submitted(3)
    batch.end()
    whole = dict(batch.files)
    (name,) = whole
    batch.files = {name: b"\n".join(whole[name].splitlines()[:1])}
    world.dialect.happens("download", lambda: batch.files.update(whole), after=True)
    world.poll()
    assert world.ingest(batch_id)
    assert world.jobs() == {"completed": 3}
    assert world.dialect.calls["download"] == 2


def test_missing_lines_go_back_to_the_queue_uncharged_and_run_again(world: World) -> None:
    batch_id, _ = world.ended(4, lambda line: succeeded(line) if "0" in said(line) else None)
    assert world.ingest(batch_id)
    assert world.jobs() == {"completed": 1, "queued": 3}
    assert world.lines() == {"succeeded": 1, "returned": 3}
    assert world.moved()["charge"] == LINE_NANOS
    world.check_books()
    world.settle_down()
    assert world.jobs() == {"completed": 4}
    rounds = sorted(row.round for row in world.rows("SELECT round FROM jobs"))
    assert rounds == [1, 2, 2, 2]
    world.check_books()


@pytest.mark.parametrize("outcome", RETURNING)
def test_a_line_without_a_fault_of_its_own_is_tried_three_times_and_then_fails(
    world: World, outcome: LineOutcome
) -> None:
    (job_id,) = world.accept(webhook={"url": "https://hook.example/"})
    for attempt in (1, 2):
        (batch_id,) = world.cut()
        world.submit(batch_id)
        world.dialect.running[0].end(ending(outcome))
        world.poll()
        world.ingest(batch_id)
        job = world.job(job_id)
        assert (job.status, job.batch_id, job.failures) == ("queued", None, attempt)
        assert job.hold == "open"
        world.check_books()
    world.settle_down(ending(outcome))
    job = world.job(job_id)
    assert (job.status, job.http_status, job.hold, job.round) == ("failed", 502, "voided", 3)
    assert world.error(job_id)["type"] == "upstream_error"
    assert world.moved() == {}
    assert world.events() == {"job.failed": 1}
    world.check_books()


def test_a_body_that_the_provider_refuses_fails_with_its_message(world: World) -> None:
    (job_id,) = world.accept()
    world.settle_down(ending(LineOutcome.REJECTED, "temperature is too high"))
    job = world.job(job_id)
    assert (job.status, job.http_status, job.hold, job.round) == ("failed", 400, "voided", 1)
    assert world.error(job_id) == {
        "type": "bad_request",
        "message": "temperature is too high",
        "code": 400,
    }
    assert world.lines() == {"failed": 1}
    world.check_books()


def test_an_expired_batch_delivers_what_it_finished_and_runs_the_rest_again(world: World) -> None:
    world.accept(10)
    seen: list[str] = []

    def half(line: FakeLine) -> Json | None:
        seen.append(line.custom_id)
        return succeeded(line) if len(seen) <= 5 else ending(LineOutcome.EXPIRED)(line)

    world.sweep()
    world.dialect.only.end(half)
    world.sweep()
    assert world.jobs()["completed"] == 5
    world.settle_down()
    assert world.jobs() == {"completed": 10}
    assert world.lines() == {"succeeded": 10, "returned": 5}
    assert world.moved()["charge"] == 10 * LINE_NANOS
    world.check_books()


@pytest.mark.parametrize(
    "garbage",
    [
        b"{not json",
        b'"a string"',
        b"",
        b"\x00\x00",
        b'{"custom_id": null}',
        b"\xff\xfe",
        b'{"custom_id":"x","outcome":"unheard of"}',
        b"   \t ",
    ],
)
def test_unreadable_lines_cost_only_themselves(world: World, garbage: bytes) -> None:
    batch_id, _ = world.ended(3, succeeded, garbage, garbage)
    assert world.ingest(batch_id)
    assert world.jobs() == {"completed": 3}


def test_a_byte_order_mark_does_not_cost_the_first_line(world: World) -> None:
    batch_id, batch = world.submitted(2)
    batch.end()
    batch.files = {name: b"\xef\xbb\xbf" + data for name, data in batch.files.items()}
    world.poll()
    world.ingest(batch_id)
    assert world.jobs() == {"completed": 2}


def test_a_line_cut_off_in_the_middle_counts_as_missing(world: World) -> None:
    batch_id, batch = world.submitted(3)
    batch.end()
    batch.files = {name: data[:-20] for name, data in batch.files.items()}
    world.poll()
    world.ingest(batch_id)
    assert world.jobs() == {"completed": 2, "queued": 1}
    world.check_books()


def test_usage_that_the_provider_left_out_is_unpriced_and_its_hold_is_in_suspense(
    world: World,
) -> None:
    (job_id,) = world.accept()
    world.settle_down(using(None))
    job = world.job(job_id)
    assert (job.status, job.unpriced, job.charged_nanos) == ("completed", True, None)
    assert world.moved() == {"suspense": HOLD_NANOS}
    world.check_books()


def test_usage_that_cannot_be_true_is_unpriced_and_holds_up_nobody(world: World) -> None:
    batch_id, batch = world.submitted(2)
    huge = iter([Usage(2**40), USAGE])
    batch.end(lambda line: succeeded(line, next(huge)))
    world.poll()
    assert world.ingest(batch_id)
    assert world.jobs() == {"completed": 2}
    assert world.moved() == {
        "suspense": HOLD_NANOS,
        "charge": LINE_NANOS,
        "provider_cost": COST_NANOS,
    }
    world.check_books()


def test_usage_above_the_hold_draws_the_balance_and_then_the_houses_loss(world: World) -> None:
    account = world.account(credit_nanos=100 + 50)
    (job_id,) = world.accept(1, account=account, hold_nanos=100)
    world.settle_down()
    assert world.moved() == {
        "charge": 150,
        "overrun_loss": LINE_NANOS - 150,
        "provider_cost": COST_NANOS,
    }
    with transaction(world.engine) as session:
        (job,) = jobs.get(session, account, [job_id])
    assert job.charged_nanos == 150, "what was paid, not what the house lost on it"
    world.check_books()


def test_each_job_is_charged_by_the_prices_that_held_when_it_came(world: World) -> None:
    doubled = PriceSnapshot(STANDARD.scaled(Decimal(2)), STANDARD, "a day later")
    (first,) = world.accept()
    (second,) = world.accept(prices=doubled)
    world.settle_down()
    assert len(world.dialect.made) == 1
    charged = [world.job(each).charged_nanos for each in (first, second)]
    assert charged == [LINE_NANOS, 2 * LINE_NANOS]
    world.check_books()


def test_results_that_come_after_their_jobs_expired_are_the_houses_loss(world: World) -> None:
    batch_id, batch = world.submitted(3)
    batch.end()
    world.run("UPDATE jobs SET deadline_at = now()")
    assert deadlines.expire_overdue(world.engine) == 3
    assert world.poll() == [batch_id]
    assert world.ingest(batch_id)
    assert world.jobs() == {"expired": 3}
    assert world.lines() == {"late": 3}
    assert world.moved() == {"unbilled_cost": 3 * COST_NANOS}
    world.check_books()


@pytest.mark.parametrize("outcome", [*RETURNING, LineOutcome.REJECTED])
def test_lines_without_an_answer_change_nothing_for_jobs_that_have_expired(
    world: World, outcome: LineOutcome
) -> None:
    (job_id,) = world.accept()
    (batch_id,) = world.cut()
    world.submit(batch_id)
    world.run("UPDATE jobs SET deadline_at = now()")
    deadlines.expire_overdue(world.engine)
    world.settle_down(ending(outcome))
    assert world.job(job_id).http_status == 504
    assert world.moved() == {}
    assert world.batch(batch_id).status == "done"
    world.check_books()
