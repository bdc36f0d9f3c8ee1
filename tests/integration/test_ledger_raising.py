"""Raising holds: never beyond the balance or a cap of the key, whoever else wants the money."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

import pytest

from gateway.billing import raising
from models import ids
from models.session import transaction
from tests.integration.ledger_world import Ledger, costing, opened


@pytest.fixture
def ledger(database_url: str) -> Iterator[Ledger]:
    with opened(database_url) as ledger:
        yield ledger


def raise_to(ledger: Ledger, amounts: dict[UUID, int]) -> set[UUID]:
    with transaction(ledger.engine) as session:
        return raising.raise_holds(session, amounts)


def test_a_raised_hold_holds_that_much_and_its_charge_may_use_it(ledger: Ledger) -> None:
    account = ledger.account(1_000)
    hold = ledger.held(account, 110)
    assert raise_to(ledger, {hold: 440}) == {hold}
    assert ledger.money(account) == (1_000, 0, 440)
    ledger.settle(costing(hold, 330))
    assert ledger.money(account) == (1_000, 330, 0)
    ledger.check_books()


def test_a_hold_is_never_lowered_and_counts_as_raised_if_it_is_high_enough(
    ledger: Ledger,
) -> None:
    account = ledger.account(1_000)
    hold = ledger.held(account, 500)
    assert raise_to(ledger, {hold: 100}) == raise_to(ledger, {hold: 500}) == {hold}
    assert ledger.money(account).held == 500
    ledger.check_books()


def test_what_the_balance_does_not_cover_is_left_and_the_others_are_raised(
    ledger: Ledger,
) -> None:
    account, rich = ledger.account(300), ledger.account(10_000)
    dear, cheap, other = (ledger.held(each, 100) for each in (account, account, rich))
    assert raise_to(ledger, {dear: 201, cheap: 200, other: 5_000}) == {cheap, other}
    assert (ledger.money(account).held, ledger.money(rich).held) == (300, 5_000)
    ledger.check_books()


def test_a_hold_that_is_resolved_or_unknown_is_not_raised(ledger: Ledger) -> None:
    account = ledger.account(1_000)
    posted, voided = ledger.held(account, 110), ledger.held(account, 110)
    ledger.resolve([costing(posted, 110)], [voided])
    assert raise_to(ledger, {posted: 500, voided: 500, ids.new(): 500}) == set()
    assert raise_to(ledger, {}) == set()
    assert ledger.money(account).held == 0
    ledger.check_books()


def test_raised_holds_go_back_whole(ledger: Ledger) -> None:
    account = ledger.account(1_000)
    hold = ledger.held(account, 100)
    raise_to(ledger, {hold: 1_000})
    assert ledger.void(hold) == {hold}
    assert ledger.money(account) == (1_000, 0, 0)
    ledger.check_books()


def test_many_who_want_the_last_of_a_balance_never_overdraw_it(ledger: Ledger) -> None:
    account = ledger.account(100 * 10 + 7 * 90)
    holds = [ledger.held(account, 10) for _ in range(100)]
    with ThreadPoolExecutor(6) as pool:
        raised = list(pool.map(lambda hold: raise_to(ledger, {hold: 100}), holds))
    assert sum(map(len, raised)) == 7
    assert ledger.money(account).available == 0
    ledger.check_books()
