"""Holds in one round trip: all of them or none, and none leaves no trace."""

import socket
import time
from collections.abc import Iterator
from uuid import UUID

import gevent
import psycopg
import pytest
from gevent.threadpool import ThreadPool

from gateway.billing import holding
from gateway.billing.ledger import HoldRequest
from models import ids
from models.session import connect, is_away, transaction
from tests.integration.ledger_world import Ledger, Money, opened
from tests.integration.test_spending import key_of, request, spent
from web.loop import Statements


@pytest.fixture
def books(database_url: str) -> Iterator[Ledger]:
    with opened(database_url) as books:
        yield books


@pytest.fixture
def statements(books: Ledger) -> Iterator[Statements]:
    statements = Statements(books.engine, ThreadPool(1))
    yield statements
    statements.give_back()


def held(books: Ledger, *requests: HoldRequest) -> bool:
    with transaction(books.engine) as session:
        return holding.hold_all(session, requests)


def test_what_fits_is_held_to_the_last_cent(books: Ledger) -> None:
    account = books.account(100)
    key_id = key_of(books, account, daily=60, monthly=100)
    other = key_of(books, account, daily=40, monthly=40)
    assert held(books, request(account, key_id, 60), request(account, other, 40))
    assert books.money(account) == Money(100, 0, 100)
    assert spent(books, key_id) == {"day": 60, "month": 60}


@pytest.mark.parametrize(
    ("credit", "daily", "monthly"), [(99, 1_000, 1_000), (1_000, 99, 1_000), (1_000, 1_000, 99)]
)
def test_where_not_all_fits_nothing_is_held(
    books: Ledger, credit: int, daily: int, monthly: int
) -> None:
    account, rich = books.account(credit), books.account(1_000)
    key_id, other = key_of(books, account, daily, monthly), key_of(books, rich, 1_000, 1_000)
    asked = [request(account, key_id, 50), request(rich, other, 10), request(account, key_id, 50)]
    assert not held(books, *asked)
    assert (books.money(account), books.money(rich)) == (Money(credit, 0, 0), Money(1_000, 0, 0))
    assert not any(spent(books, key_id).values())
    assert not any(spent(books, other).values())


@pytest.mark.parametrize("nanos", [2**63 - 1, 2**63, 10**30])
def test_more_than_all_money_is_not_held(books: Ledger, nanos: int) -> None:
    account = books.account(100)
    asked = [request(account, ids.new(), 1), request(account, ids.new(), nanos)]
    assert not held(books, *asked, request(account, ids.new(), nanos))
    assert books.money(account) == Money(100, 0, 0)


def test_an_account_that_does_not_exist_holds_nothing(books: Ledger) -> None:
    nobody: UUID = ids.new()
    assert not held(books, request(nobody, nobody, 0))


def test_greenlets_run_while_a_database_does_not_let_anybody_in() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"postgresql+psycopg://nobody@127.0.0.1:{silent.getsockname()[1]}/none"
        statements = Statements(connect(url, pool_size=1, name="held-up"), ThreadPool(1))

        def finds_it_away() -> bool:
            try:
                statements.ask(b"SELECT 1", [])
            except Exception as error:
                return is_away(error)
            return False

        asking = gevent.spawn(finds_it_away)
        began = time.monotonic()
        gevent.sleep(0.05)
        assert time.monotonic() - began < 1.0
        assert not asking.ready()
        # It hangs up on whoever waits to be let in.
        accepted, _ = silent.accept()
        accepted.close()
    assert asking.get(timeout=10)


def test_greenlets_run_while_the_loop_awaits_a_statement(statements: Statements) -> None:
    ran: list[int] = []
    sleeper = gevent.spawn_later(0.01, ran.append, 1)
    assert statements.ask(b"SELECT $1, pg_sleep(0.1)", ["heard"]) == b"heard"
    assert ran == [1]
    sleeper.join()


def test_what_is_long_is_sent_whole(statements: Statements) -> None:
    many = "x" * 10_000_000
    assert statements.ask(b"SELECT length($1)", [many]) == b"10000000"


def test_an_error_is_raised_and_costs_one_connection(statements: Statements) -> None:
    with pytest.raises(psycopg.errors.DivisionByZero):
        statements.ask(b"SELECT 1 / $1::int", ["0"])
    assert statements.ask(b"SELECT $1", ["again"]) == b"again"


def test_who_is_stopped_while_waiting_leaves_no_answer_for_the_next(statements: Statements) -> None:
    waiting = gevent.spawn(statements.ask, b"SELECT $1, pg_sleep(5)", ["late"])
    gevent.sleep(0.05)
    waiting.kill()
    assert statements.ask(b"SELECT $1", ["mine"]) == b"mine"


def test_a_connection_that_was_closed_meanwhile_is_replaced_unnoticed(
    books: Ledger, statements: Statements
) -> None:
    pid = statements.ask(b"SELECT pg_backend_pid()", [])
    assert statements.ask(b"SELECT pg_backend_pid()", []) == pid
    assert pid is not None
    books.rows("SELECT pg_terminate_backend(:pid, 5000)", pid=int(pid))
    assert statements.ask(b"SELECT pg_backend_pid()", []) not in (None, pid)
