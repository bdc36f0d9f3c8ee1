"""What the provider counts is compared with the books; nothing of it goes unnoticed."""

import logging
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Row

from gateway.billing import suspense
from gateway.billing.pricing import amounts
from gateway.catalogue.catalogue import Catalogue, load
from gateway.catalogue.rates import PriceSnapshot, Rates
from gateway.catalogue.usage import Usage
from gateway.lanes.polling import note_strays
from gateway.providers.dialect import BatchState, Credential, Endpoint, Unavailable
from gateway.reconciliation import books, records, run
from gateway.reconciliation.comparing import Outcome, Providers
from gateway.reconciliation.verdicts import NO_TOKENS, Booked, Tokens
from models.session import transaction
from tests.integration.fake_batches import USAGE, Answering, FakeBatch, FakeLine, Json, succeeded
from tests.integration.fake_dialect import FakeDialect
from tests.integration.lane_world import (
    COST_NANOS,
    HOLD_NANOS,
    LINE_NANOS,
    MARKUP_BPS,
    World,
    charge_of,
    opened,
)
from tests.integration.ledger_world import Ledger
from tests.integration.plans import scans

PLAIN = Rates(
    input=2_000, cache_read=1_000, cache_write_short=2_000, cache_write_long=2_000, output=8_000
)
PLAIN_PRICES = PriceSnapshot(PLAIN, PLAIN.scaled(Decimal("0.5")), "plain")
"""Where writing to a cache costs what other input costs, so that totals can be priced."""


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    return load()


@pytest.fixture
def world(database_url: str) -> Iterator[World]:
    with opened(database_url) as world:
        yield world


class Reconciler:
    """Runs over a world, and what they wrote."""

    def __init__(self, world: World, catalogue: Catalogue) -> None:
        self.world = world
        self.catalogue = catalogue

    def run(self, tolerance_nanos: int = 0, credential: str = "house") -> Outcome:
        dialects = self.world.works.dialects
        credentials = {
            (name, credential): Credential(name, credential, "sk-fake", "http://provider.invalid")
            for name in dialects
        }
        return run.reconcile(
            self.world.engine,
            self.world.prices,
            Providers(dialects, credentials, self.catalogue, note_strays),
            tolerance_nanos=tolerance_nanos,
        )

    def row(self, batch: FakeBatch) -> Row[Any]:
        (row,) = self.world.rows(
            "SELECT * FROM reconciliations WHERE subject = :subject", subject=batch.external_id
        )
        return row

    def classes(self, batch: FakeBatch) -> dict[str, int]:
        """What is not zero of the classes of a batch."""
        row = self.row(batch)
        names = ("explained", "in_flight", "orphaned", "unexplained", "excess")
        found = {name: getattr(row, f"{name}_nanos") for name in names}
        found["requests"] = row.unexplained_requests
        return {name: value for name, value in found.items() if value}


class OnlyCalls(FakeDialect):
    """A provider that has no batches."""

    def batches(self, endpoint: Endpoint) -> bool:  # noqa: ARG002 (the interface's)
        return False


@pytest.fixture
def reconciler(world: World, catalogue: Catalogue) -> Reconciler:
    return Reconciler(world, catalogue)


def done(world: World, count: int, answering: Answering = succeeded, **options: Any) -> FakeBatch:
    """A batch that was answered and taken in, its lines counted by the provider at `USAGE`."""
    batch_id, batch = world.submitted(count, **options)
    batch.end(answering)
    batch.count(count)
    assert world.poll() == [batch_id]
    assert world.ingest(batch_id)
    return batch


def lose_one(line: FakeLine) -> Json | None:
    """The first call's answer never comes, though the provider counts it."""
    return None if line.body["messages"][0]["content"] == "question 0" else succeeded(line)


def without_usage(*contents: str) -> Answering:
    """Answers that lack the usage where these were asked."""

    def answer(line: FakeLine) -> Json | None:
        is_chosen = line.body["messages"][0]["content"] in contents
        return succeeded(line, None if is_chosen else USAGE)

    return answer


def test_a_batch_whose_tokens_agree_is_explained_and_not_compared_again(
    world: World, reconciler: Reconciler
) -> None:
    batch = done(world, 3)
    assert reconciler.run() == Outcome(compared=1)
    row = reconciler.row(batch)
    assert reconciler.classes(batch) == {"explained": 3 * COST_NANOS}
    assert (row.provider_requests, row.provider_input_tokens, row.provider_output_tokens) == (
        3,
        3 * USAGE.input_total,
        3 * USAGE.output,
    )
    assert (row.day, row.provider, row.model) == (datetime.now(UTC).date(), "fake", "model-a")
    assert row.is_final
    assert reconciler.run() == Outcome(compared=0)


