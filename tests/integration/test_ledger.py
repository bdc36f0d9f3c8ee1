"""Money is set aside, charged and given back, each at most once, and never more than there is."""

import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

import psycopg
import pytest
from sqlalchemy import text

from gateway.billing import ledger
from models import ids
from models.session import transaction
from tests.integration.ledger_world import Ledger, Money, costing, opened


@pytest.fixture
def books(database_url: str) -> Iterator[Ledger]:
    with opened(database_url) as books:
        yield books
        books.check_books()


def test_holds_are_granted_in_order_as_far_as_the_money_goes(books: Ledger) -> None:
    account = books.account(100)
    requests = [books.request(account, amount) for amount in (60, 50, 40, 1)]
    assert books.hold(*requests) == {requests[0].id, requests[2].id}
    assert books.money(account) == Money(100, 0, 100)


def test_each_account_pays_for_its_own_calls(books: Ledger) -> None:
    rich, poor, empty = books.account(100), books.account(10), books.account(0)
    requests = [books.request(account, 50) for account in (rich, poor, rich, empty)]
    assert books.hold(*requests) == {requests[0].id, requests[2].id}
    assert books.money(poor) == Money(10, 0, 0)


def test_an_account_that_does_not_exist_is_granted_nothing(books: Ledger) -> None:
    assert books.hold(books.request(ids.new(), 0)) == set()


def test_a_call_that_can_cost_nothing_needs_no_money(books: Ledger) -> None:
    account = books.account(0)
    free = books.held(account, 0)
    assert books.settle(costing(free, 0)) == {free}
    assert books.moved() == {}


def test_a_hold_is_voided_once_and_gives_back_all_of_itself(books: Ledger) -> None:
    account = books.account(100)
    first, second = books.held(account, 60), books.held(account, 40)
    assert books.void(first, ids.new()) == {first}
    assert books.money(account) == Money(100, 0, 40)
    assert books.void(first, second) == {second}
    assert books.settle(costing(first, 11)) == set()
    assert books.money(account) == Money(100, 0, 0)
    assert books.moved() == {}


def test_a_charge_is_taken_once_and_the_rest_of_its_hold_given_back(books: Ledger) -> None:
    account = books.account(100)
    hold = books.held(account, 80)
    assert books.settle(costing(hold, 33)) == {hold}
    assert books.settle(costing(hold, 33)) == set()
    assert books.void(hold) == set()
    assert books.money(account) == Money(100, 33, 0)
    assert books.moved() == {"charge": 33, "provider_cost": 30}


def test_of_two_charges_for_one_hold_the_first_counts(books: Ledger) -> None:
    account = books.account(100)
    hold = books.held(account, 80)
    assert books.settle(costing(hold, 33), costing(hold, 44)) == {hold}
    assert books.money(account) == Money(100, 33, 0)


@pytest.mark.parametrize(
    ("credit", "paid", "lost"), [(200, 110, 0), (110, 110, 0), (109, 109, 1), (50, 50, 60)]
)
def test_an_overrun_draws_the_balance_and_then_the_houses_loss(
    books: Ledger, credit: int, paid: int, lost: int
) -> None:
    account = books.account(credit)
    hold = books.held(account, 50)
    books.settle(costing(hold, 110))
    assert books.money(account) == Money(credit, paid, 0)
    moved = books.moved()
    assert (moved["charge"], moved["overrun_loss"], moved["provider_cost"]) == (paid, lost, 100)


def test_an_overrun_never_touches_what_is_held_for_other_calls(books: Ledger) -> None:
    account = books.account(100)
    hold, other = books.held(account, 40), books.held(account, 60)
    books.settle(costing(hold, 88))
    assert books.money(account) == Money(100, 40, 60)
    assert books.moved()["overrun_loss"] == 48
    books.settle(costing(other, 55))


def test_an_overrun_draws_on_what_others_of_its_set_give_back(books: Ledger) -> None:
    account = books.account(100)
    over, under, voided = (books.held(account, amount) for amount in (20, 50, 30))
    books.resolve([costing(over, 88), costing(under, 22)], [voided])
    assert books.money(account) == Money(100, 100, 0)
    assert books.moved()["overrun_loss"] == 10


def test_several_overruns_share_what_there_is(books: Ledger) -> None:
    account = books.account(100)
    holds = [books.held(account, 20) for _ in range(3)]
    books.settle(*[costing(hold, 44) for hold in holds])
    assert books.money(account) == Money(100, 100, 0)
    assert books.moved() == {"charge": 100, "overrun_loss": 32, "provider_cost": 120}


def test_a_hold_resolved_by_posting_and_voiding_at_once_is_posted(books: Ledger) -> None:
    account = books.account(100)
    hold = books.held(account, 50)
    assert books.resolve([costing(hold, 22)], [hold]) == {hold}
    assert books.money(account) == Money(100, 22, 0)


