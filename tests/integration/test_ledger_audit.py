"""`ledger verify` finds nothing in sound books, and every kind of fault in others."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from gateway.billing import audit
from gateway.catalogue.usage import Usage
from models import ids
from tests.integration.fake_batches import using
from tests.integration.lane_world import HOLD_NANOS, LINE_NANOS, World, opened
from tests.integration.ledger_world import Ledger, costing
from tests.integration.ledger_world import opened as opened_ledger

BIG = Usage(input_uncached=100, output=500)


@pytest.fixture
def world(database_url: str) -> Iterator[World]:
    """Charged, overrun, suspended, given back, cancelled and waiting: some of everything."""
    with opened(database_url) as world:
        world.accept(3)
        world.settle_down()
        world.accept(1)
        world.settle_down(using(None))
        world.accept(1)
        world.settle_down(using(None))
        poor = world.account(HOLD_NANOS)
        world.accept(1, account=poor)
        world.settle_down(using(BIG))
        (cancelled, _) = world.accept(2)
        world.cancel(cancelled)
        given_back = world.rows("SELECT hold_id FROM transfers WHERE kind = 'suspense' LIMIT 1")
        Ledger(world.engine).return_suspense(given_back[0].hold_id)
        yield world


@pytest.fixture
def ledger(database_url: str) -> Iterator[Ledger]:
    with opened_ledger(database_url) as ledger:
        yield ledger


CHARGED = "(SELECT min(id::text)::uuid FROM settlements WHERE charged_nanos = 330)"
WAITING = "(SELECT id FROM jobs WHERE completed_at IS NULL)"
HOUSE = "(SELECT account_id FROM balances ORDER BY credits_nanos DESC LIMIT 1)"
TRANSFER = (
    "INSERT INTO transfers (id, kind, debit, credit, account_id, hold_id, amount_nanos) VALUES "
)

VIOLATIONS = {
    "is not the replay of its transfers and holds": (
        f"UPDATE balances SET credits_nanos = credits_nanos + 5 WHERE account_id = {HOUSE}"
    ),
    "which has no balance": (
        f"{TRANSFER} (uuidv7(), 'deposit', 'cash_in', 'customer', uuidv7(), NULL, 5)"
    ),
    "is open without unfinished work or an expiry": (
        "INSERT INTO holds (id, account_id, key_id, amount_nanos, status) "
        f"VALUES (uuidv7(), {HOUSE}, uuidv7(), 0, 'open')"
    ),
    "is unfinished without an open hold": (
        f"UPDATE holds SET status = 'voided', resolved_at = now() WHERE id = {WAITING}"
    ),
    "is completed without a settlement": f"DELETE FROM settlements WHERE id = {CHARGED}",
    "is settled without being completed": (
        "WITH posted AS (UPDATE holds SET status = 'posted', resolved_at = now() "
        f"WHERE id = {WAITING}) "
        "INSERT INTO settlements (id, account_id, key_id, lane, provider, model, price_id, "
        "markup_bps, unpriced) SELECT id, account_id, key_id, 'batch', 'fake', 'm', price_id, "
        f"markup_bps, true FROM jobs WHERE id = {WAITING}"
    ),
    "is posted without a settlement, or settled without being posted": (
        f"DELETE FROM settlements WHERE id = {CHARGED}"
    ),
    "differs from what was transferred for it": (
        f"UPDATE transfers SET amount_nanos = 331 WHERE kind = 'charge' AND hold_id = {CHARGED}"
    ),
    "is for a hold that was not settled": (
        f"{TRANSFER} (uuidv7(), 'charge', 'customer', 'revenue', {HOUSE}, {WAITING}, 5)"
    ),
    "moves the money of another account than its hold's": (
        f"UPDATE transfers SET account_id = uuidv7() WHERE hold_id = {CHARGED}"
    ),
    "names another account than its hold": (
        f"UPDATE settlements SET account_id = uuidv7() WHERE id = {CHARGED}"
    ),
    "was not used up, and yet the house lost on it": (
        f"{TRANSFER} (uuidv7(), 'overrun_loss', 'loss', 'revenue', NULL, {CHARGED}, 5)"
    ),
    "ended in another amount than it had": (
        "UPDATE transfers SET amount_nanos = amount_nanos + 1 WHERE kind = 'suspense_return'"
    ),
    "is booked at another cost than its settlements": (
        "UPDATE transfers SET amount_nanos = amount_nanos + 1 WHERE kind = 'provider_cost'"
    ),
    "has spent something else in a day or month": (
        "UPDATE key_spending SET amount_nanos = amount_nanos + 1 WHERE period = 'month'"
    ),
    "is not what it was charged on it": (
        "UPDATE daily_usage SET paid_nanos = paid_nanos + 1 WHERE lane = 'batch'"
    ),
    "is not its usage at its price snapshot": (
        f"UPDATE settlements SET output = output + 1 WHERE id = {CHARGED}"
    ),
}


def test_sound_books_are_clean_and_counted(world: World) -> None:
    report = audit.verify(world.engine)
    assert (report.violations, report.imbalance_nanos, report.is_clean) == ([], 0, True)
    assert (report.open_holds, report.unpriced) == (1, 1)
    assert report.transfers == len(world.rows("SELECT 1 FROM transfers"))
    moved = world.moved()
    assert moved["charge"] == 3 * LINE_NANOS + HOLD_NANOS
    assert all(
        moved[kind] for kind in ("overrun_loss", "suspense", "suspense_return", "provider_cost")
    )


@pytest.mark.parametrize("sentence", sorted(VIOLATIONS))
def test_every_fault_in_the_books_is_found_and_named(world: World, sentence: str) -> None:
    world.run(VIOLATIONS[sentence])
    report = audit.verify(world.engine)
    assert not report.is_clean
    assert any(sentence in violation for violation in report.violations), report.violations


def test_each_rule_has_a_planted_fault() -> None:
    checked_elsewhere = "is below zero"
    for rule in audit.RULES:
        assert checked_elsewhere in rule or any(sentence in rule for sentence in VIOLATIONS), rule


@contextmanager
def without_constraint(world: World, table: str, name: str) -> Iterator[None]:
    """Takes a CHECK away, and empties the table before it is put back."""
    (row,) = world.rows(
        "SELECT pg_get_constraintdef(oid) AS definition FROM pg_constraint WHERE conname = :name",
        name=name,
    )
    world.run(f"ALTER TABLE {table} DROP CONSTRAINT {name}")
    try:
        yield
    finally:
        world.run(f"TRUNCATE {table}")
        world.run(f"ALTER TABLE {table} ADD CONSTRAINT {name} {row.definition}")


def test_a_balance_below_zero_is_found_even_where_the_database_let_it_pass(world: World) -> None:
    with without_constraint(world, "balances", "ck_balances_available"):
        world.run("UPDATE balances SET debits_nanos = credits_nanos + 1")
        violations = audit.verify(world.engine).violations
    assert sum("is below zero" in violation for violation in violations) == 2


@pytest.mark.parametrize(
    "change",
    [
        "lane = 'standard'",
        "markup_bps = markup_bps + 100",
        "charged_nanos = charged_nanos + 1",
        "cost_nanos = cost_nanos - 1",
        "list_nanos = list_nanos + 1",
        "price_id = 'unheard of'",
        "cache_read = 50",
    ],
)
def test_a_charge_is_recomputed_from_all_that_it_follows_from(world: World, change: str) -> None:
    world.run(f"UPDATE settlements SET {change} WHERE id = {CHARGED}")
    violations = audit.verify(world.engine).violations
    assert any("is not its usage at its price snapshot" in each for each in violations)


def test_an_imbalance_is_told_in_nanos(world: World) -> None:
    world.run(f"UPDATE balances SET credits_nanos = credits_nanos + 5 WHERE account_id = {HOUSE}")
    assert audit.verify(world.engine).imbalance_nanos == 5


def test_a_fault_that_is_everywhere_is_not_listed_for_ever(ledger: Ledger) -> None:
    account = ledger.account(10**6)
    holds = [ledger.held(account, 11) for _ in range(audit.SHOWN_PER_RULE + 5)]
    ledger.settle(*[costing(hold, 11) for hold in holds])
    ledger.run("UPDATE settlements SET output = 7")
    assert len(audit.verify(ledger.engine).violations) == audit.SHOWN_PER_RULE


def test_a_charge_in_a_lane_without_a_price_is_wrong(ledger: Ledger) -> None:
    account = ledger.account(100)
    hold = ledger.held(account, 50)
    ledger.settle(costing(hold, 11)._replace(price_id=ids.new().hex))
    (violation,) = audit.verify(ledger.engine).violations
    assert "is not its usage at its price snapshot" in violation


def test_books_that_are_written_meanwhile_are_seen_as_of_one_moment(ledger: Ledger) -> None:
    account = ledger.account(10**9)
    done = threading.Event()

    def write() -> None:
        while not done.is_set():
            hold = ledger.held(account, 110)
            ledger.settle(costing(hold, 55))
            ledger.deposit(account, 1)

    writers = [threading.Thread(target=write) for _ in range(3)]
    for writer in writers:
        writer.start()
    try:
        reports = [audit.verify(ledger.engine) for _ in range(15)]
    finally:
        done.set()
        for writer in writers:
            writer.join(10)
    assert [report.violations for report in reports] == [[]] * 15
    assert reports[0].transfers < reports[-1].transfers