def test_a_run_may_be_repeated_and_writes_over_what_it_found(
    world: World, reconciler: Reconciler
) -> None:
    batch_id, batch = world.submitted(2)
    batch.count(1)
    reconciler.run()
    assert reconciler.classes(batch) == {"in_flight": COST_NANOS}
    batch.end()
    batch.count(2)
    world.poll()
    world.ingest(batch_id)
    for _ in range(2):
        reconciler.run()
        assert reconciler.classes(batch) == {"explained": 2 * COST_NANOS}


def test_a_late_line_is_explained_by_the_loss_that_was_booked(
    world: World, reconciler: Reconciler
) -> None:
    _, batch = world.submitted(2)
    (job_id,) = [row.job_id for row in world.rows("SELECT job_id FROM lines LIMIT 1")]
    world.run("UPDATE jobs SET status = 'expired', completed_at = now() WHERE id = :id", id=job_id)
    world.run("UPDATE holds SET status = 'voided', resolved_at = now() WHERE id = :id", id=job_id)
    batch.end()
    batch.count(2)
    for batch_id in world.poll():
        world.ingest(batch_id)
    assert world.lines() == {"succeeded": 1, "late": 1}
    assert reconciler.run().alerts == []
    assert reconciler.classes(batch) == {"explained": 2 * COST_NANOS}


def test_answers_that_were_lost_are_unexplained_and_alerted_once(
    world: World, reconciler: Reconciler, caplog: pytest.LogCaptureFixture
) -> None:
    batch = done(world, 2, lose_one)
    with caplog.at_level(logging.ERROR):
        first, second = reconciler.run(), reconciler.run()
    assert reconciler.classes(batch) == {"explained": COST_NANOS, "unexplained": COST_NANOS}
    assert not reconciler.row(batch).is_final
    assert (len(first.alerts), len(second.alerts)) == (1, 0)
    (alert,) = [each for each in caplog.records if each.message == "reconciliation.unexplained"]
    told = alert.__dict__
    assert (told["alert"], told["provider"], told["nanos"]) == (True, "fake", COST_NANOS)
    # More of it is news.
    batch.count(3)
    assert len(reconciler.run().alerts) == 1
    assert reconciler.row(batch).unexplained_nanos == 2 * COST_NANOS


def test_below_the_tolerance_nothing_is_alerted_and_all_is_listed(
    world: World, reconciler: Reconciler
) -> None:
    batch = done(world, 2, lose_one)
    assert reconciler.run(tolerance_nanos=COST_NANOS).alerts == []
    with transaction(world.engine) as session:
        first = records.first_day(session, 1)
        (listed,) = records.unexplained(session, first, 10)
        (total,) = records.totals(session, first)
    assert (listed.subject, listed.unexplained_nanos) == (batch.external_id, COST_NANOS)
    assert (total.subjects, total.unexplained_nanos) == (1, COST_NANOS)


def test_what_the_provider_did_not_count_is_an_excess(world: World, reconciler: Reconciler) -> None:
    batch = done(world, 3)
    batch.count(2)
    assert len(reconciler.run().alerts) == 1
    assert reconciler.classes(batch) == {"explained": 2 * COST_NANOS, "excess": COST_NANOS}


def test_a_batch_that_was_made_twice_is_found_and_counted_as_orphaned(
    world: World, reconciler: Reconciler
) -> None:
    batch = done(world, 2)
    twin = FakeBatch("batch-twin", batch.ref, batch.created_at, batch.lines, batch.input_file_id)
    twin.end()
    twin.count(2)
    world.dialect.made[twin.external_id] = twin
    assert reconciler.run().alerts == []
    assert reconciler.classes(twin) == {"orphaned": 2 * COST_NANOS}
    assert not reconciler.row(twin).is_final
    world.pass_time()
    world.settle_orphans()
    reconciler.run()
    assert reconciler.classes(twin) == {"orphaned": 2 * COST_NANOS}
    assert reconciler.row(twin).is_final
    assert reconciler.classes(batch) == {"explained": 2 * COST_NANOS}
    world.check_books()


def test_a_batch_of_somebody_else_under_our_key_is_unexplained(
    world: World, reconciler: Reconciler
) -> None:
    stranger = FakeBatch("batch-x", None, datetime.now(UTC), [], None)
    stranger.end()
    stranger.count(5)
    world.dialect.made["batch-x"] = stranger
    # At first it may be one that is just being created.
    assert reconciler.run() == Outcome()
    stranger.created_at -= timedelta(hours=2)
    assert len(reconciler.run().alerts) == 1
    assert reconciler.classes(stranger) == {"requests": 5}