def test_a_charge_without_usage_moves_its_hold_to_suspense_and_back_once(books: Ledger) -> None:
    account = books.account(100)
    hold, priced = books.held(account, 60), books.held(account, 11)
    books.settle(costing(hold, None), costing(priced, 11))
    assert books.money(account) == Money(100, 71, 0)
    assert books.moved() == {"suspense": 60, "charge": 11, "provider_cost": 10}
    assert books.return_suspense(hold, priced, ids.new()) == {hold}
    assert books.money(account) == Money(160, 71, 0)
    assert books.return_suspense(hold) == set()
    assert books.money(account) == Money(160, 71, 0)


def test_a_providers_costs_are_booked_by_batch(books: Ledger) -> None:
    account = books.account(1000)
    first, second = ids.new(), ids.new()
    batches = [first, first, second, None]
    holds = [books.held(account, 100) for _ in batches]
    books.settle(*[costing(hold, 22, batch) for hold, batch in zip(holds, batches, strict=True)])
    rows = books.rows("SELECT batch_id, amount_nanos FROM transfers WHERE kind = 'provider_cost'")
    assert {row.batch_id: row.amount_nanos for row in rows} == {first: 40, second: 20, None: 20}


def test_a_cost_that_nobody_is_charged_for_is_the_houses_and_nothing_is_no_transfer(
    books: Ledger,
) -> None:
    with transaction(books.engine) as session:
        ledger.book_unbilled_cost(session, ids.new(), 7, "late")
        ledger.book_unbilled_cost(session, ids.new(), 0, "nothing")
    assert books.moved() == {"unbilled_cost": 7}


def test_a_deposit_credits_its_account(books: Ledger) -> None:
    account = books.account(0)
    books.deposit(account, 5)
    books.deposit(account, 7)
    assert books.money(account) == Money(12, 0, 0)
    for nothing in (0, -5):
        with pytest.raises(psycopg.errors.CheckViolation):
            books.deposit(account, nothing)
    assert books.money(account) == Money(12, 0, 0)


def test_nothing_stands_of_a_transaction_that_fails(books: Ledger) -> None:
    account = books.account(100)
    hold = books.held(account, 50)

    def settle_and_fail() -> None:
        with transaction(books.engine) as session:
            ledger.settle(session, [costing(hold, 22)])
            raise RuntimeError

    with pytest.raises(RuntimeError):
        settle_and_fail()
    assert books.money(account) == Money(100, 0, 50)
    assert books.void(hold) == {hold}


def test_a_hundred_threads_at_the_last_cent_never_overdraw(database_url: str) -> None:
    with opened(database_url, pool_size=40) as books:
        account = books.account(10 * 7 + 3)
        requests = [books.request(account, 7) for _ in range(100)]
        start = threading.Barrier(100, timeout=30)

        def hold(number: int) -> set[UUID]:
            start.wait()
            return books.hold(requests[number])

        with ThreadPoolExecutor(100) as threads:
            granted = list(threads.map(hold, range(100)))
        assert sum(map(len, granted)) == 10
        assert books.money(account) == Money(73, 0, 70)
        books.check_books()


def test_threads_that_do_everything_at_once_neither_deadlock_nor_do_anything_twice(
    database_url: str,
) -> None:
    with opened(database_url, pool_size=8) as books:
        accounts = [books.account(20_000) for _ in range(3)]
        holds = [books.held(rng_account, 100) for rng_account in accounts * 60]
        resolved: list[UUID] = []

        def work(seed: int) -> None:
            rng = random.Random(seed)
            for _ in range(25):
                mine = rng.sample(holds, 8)
                charges = [costing(each, rng.choice([11, 99, 110, 220])) for each in mine[:5]]
                resolved.extend(books.resolve(charges, mine[5:]))
                books.deposit(rng.choice(accounts), 1)
                books.hold(*[books.request(account, 3) for account in rng.sample(accounts, 2)])

        with ThreadPoolExecutor(8) as threads:
            for done in [threads.submit(work, seed) for seed in range(8)]:
                done.result()
        assert len(resolved) == len(set(resolved))
        books.check_books()


def test_a_set_that_charges_and_releases_takes_its_holds_in_one_order(books: Ledger) -> None:
    """By id, whatever becomes of each: two such sets cannot wait for each other in a circle."""
    account = books.account(1_000)
    first, second = sorted([books.held(account, 100), books.held(account, 100)])
    with ThreadPoolExecutor(1) as threads, transaction(books.engine) as holder:
        holder.execute(text("SELECT FROM holds WHERE id = :id FOR UPDATE"), {"id": first})
        set_of_both = threads.submit(books.resolve, [costing(second, 11)], [first])
        while not books.rows(
            "SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' "
            "AND datname = current_database()"
        ):
            assert not set_of_both.done()
        with transaction(books.engine) as other:
            other.execute(
                text("SELECT FROM holds WHERE id = :id FOR UPDATE NOWAIT"), {"id": second}
            )
        holder.rollback()
        assert set_of_both.result() == {first, second}
    books.check_books()
