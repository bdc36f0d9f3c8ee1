"""The statement's balances add up, whatever is written while they are read."""

import random
import threading
from collections.abc import Iterator
from itertools import accumulate

import pytest

from gateway.billing import audit, statement
from gateway.billing.statement import Entry
from models.session import transaction
from tests.integration.ledger_world import Ledger, costing, opened


@pytest.fixture
def ledger(database_url: str) -> Iterator[Ledger]:
    with opened(database_url) as ledger:
        yield ledger


def assert_adds_up(oldest_first: list[Entry]) -> None:
    balances = [entry.balance_nanos for entry in oldest_first]
    assert balances == list(accumulate(entry.amount_nanos for entry in oldest_first))


def test_balances_are_of_the_moment_at_which_they_are_read(ledger: Ledger) -> None:
    account = ledger.account(10**9)
    done = threading.Event()

    def write(seed: int) -> None:
        rng = random.Random(seed)
        while not done.is_set():
            hold = ledger.held(account, 220)
            ledger.settle(costing(hold, rng.choice([None, 11, 110, 220, 330])))
            ledger.deposit(account, rng.randint(1, 99))

    writers = [threading.Thread(target=write, args=(seed,)) for seed in range(3)]
    for writer in writers:
        writer.start()
    lengths = []
    try:
        for ascending in (True, False) * 10:
            with transaction(ledger.engine) as session:
                read = statement.page(session, account, limit=10**6, ascending=ascending)
            assert_adds_up(read if ascending else read[::-1])
            lengths.append(len(read))
    finally:
        done.set()
        for writer in writers:
            writer.join(10)
    assert lengths[0] < lengths[-1]
    assert audit.verify(ledger.engine).violations == []


def test_reading_on_from_a_balance_is_the_same_as_reading_all_at_once(ledger: Ledger) -> None:
    account = ledger.account(1_000)
    for nanos in range(1, 12):
        ledger.deposit(account, nanos)
        ledger.settle(costing(ledger.held(account, 11), 11))
    read: list[Entry] = []
    while len(read) < 23:
        with transaction(ledger.engine) as session:
            last = read[-1] if read else None
            read += statement.page(
                session,
                account,
                limit=4,
                ascending=True,
                after=None if last is None else last.id,
                balance_nanos=None if last is None else last.balance_nanos,
            )
    assert_adds_up(read)
    assert read[-1].balance_nanos == ledger.money(account).available