def test_a_batch_that_has_ended_since_it_was_listed_waits_for_the_next_run(
    world: World, reconciler: Reconciler
) -> None:
    batch = done(world, 2)
    batch.state = BatchState.RUNNING
    batch.count(1)
    assert reconciler.run() == Outcome()
    batch.state = BatchState.ENDED
    batch.count(2)
    assert reconciler.run() == Outcome(compared=1)
    assert reconciler.classes(batch) == {"explained": 2 * COST_NANOS}


def test_where_the_provider_only_counts_answers_those_are_compared(
    world: World, reconciler: Reconciler
) -> None:
    batch = done(world, 2)
    batch.totals = None
    reconciler.run()
    assert reconciler.classes(batch) == {"explained": 2 * COST_NANOS}
    other = done(world, 2, lose_one)
    other.totals = None
    assert len(reconciler.run().alerts) == 1
    assert reconciler.classes(other) == {"explained": COST_NANOS, "requests": 1}


def test_a_provider_that_does_not_answer_keeps_no_other_from_being_compared(
    database_url: str, catalogue: Catalogue
) -> None:
    away, here = FakeDialect("away"), FakeDialect("fake")
    with opened(database_url, here, away) as world:
        done(world, 1)
        away.fail("list_batches", Unavailable("away"))
        outcome = Reconciler(world, catalogue).run()
    assert (outcome.compared, outcome.not_asked) == (1, ["away"])


def test_a_provider_without_batches_is_asked_for_none(
    database_url: str, catalogue: Catalogue
) -> None:
    with opened(database_url, FakeDialect("fake"), only_calls := OnlyCalls("calls")) as world:
        done(world, 1)
        outcome = Reconciler(world, catalogue).run()
        world.watch()
    assert (outcome.compared, outcome.not_asked, only_calls.calls.total()) == (1, [], 0)


def test_customers_own_keys_are_their_own_affair(world: World, reconciler: Reconciler) -> None:
    done(world, 1)
    assert reconciler.run(credential="somebody").compared == 0
    assert world.dialect.calls["list_batches"] == 0


def test_batches_that_failed_or_are_older_than_the_days_are_left_out(
    world: World, reconciler: Reconciler
) -> None:
    old, failed = done(world, 1), done(world, 1)
    old.created_at -= timedelta(days=4)
    failed.refuse()
    assert reconciler.run().compared == 0


def settlement(world: World, hold_id: UUID) -> Row[Any]:
    (row,) = world.rows("SELECT * FROM settlements WHERE id = :id", id=hold_id)
    return row


def in_suspense(world: World) -> UUID:
    (row,) = world.rows("SELECT id FROM settlements WHERE unpriced")
    found: UUID = row.id
    return found


def test_the_one_call_without_usage_is_charged_what_the_total_leaves_for_it(
    world: World, reconciler: Reconciler
) -> None:
    batch = done(world, 3, without_usage("question 1"), prices=PLAIN_PRICES)
    suspended = in_suspense(world)
    assert reconciler.run() == Outcome(compared=1, priced=1)
    priced = settlement(world, suspended)
    assert (priced.unpriced, priced.input_uncached, priced.output) == (False, 100, 50)
    assert (priced.cost_nanos, priced.charged_nanos) == (COST_NANOS, LINE_NANOS)
    moved = world.moved()
    assert moved["suspense_charge"] == LINE_NANOS
    assert moved["suspense_return"] == HOLD_NANOS - LINE_NANOS
    assert moved["provider_cost"] == 3 * COST_NANOS
    assert reconciler.classes(batch) == {"explained": 3 * COST_NANOS}
    assert reconciler.row(batch).is_final
    (day,) = world.rows("SELECT calls, unpriced_calls, paid_nanos FROM daily_usage")
    assert tuple(day) == (3, 0, 3 * LINE_NANOS)
    world.check_books()


@pytest.mark.parametrize("why", ["two of them", "answers missing", "caches", "totals too small"])
def test_without_certainty_a_call_stays_in_suspense(
    world: World, reconciler: Reconciler, why: str
) -> None:
    prices = {} if why == "caches" else {"prices": PLAIN_PRICES}
    chosen = ("question 0", "question 1") if why == "two of them" else ("question 1",)
    batch = done(world, 3, without_usage(*chosen), **prices)
    if why == "answers missing":
        batch.count(4)
    elif why == "totals too small":
        batch.count(3, Usage(10, 0, output=10))
    before = world.moved()
    assert reconciler.run().priced == 0
    assert world.moved() == before
    assert len(world.rows("SELECT 1 FROM settlements WHERE unpriced")) == len(chosen)
    world.check_books()


