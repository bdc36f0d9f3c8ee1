"""What ends a job besides its answer: its owner, its deadline, and time."""

from collections.abc import Iterator
from datetime import timedelta
from uuid import UUID

import pytest
from sqlalchemy import text

from gateway.billing import ledger
from gateway.billing.ledger import HoldRequest
from gateway.calls import retention
from gateway.lanes import cancellation, deadlines, endings
from gateway.lanes.cancellation import Cancellation
from gateway.lanes.endings import CHANNEL
from gateway.providers.dialect import Ambiguous, LineOutcome, Rejected, Unavailable
from models import ids
from models.bulk import cursor
from models.session import transaction
from tests.integration.fake_batches import ending, succeeded, using
from tests.integration.lane_world import (
    HOLD_NANOS,
    LINE_NANOS,
    World,
    opened,
)
from tests.integration.plans import scans

HOOK = {"url": "https://hook.example/"}


@pytest.fixture
def world(database_url: str) -> Iterator[World]:
    with opened(database_url) as world:
        yield world


# Cancellation.


def test_a_job_that_waits_is_cancelled_at_once_and_free(world: World) -> None:
    (job_id,) = world.accept(webhook=HOOK)
    assert world.cancel(job_id) is Cancellation.DONE
    job = world.job(job_id)
    assert (job.status, job.http_status, job.hold) == ("cancelled", 409, "voided")
    assert world.error(job_id)["type"] == "conflict"
    assert world.events() == {"job.cancelled": 1}
    assert world.cut() == []
    assert world.cancel(job_id) is Cancellation.TOO_LATE
    world.check_books()


def test_nobody_cancels_the_jobs_of_others(world: World) -> None:
    (job_id,) = world.accept()
    assert world.cancel(job_id, world.account()) is Cancellation.NOT_FOUND
    assert world.cancel(ids.new()) is Cancellation.NOT_FOUND
    assert world.jobs() == {"queued": 1}


def test_a_job_that_went_back_to_the_queue_is_cancelled_at_once(world: World) -> None:
    (job_id,) = world.accept()
    world.sweep()
    world.dialect.only.end(ending(LineOutcome.RETRYABLE))
    world.pass_time()
    for batch_id in world.poll():
        world.ingest(batch_id)
    assert world.cancel(job_id) is Cancellation.DONE


def test_a_job_in_a_batch_is_asked_for_and_its_answer_still_delivered_and_billed(
    world: World,
) -> None:
    job_ids = world.accept(2)
    world.sweep()
    assert world.cancel(job_ids[0]) is Cancellation.ASKED
    assert world.cancel(job_ids[0]) is Cancellation.ASKED
    assert not world.dialect.only.was_cancelled, "another job waits for it"
    assert world.job(job_ids[0]).status == "cancelling"
    world.settle_down()
    assert world.jobs() == {"completed": 2}
    assert world.moved()["charge"] == 2 * LINE_NANOS
    world.check_books()


@pytest.mark.parametrize(
    "outcome", [LineOutcome.CANCELLED, LineOutcome.EXPIRED, LineOutcome.RETRYABLE]
)
def test_a_cancelled_job_without_an_answer_is_cancelled_and_not_run_again(
    world: World, outcome: LineOutcome
) -> None:
    (job_id,) = world.accept()
    world.sweep()
    world.cancel(job_id)
    world.settle_down(ending(outcome))
    assert world.job(job_id).http_status == 409
    assert (world.jobs(), world.moved()) == ({"cancelled": 1}, {})
    world.check_books()


def test_a_cancelled_job_whose_line_is_refused_or_missing_ends(world: World) -> None:
    world.accept(2)
    world.sweep()
    for row in world.rows("SELECT id FROM jobs"):
        world.cancel(row.id)
    first = world.dialect.only.lines[0]
    world.dialect.only.end(
        lambda line: ending(LineOutcome.REJECTED)(line) if line is first else None
    )
    world.settle_down()
    assert world.jobs() == {"failed": 1, "cancelled": 1}
    world.check_books()


