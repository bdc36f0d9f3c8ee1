"""Faults that no other module is about: disks, clocks, keys, odd bytes, late and double rings."""

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import event, text

from gateway.lanes import due, ingestion, submission
from gateway.lanes.works import Works
from gateway.providers.dialect import LineOutcome, Rejected, Unauthorized, Unavailable
from models import ids
from models.session import transaction
from tests.integration.fake_batches import ending, result_line, succeeded
from tests.integration.fake_dialect import FakeDialect, Killed
from tests.integration.lane_world import COST_NANOS, LINE_NANOS, OPEN_STATES, World, opened

FULL = Path("/dev/full")
TEN_MINUTES = timedelta(minutes=10)


@pytest.fixture
def world(database_url: str) -> Iterator[World]:
    with opened(database_url) as world:
        yield world


@pytest.fixture(params=["names", "no names"])
def either_world(request: pytest.FixtureRequest, database_url: str) -> Iterator[World]:
    with opened(database_url, FakeDialect(keeps_metadata=request.param == "names")) as world:
        yield world


# Disks.


@dataclass(frozen=True, slots=True)
class FullDisk(Works):
    """Every file that is spooled is on a device without room."""

    @contextmanager
    def spool(self, batch_id: UUID) -> Iterator[Path]:
        with Works.spool(self, batch_id) as folder:
            for name in ("input.jsonl", "results-0.jsonl"):
                (folder / name).symlink_to(FULL)
            yield folder


def on_a_full_disk(works: Works) -> Works:
    return FullDisk(
        works.engine,
        works.dialects,
        works.credentials,
        works.policy,
        works.leases,
        works.tier_prices,
        works.spool_root,
    )


def test_on_a_full_disk_nothing_is_sent_by_halves_and_nothing_is_settled(world: World) -> None:
    """The spool has no room: neither the call's file nor the result file is believed."""
    full = on_a_full_disk(world.works)
    batch_id = world.form(3)
    with pytest.raises(OSError, match="No space left"):
        submission.submit(full, batch_id)
    assert (world.dialect.files, world.dialect.made) == ({}, {})
    assert world.batch(batch_id).due_in > 10, "not at once again"
    world.pass_time()
    world.submit(batch_id)
    world.dialect.only.end()
    world.poll()
    with pytest.raises(OSError, match="No space left"):
        ingestion.ingest(full, world.prices, batch_id)
    assert world.moved() == {}
    assert world.jobs() == {"submitted": 3}
    assert list(world.works.spool_root.iterdir()) == []
    world.settle_down()
    assert world.jobs() == {"completed": 3}
    assert world.moved() == {"charge": 3 * LINE_NANOS, "provider_cost": 3 * COST_NANOS}
    world.check_books()


# Keys.


