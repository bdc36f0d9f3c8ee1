"""Taking in a batch can fail, be killed or meet another: each line is settled once."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

import pytest

from gateway.lanes import endings
from gateway.lanes.endings import Ending
from gateway.lanes.results import CHUNK_BYTES, CHUNK_LINES
from gateway.providers.dialect import Broken, Rejected, Unavailable
from models.session import transaction
from models.states import JobStatus
from tests.integration.fake_batches import (
    FakeLine,
    Json,
    succeeded,
)
from tests.integration.fake_dialect import Killed
from tests.integration.lane_world import (
    COST_NANOS,
    LINE_NANOS,
    World,
    charge_of,
    opened,
)


@pytest.fixture
def world(database_url: str) -> Iterator[World]:
    with opened(database_url) as world:
        yield world


def test_files_that_the_provider_still_denies_after_minutes_count_as_missing_lines(
    world: World,
) -> None:
    batch_id, _ = world.ended(2)
    world.dialect.fail("download", *[Rejected("gone", status=404)] * 3)
    assert not world.ingest(batch_id), "the provider may not know its own file yet"
    assert world.jobs() == {"submitted": 2}
    world.run("UPDATE provider_batches SET ended_at = now() - interval '11 minutes'")
    world.pass_time()
    assert world.ingest(batch_id)
    assert world.jobs() == {"queued": 2}
    world.check_books()


def test_a_download_that_fails_is_tried_again_later_and_less_and_less_often(world: World) -> None:
    batch_id, _ = world.ended(2)
    for age, seconds in (("0 s", 10), ("1000 s", 100), ("5 h", 900)):
        world.run(f"UPDATE provider_batches SET ended_at = now() - interval '{age}'")
        world.dialect.fail("download", Broken("cut short"))
        assert not world.ingest(batch_id)
        batch = world.batch(batch_id)
        assert (batch.status, batch.leased_until, batch.last_error) == (
            "ingesting",
            None,
            "cut short",
        )
        assert seconds * 0.9 < batch.due_in < seconds * 1.1
        assert not world.ingest(batch_id), "it is not due yet"
        world.pass_time()
    assert world.ingest(batch_id)
    assert world.jobs() == {"completed": 2}


def test_a_file_that_never_arrives_whole_is_given_up_after_hours(world: World) -> None:
    batch_id, _ = world.ended(2)
    world.run("UPDATE provider_batches SET ended_at = now() - interval '7 hours'")
    world.dialect.fail("download", *[Broken("cut short")] * 2)
    assert world.ingest(batch_id)
    assert world.jobs() == {"queued": 2}


def test_results_that_cannot_be_fetched_are_waited_for_as_long_as_the_provider_is_away(
    world: World,
) -> None:
    batch_id, _ = world.ended(2)
    world.run("UPDATE provider_batches SET ended_at = now() - interval '2 days'")
    world.dialect.fail("download", Unavailable("away"))
    assert not world.ingest(batch_id)
    assert world.jobs() == {"submitted": 2}


@pytest.mark.parametrize("nth", [1, CHUNK_LINES, CHUNK_LINES + 1])
def test_a_kill_at_any_line_and_a_second_pass_settle_each_line_once(world: World, nth: int) -> None:
    count = CHUNK_LINES + 50
    batch_id, _ = world.ended(count)
    for _ in range(nth - 1):
        world.dialect.happens("parse_line", lambda: None)
    world.dialect.fail("parse_line", Killed())
    with pytest.raises(Killed):
        world.ingest(batch_id)
    assert world.jobs().get("completed", 0) == (nth - 1) // CHUNK_LINES * CHUNK_LINES
    world.check_books()
    world.pass_time()
    assert world.ingest(batch_id)
    assert world.jobs() == {"completed": count}
    assert world.moved() == {"charge": count * LINE_NANOS, "provider_cost": count * COST_NANOS}
    world.check_books()


def test_an_ingester_that_was_stopped_past_its_lease_writes_nothing_more(world: World) -> None:
    batch_id, _ = world.ended(CHUNK_LINES + 10)
    for _ in range(CHUNK_LINES):
        world.dialect.happens("parse_line", lambda: None)
    world.dialect.happens("parse_line", lambda: world.steal(batch_id))
    assert not world.ingest(batch_id)
    assert world.jobs()["completed"] == CHUNK_LINES
    batch = world.batch(batch_id)
    assert (batch.status, batch.leased_until is not None) == ("ingesting", True)
    world.expire_lease(batch_id)
    assert world.ingest(batch_id)
    assert world.moved()["charge"] == (CHUNK_LINES + 10) * LINE_NANOS
    world.check_books()


def test_two_ingesters_at_once_settle_each_line_once(world: World) -> None:
    batch_id, _ = world.ended(CHUNK_LINES + 10)
    at_work, go_on = threading.Event(), threading.Event()

    def wait() -> None:
        at_work.set()
        assert go_on.wait(10)

    world.dialect.happens("download", wait)
    outcomes: list[bool] = []
    slow = threading.Thread(target=lambda: outcomes.append(world.ingest(batch_id)))
    slow.start()
    assert at_work.wait(10)
    assert not world.ingest(batch_id), "the first one holds the lease"
    world.expire_lease(batch_id)
    assert world.ingest(batch_id)
    go_on.set()
    slow.join(10)
    assert outcomes == [False]
    assert world.jobs() == {"completed": CHUNK_LINES + 10}
    assert world.moved()["charge"] == (CHUNK_LINES + 10) * LINE_NANOS
    world.check_books()


def test_work_that_breaks_down_is_not_begun_again_at_once(world: World) -> None:
    batch_id, _ = world.ended(1)
    world.dialect.fail("parse_line", RuntimeError("a fault of ours"))
    with pytest.raises(RuntimeError):
        world.ingest(batch_id)
    batch = world.batch(batch_id)
    assert batch.leased_until is None
    assert batch.due_in > 10
    world.pass_time()
    assert world.ingest(batch_id)


def test_a_chunk_is_bounded_in_bytes_as_it_is_in_lines(world: World) -> None:
    batch_id, batch = world.submitted(3)

    def long(line: FakeLine) -> Json | None:
        answer = succeeded(line) or {}
        answer["body"]["choices"][0]["message"]["content"] = "x" * (CHUNK_BYTES // 2 + 1)
        return answer

    batch.end(long)
    world.poll()
    for _ in range(2):
        world.dialect.happens("parse_line", lambda: None)
    world.dialect.fail("parse_line", Killed())
    with pytest.raises(Killed):
        world.ingest(batch_id)
    assert world.jobs()["completed"] == 2


def test_chunks_of_many_accounts_do_not_wait_for_each_other_in_a_circle(world: World) -> None:
    accounts = [world.account(), world.account()]
    start = threading.Barrier(2, timeout=10)
    rounds = 12

    def finish(first: UUID, second: UUID, model: str) -> None:
        for _ in range(rounds):
            good = world.accept(4, account=first, model=model)
            bad = world.accept(4, account=second, model=model)
            charged = [
                Ending(each, JobStatus.COMPLETED, 200, b"{}", charge_of(each)) for each in good
            ]
            failed = [endings.rejected(each, "no") for each in bad]
            start.wait()
            with transaction(world.engine) as session:
                endings.finish(session, charged + failed)

    with ThreadPoolExecutor(2) as threads:
        done = [
            threads.submit(finish, accounts[0], accounts[1], "model-a"),
            threads.submit(finish, accounts[1], accounts[0], "model-b"),
        ]
        for each in done:
            each.result()
    assert world.jobs() == {"completed": 8 * rounds, "failed": 8 * rounds}
    world.check_books()