def test_a_batch_that_nobody_waits_for_any_more_is_stopped_at_the_provider(world: World) -> None:
    job_ids = world.accept(3)
    (batch_id,) = world.cut()
    world.submit(batch_id)
    world.run("UPDATE jobs SET deadline_at = now() WHERE id = :id", id=job_ids[2])
    deadlines.expire_overdue(world.engine)
    world.cancel(job_ids[0])
    assert not world.dialect.only.was_cancelled
    world.cancel(job_ids[1])
    assert world.dialect.only.was_cancelled
    world.dialect.only.end(
        lambda line: succeeded(line) if job_ids[0].hex in line.custom_id else ended_early(line)
    )
    world.settle_down()
    assert world.jobs() == {"completed": 1, "cancelled": 1, "expired": 1}
    assert world.moved()["charge"] == LINE_NANOS
    world.check_books()


ended_early = ending(LineOutcome.CANCELLED)


def test_a_batch_that_somebody_waits_for_again_is_not_stopped(world: World) -> None:
    """The ring came late, or twice: it says only that somebody should look."""
    batch_id, batch = world.submitted(2)
    with transaction(world.engine) as session:
        cancellation.left(session, [batch_id])
    cancellation.cancel_due(world.works)
    assert not batch.was_cancelled


def test_a_job_whose_creation_is_in_doubt_can_be_cancelled(world: World) -> None:
    (job_id,) = world.accept()
    (batch_id,) = world.cut()
    world.dialect.fail("create", Ambiguous("timed out"))
    world.submit(batch_id)
    assert world.cancel(job_id) is Cancellation.ASKED
    world.settle_down()
    assert (world.jobs(), world.dialect.made) == ({"cancelled": 1}, {})
    world.check_books()


def test_a_batch_cancelled_by_somebody_else_runs_its_unfinished_lines_again(world: World) -> None:
    world.accept(2)
    world.sweep()
    first = world.dialect.only.lines[0]
    world.dialect.only.end(lambda line: succeeded(line) if line is first else ended_early(line))
    world.settle_down()
    assert world.jobs() == {"completed": 2}
    assert world.lines() == {"succeeded": 2, "returned": 1}
    world.check_books()


# Deadlines.


def test_a_job_expires_at_its_deadline_wherever_it_is_and_costs_nothing(world: World) -> None:
    def soon(model: str) -> UUID:
        return world.accept(1, model=model, webhook=HOOK)[0]

    queued = soon("queued")
    formed, doubtful, submitted = soon("formed"), soon("doubtful"), soon("submitted")
    world.accept(1, model="later")
    batches = {world.batch_model(batch_id): batch_id for batch_id in world.cut()}
    world.run("UPDATE jobs SET batch_id = NULL WHERE id = :id", id=queued)
    world.dialect.fail("create", Ambiguous("timed out"))
    world.submit(batches["doubtful"])
    world.submit(batches["submitted"])
    cancelling = soon("cancelling")
    (batch_id,) = world.cut()[-1:]
    world.submit(batch_id)
    world.cancel(cancelling)
    world.run("UPDATE jobs SET deadline_at = now() WHERE model <> 'maker/later'")
    assert deadlines.expire_overdue(world.engine) == 5
    assert deadlines.expire_overdue(world.engine) == 0
    for job_id in (queued, formed, doubtful, submitted, cancelling):
        job = world.job(job_id)
        assert (job.status, job.http_status, job.hold) == ("expired", 504, "voided")
        assert world.error(job_id)["type"] == "upstream_timeout"
    assert world.events() == {"job.expired": 5}
    assert world.moved() == {}
    world.check_books()


def test_more_jobs_than_one_set_expire_in_one_go(world: World) -> None:
    count = deadlines.AT_ONCE + 20
    world.accept(count, deadline=timedelta(seconds=-1))
    assert deadlines.expire_overdue(world.engine) == count
    assert world.jobs() == {"expired": count}
    world.check_books()


def test_overdue_jobs_are_read_by_their_index(world: World) -> None:
    world.accept(5)
    (read,) = scans(world.engine, deadlines._OVERDUE.text)
    assert (read.table, read.index) == ("jobs", "ix_jobs_deadline")


def test_a_job_that_ended_keeps_its_end(world: World) -> None:
    (job_id,) = world.accept()
    world.settle_down()
    before = world.job(job_id)
    with transaction(world.engine) as session:
        assert endings.finish(session, [endings.expired(job_id)]) == set()
        assert endings.finish(session, [endings.rejected(ids.new(), "nobody")]) == set()
    assert world.job(job_id) == before
    world.check_books()