@pytest.mark.parametrize("operation", ["upload", "create", "get_batch", "download"])
def test_a_key_that_is_revoked_in_the_middle_costs_no_job(
    world: World, operation: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The provider says 401 until somebody puts it right; no job is lost and no key is logged."""
    world.accept(2)
    world.dialect.fail(operation, *[Unauthorized("the key is not accepted", status=401)] * 3)
    world.settle_down()
    assert world.jobs() == {"completed": 2}
    assert len(world.dialect.made) == 1
    assert world.moved()["charge"] == 2 * LINE_NANOS
    assert "sk-fake" not in caplog.text
    world.check_books()


# Clocks.


def move_clock(world: World, by: timedelta) -> None:
    """The database's clock jumps: to it, all that was ever written down moves the other way."""
    moments = world.rows(
        "SELECT table_name, column_name FROM information_schema.columns "
        "WHERE table_schema = 'public' AND data_type = 'timestamp with time zone' "
        "AND table_name <> 'audit_log'"  # Nobody may change that.
    )
    changes: dict[str, list[str]] = defaultdict(list)
    for row in moments:
        changes[row.table_name].append(
            f"{row.column_name} = {row.column_name} - make_interval(secs => :by)"
        )
    for table, changed in changes.items():
        world.run(f"UPDATE {table} SET {', '.join(changed)}", by=by.total_seconds())


@pytest.mark.parametrize("step", [TEN_MINUTES, -TEN_MINUTES], ids=["forward", "back"])
@pytest.mark.parametrize("moment", [1, 3, 4])
def test_a_clock_that_is_set_ten_minutes_off_doubles_nothing(
    either_world: World, step: timedelta, moment: int
) -> None:
    """At any moment of a batch's life; what was due then is due after the step at the latest."""
    world = either_world
    world.accept(2)
    world.dialect.fail("create", Unavailable("busy"))
    for number in range(6):
        if number == moment:
            move_clock(world, step)
        if number == 4:
            for batch in world.dialect.running:
                batch.end()
        world.sweep()
    world.settle_down()
    assert world.jobs() == {"completed": 2}
    assert world.dialect.doubled() == set()
    assert world.moved() == {"charge": 2 * LINE_NANOS, "provider_cost": 2 * COST_NANOS}
    world.check_books()


def test_nothing_that_is_due_waits_longer_than_the_clock_was_set_back(world: World) -> None:
    batch_id = world.form()
    move_clock(world, -TEN_MINUTES)
    assert 590 < world.batch(batch_id).due_in <= 600
    move_clock(world, TEN_MINUTES)
    with transaction(world.engine) as session:
        assert due.batches(session, "formed") == [batch_id]


# Kills within a transaction.


@dataclass
class Statements:
    """Counts what is sent to the database, and dies of statement number `fatal`."""

    passed: int = 0
    fatal: int = 0

    def count(self, *_of: Any) -> None:
        self.passed += 1
        if self.passed == self.fatal:
            raise Killed


def test_a_kill_at_any_statement_between_results_and_their_charges_does_neither(
    world: World,
) -> None:
    """Results, charges, states and events of a chunk are one: all of it stands, or nothing."""
    statements = Statements()
    event.listen(world.engine, "before_cursor_execute", statements.count)
    # Twice, for the first time reads the prices too.
    for _ in range(2):
        batch_id, _ = world.ended(2)
        statements.passed = 0
        assert world.ingest(batch_id)
    total = statements.passed
    assert total > 10
    for fatal in range(1, total + 1):
        batch_id, _ = world.ended(2)
        statements.passed, statements.fatal = 0, fatal
        with pytest.raises(Killed):
            world.ingest(batch_id)
        completed = world.jobs()["completed"]
        assert completed in (2 * fatal + 2, 2 * fatal + 4)
        assert world.moved()["charge"] == completed * LINE_NANOS
        assert len(world.rows("SELECT FROM job_results")) == completed
        world.pass_time()
        assert world.batch(batch_id).status == "done" or world.ingest(batch_id)
        assert world.jobs() == {"completed": 2 * fatal + 4}
    world.check_books()


# Odd bytes.


def test_bytes_that_no_column_of_text_can_hold_are_answered_all_the_same(world: World) -> None:
    """NUL is legal in JSON and in no text column; it comes back as it was."""
    world.accept(2)
    world.sweep()
    first, second = world.dialect.only.lines
    nul = succeeded(first)
    assert nul is not None
    nul["body"]["choices"][0]["message"]["content"] = "a\x00b"
    world.dialect.only.end_with(
        [result_line(first.custom_id, nul)],
        [result_line(second.custom_id, {"outcome": LineOutcome.REJECTED, "error": "no \x00"})],
    )
    world.settle_down()
    assert world.jobs() == {"completed": 1, "failed": 1}
    (answer,) = world.rows("SELECT body FROM job_results WHERE http_status = 200")
    assert b"a\\u0000b" in bytes(answer.body)
    world.check_books()


@pytest.mark.parametrize("message", ["a \x00 b", "a \ud800 b"], ids=["NUL", "lone surrogate"])
@pytest.mark.parametrize("error", [Unavailable, Rejected])
def test_a_providers_message_of_odd_bytes_stops_nothing(
    world: World, message: str, error: Callable[[str], Exception]
) -> None:
    world.accept(2)
    world.dialect.fail("create", error(message))
    world.settle_down()
    assert world.jobs() == ({"completed": 2} if error is Unavailable else {"failed": 2})
    world.check_books()


@pytest.mark.parametrize(
    "line",
    [
        b'{"custom_id": "\\ud800", "outcome": "succeeded"}',
        b'{"custom_id": "\x00"',
        b"\xff\xfe\x00",
        b"[" * 100_000,
        b'{"custom_id": 5}',
        b"null",
    ],
    ids=["lone surrogate", "NUL", "UTF-16", "deep", "number", "null"],
)
def test_a_line_of_garbage_in_the_results_costs_only_itself(world: World, line: bytes) -> None:
    batch_id, _ = world.ended(2, succeeded, line)
    assert world.ingest(batch_id)
    assert world.jobs() == {"completed": 2}
    world.check_books()


# Rings.


def test_a_ring_that_comes_late_or_twice_or_for_nothing_does_no_harm(world: World) -> None:
    """As from a release before this one: a message is an id, and the row decides what to do."""

    def ring_for_everything(batch_id: UUID) -> None:
        world.submit(batch_id)
        world.resolve(batch_id)
        world.ingest(batch_id)

    ring_for_everything(ids.new())
    for answer in (succeeded, ending(LineOutcome.REJECTED)):
        world.accept(2)
        while OPEN_STATES & world.jobs().keys():
            world.sweep()
            for row in world.rows("SELECT id FROM provider_batches"):
                ring_for_everything(row.id)
            for batch in world.dialect.running:
                batch.end(answer)
    assert world.jobs() == {"completed": 2, "failed": 2}
    assert len(world.dialect.made) == 2
    assert world.dialect.doubled() == set()
    world.check_books()


def test_columns_that_a_newer_release_added_do_not_disturb_the_older_one(world: World) -> None:
    """A rolling deploy: the schema is ahead of the code that still runs."""
    tables = ["jobs", "lines", "provider_batches", "holds", "transfers", "settlements"]
    with transaction(world.engine) as session:
        for table in tables:
            session.execute(text(f"ALTER TABLE {table} ADD COLUMN newer int NOT NULL DEFAULT 1"))
    try:
        world.accept(2)
        world.settle_down()
        assert world.jobs() == {"completed": 2}
        world.check_books()
    finally:
        with transaction(world.engine) as session:
            for table in tables:
                session.execute(text(f"ALTER TABLE {table} DROP COLUMN newer"))