def test_what_a_call_in_suspense_cost_beyond_its_hold_is_the_houses_loss(
    world: World, reconciler: Reconciler
) -> None:
    done(world, 2, without_usage("question 1"), prices=PLAIN_PRICES, hold_nanos=LINE_NANOS - 30)
    assert reconciler.run().priced == 1
    moved = world.moved()
    assert moved["suspense_charge"] == LINE_NANOS - 30
    assert moved["overrun_loss"] == 30
    assert moved["suspense_return"] == 0
    world.check_books()


def test_suspense_ends_once_whoever_comes_first(world: World, reconciler: Reconciler) -> None:
    done(world, 2, without_usage("question 1"), prices=PLAIN_PRICES)
    suspended = in_suspense(world)
    with transaction(world.engine) as session:
        assert suspense.give_back(session, [suspended]) == {suspended}
    assert reconciler.run().priced == 0
    found = suspense.Finding(suspended, USAGE, amounts(USAGE, PLAIN_PRICES, "batch", MARKUP_BPS))
    with transaction(world.engine) as session:
        assert not suspense.charge(session, found)
    world.check_books()
    other = done(world, 2, without_usage("question 1"), prices=PLAIN_PRICES)
    assert reconciler.run().priced == 1
    charged = world.rows("SELECT id FROM settlements WHERE NOT unpriced")
    with transaction(world.engine) as session:
        assert suspense.give_back(session, [row.id for row in charged]) == set()
    assert reconciler.row(other).is_final
    world.check_books()


@pytest.mark.parametrize(
    ("query", "large"),
    [
        ("BATCHES", {"lines", "jobs", "holds", "settlements", "transfers", "provider_batches"}),
        ("DAY", {"settlements", "provider_batches", "holds"}),
        ("UNBILLED", {"transfers"}),
        ("IN_FLIGHT", {"lines", "holds", "provider_batches", "standard_runs"}),
    ],
)
def test_the_books_are_read_by_index(world: World, query: str, large: set[str]) -> None:
    now = datetime.now(UTC)
    parameters = {
        "external_ids": ["x"],
        "provider": "fake",
        "start": now,
        "end": now,
        "settled_by": now,
        "asked_at": now,
        "first": UUID(int=0),
        "last": UUID(int=1),
    }
    statement = getattr(books, query)
    named = {name: value for name, value in parameters.items() if f":{name}" in statement.text}
    read = scans(world.engine, statement.text, named)
    assert large <= {scan.table for scan in read}
    assert [scan for scan in read if scan.table in large and scan.index is None] == []


def test_a_call_near_midnight_or_after_the_question_may_count_for_another_day(
    world: World,
) -> None:
    day = datetime.now(UTC).date() - timedelta(days=5)
    noon = datetime.combine(day, time(12), UTC)
    ledger = Ledger(world.engine)
    hold_id = ledger.held(world.usual_account, HOLD_NANOS)
    ledger.settle(charge_of(hold_id))

    def known(settled_at: datetime, of: date, asked_at: datetime) -> tuple[Tokens, Tokens]:
        world.run("UPDATE settlements SET created_at = :at", at=settled_at)
        with transaction(world.engine) as session:
            booked, _ = books.read_day(session, of, asked_at)
        found = booked.get(("fake", "model-a", "batch"), Booked())
        return found.settled, found.near

    used = Tokens(USAGE.input_uncached, 0, USAGE.output)
    later, before = noon + timedelta(days=1), day - timedelta(days=1)
    assert known(noon, day, later) == (used, NO_TOKENS)
    assert known(noon, before, later) == (NO_TOKENS, NO_TOKENS)
    assert known(noon, day, noon) == (NO_TOKENS, used)
    just_after_midnight = noon - timedelta(hours=11, minutes=30)
    assert known(just_after_midnight, day, later) == (NO_TOKENS, used)
    assert known(just_after_midnight, before, later) == (NO_TOKENS, used)
    # A batch that ran over midnight.
    batch_id = world.form()
    world.run("UPDATE settlements SET batch_id = :id", id=batch_id)
    world.run(
        "UPDATE provider_batches SET submitted_at = :begun, ended_at = :ended",
        begun=noon - timedelta(hours=20),
        ended=noon - timedelta(hours=2),
    )
    assert known(noon, day, later) == known(noon, before, later) == (NO_TOKENS, used)