def test_whoever_waits_is_woken_by_the_batch_and_not_within_its_transactions(
    world: World,
) -> None:
    batch_id, _ = world.ended(2)
    with transaction(world.engine) as session:
        listener = cursor(session)
        listener.execute(f"LISTEN {CHANNEL}")
        session.commit()
        world.ingest(batch_id)
        notified = [each.payload for each in listener.connection.notifies(timeout=0.2)]
    assert set(notified) == {str(batch_id)}


# What time takes away.


def test_texts_of_final_jobs_go_after_the_retention_and_their_bill_stays(world: World) -> None:
    old, fresh = world.accept(2)
    world.settle_down()
    (running,) = world.accept()
    world.run("UPDATE jobs SET completed_at = now() - interval '31 days' WHERE id = :id", id=old)
    assert retention.delete_old_texts(world.engine, 30) == 1
    assert retention.delete_old_texts(world.engine, 30) == 0
    assert (world.job(old).texts_deleted, world.job(old).result) == (True, None)
    assert world.job(old).charged_nanos == LINE_NANOS
    assert world.job(fresh).result is not None
    bodies = {row.job_id for row in world.rows("SELECT job_id FROM job_bodies")}
    assert bodies == {fresh, running}
    world.check_books()


def test_what_a_dead_process_held_is_released_and_its_key_is_free_again(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    account = world.account(10 * HOLD_NANOS)
    dead, alive = ids.new(), ids.new()
    (job_id,) = world.accept(account=account)
    with transaction(world.engine) as session:
        now = session.execute(text("SELECT now()")).scalar_one()
        ledger.hold(
            session,
            [
                HoldRequest(dead, account, account, HOLD_NANOS, now - timedelta(seconds=1)),
                HoldRequest(alive, account, account, HOLD_NANOS, now + timedelta(minutes=1)),
            ],
        )
    for hold_id, key in ((dead, "dead"), (alive, "alive")):
        world.run(
            "INSERT INTO idempotency_keys (account_id, key, body_digest, hold_id) "
            "VALUES (:account, :key, '', :hold_id)",
            account=account,
            key=key,
            hold_id=hold_id,
        )
    assert retention.release_expired_holds(world.engine) == 1
    assert retention.release_expired_holds(world.engine) == 0
    told = [record for record in caplog.records if record.message == "holds.released"]
    assert [each.__dict__["holds"] for each in told] == [1]
    holds = {row.id: row.status for row in world.rows("SELECT id, status FROM holds")}
    assert holds == {dead: "voided", alive: "open", job_id: "open"}
    assert [row.key for row in world.rows("SELECT key FROM idempotency_keys")] == ["alive"]
    world.check_books()


def test_money_in_suspense_goes_back_after_thirty_days_once(world: World) -> None:
    account = world.account(HOLD_NANOS)
    (job_id,) = world.accept(account=account)
    world.settle_down(using(None))
    assert retention.return_old_suspense(world.engine) == 0
    world.run("UPDATE settlements SET created_at = now() - interval '31 days'")
    assert retention.return_old_suspense(world.engine) == 1
    assert retention.return_old_suspense(world.engine) == 0
    assert world.moved() == {"suspense": HOLD_NANOS, "suspense_return": HOLD_NANOS}
    assert world.job(job_id).status == "completed"
    assert world.accept(account=account), "it can be spent again"
    world.check_books()


def test_old_keys_and_turns_of_the_clock_are_forgotten(world: World) -> None:
    account = world.account()
    world.run(
        """
        INSERT INTO idempotency_keys
            (account_id, key, body_digest, hold_id, http_status, response, created_at)
        VALUES (:account, 'old', '', :account, 200, '', now() - interval '8 days'),
               (:account, 'new', '', :account, 200, '', now() - interval '6 days')
        """,
        account=account,
    )
    world.run("INSERT INTO ticks VALUES ('a', 1, now() - interval '3 days'), ('a', 2, now())")
    retention.forget(world.engine)
    assert [row.key for row in world.rows("SELECT key FROM idempotency_keys")] == ["new"]
    assert [row.slot for row in world.rows("SELECT slot FROM ticks")] == [2]


def test_an_abandoned_batch_that_cannot_be_stopped_runs_to_its_end(world: World) -> None:
    (job_id,) = world.accept()
    world.sweep()
    for error in (Unavailable("away"), Rejected("no")):
        world.dialect.fail("cancel_batch", error)
        world.survive(world.cancel, job_id)
    world.settle_down()
    assert world.jobs() == {"completed": 1}
    world.check_books()
