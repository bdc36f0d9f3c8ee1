"""Spend caps: exact to the nano-USD, whoever spends at the same time."""

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from uuid import UUID

import pytest

from gateway.billing import audit, raising
from gateway.billing.ledger import HoldRequest
from gateway.billing.spending import Refusal, seconds_left
from models import ids
from models.accounts import ApiKey, Period
from models.session import transaction
from tests.integration.ledger_world import Ledger, costing, opened
from tests.integration.web_world import (
    ASYNC_BODY,
    CHAT,
    CHAT_BODY,
    Web,
    at_once,
    error_of,
)

PLENTY = 10**9
LATER = datetime(2100, 1, 1, tzinfo=UTC)


@pytest.fixture
def books(database_url: str) -> Iterator[Ledger]:
    with opened(database_url) as books:
        yield books


def key_of(books: Ledger, account_id: UUID, daily: int | None, monthly: int | None) -> UUID:
    key_id = ids.new()
    with transaction(books.engine) as session:
        session.add(
            ApiKey(
                id=key_id,
                account_id=account_id,
                digest=key_id.bytes,
                preview="",
                name="",
                daily_nanos=daily,
                monthly_nanos=monthly,
            )
        )
    return key_id


def request(account_id: UUID, key_id: UUID, nanos: int) -> HoldRequest:
    return HoldRequest(ids.new(), account_id, key_id, nanos, LATER)


def refused(books: Ledger, *requests: HoldRequest) -> list[Refusal | None]:
    found = books.refused(*requests)
    return [found.get(each.id) for each in requests]


def spent(books: Ledger, key_id: UUID) -> dict[str, int]:
    rows = books.rows(
        "SELECT period, amount_nanos FROM key_spending WHERE key_id = :key_id", key_id=key_id
    )
    return {row.period: row.amount_nanos for row in rows}


def test_a_cap_is_reached_exactly_and_each_request_counts_for_itself(books: Ledger) -> None:
    account = books.account(PLENTY)
    daily, monthly = (
        key_of(books, account, 100, None),
        key_of(books, account, None, 50),
    )
    assert refused(
        books,
        request(account, daily, 60),
        request(account, daily, 41),
        request(account, monthly, 51),
        request(account, daily, 40),
        request(account, monthly, 50),
        request(account, daily, 1),
    ) == [None, Refusal.DAILY_CAP, Refusal.MONTHLY_CAP, None, None, Refusal.DAILY_CAP]
    assert spent(books, daily) == {"day": 100, "month": 100}
    assert spent(books, monthly) == {"day": 50, "month": 50}
    assert books.money(account).held == 150


def test_a_key_without_caps_has_those_of_the_house(books: Ledger) -> None:
    usd = 10**9
    account = books.account(5000 * usd)
    key = key_of(books, account, None, None)
    assert refused(books, request(account, key, 100 * usd + 1)) == [Refusal.DAILY_CAP]
    wide = key_of(books, account, 5000 * usd, None)
    assert refused(books, request(account, wide, 1000 * usd + 1)) == [Refusal.MONTHLY_CAP]
    assert refused(books, request(account, wide, 1000 * usd)) == [None]


def test_what_the_balance_cannot_cover_does_not_count(books: Ledger) -> None:
    account = books.account(30)
    key = key_of(books, account, 100, 100)
    assert refused(books, request(account, key, 31), request(account, key, 30)) == [
        Refusal.FUNDS,
        None,
    ]
    assert spent(books, key) == {"day": 30, "month": 30}


def test_a_settlement_leaves_what_was_paid_and_a_release_nothing(books: Ledger) -> None:
    account = books.account(PLENTY)
    key = key_of(books, account, 100, 100)
    charged, released, unpriced = (request(account, key, 30) for _ in range(3))
    assert refused(books, charged, released, unpriced) == [None] * 3
    books.resolve([costing(charged.id, 11), costing(unpriced.id, None)], [released.id])
    assert spent(books, key) == {"day": 41, "month": 41}
    assert refused(books, request(account, key, 60)) == [Refusal.DAILY_CAP]
    assert refused(books, request(account, key, 59)) == [None]
    assert audit.verify(books.engine).violations == []


def test_an_overrun_counts_as_far_as_it_was_paid(books: Ledger) -> None:
    account = books.account(40)
    key = key_of(books, account, 35, 35)
    call = request(account, key, 10)
    assert refused(books, call) == [None]
    books.settle(costing(call.id, 110))
    assert spent(books, key) == {"day": 40, "month": 40}
    assert refused(books, request(account, key, 0)) == [Refusal.DAILY_CAP]


def test_a_call_counts_on_the_day_on_which_it_was_held(books: Ledger) -> None:
    account = books.account(PLENTY)
    key = key_of(books, account, 100, None)
    call = request(account, key, 100)
    assert refused(books, call) == [None]
    books.run("UPDATE holds SET held_on = held_on - 40")
    books.run(
        "UPDATE key_spending SET starts_on = date_trunc(period, held_on::timestamp) FROM holds"
    )
    assert refused(books, request(account, key, 100)) == [None]
    books.settle(costing(call.id, 11))
    rows = books.rows("SELECT period, amount_nanos FROM key_spending ORDER BY starts_on, period")
    assert sorted(tuple(row) for row in rows) == [
        ("day", 11),
        ("day", 100),
        ("month", 11),
        ("month", 100),
    ]


def test_a_hold_is_not_raised_beyond_a_cap(books: Ledger) -> None:
    account = books.account(PLENTY)
    key = key_of(books, account, 100, None)
    # Ids made in one millisecond follow no order, and holds are raised by id.
    asked = (request(account, key, 20) for _ in range(2))
    first, second = sorted(asked, key=lambda each: each.id)
    assert refused(books, first, second) == [None, None]
    with transaction(books.engine) as session:
        assert raising.raise_holds(session, {first.id: 80, second.id: 21}) == {first.id}
    assert spent(books, key) == {"day": 100, "month": 100}


def test_two_hundred_holds_at_once_never_exceed_the_last_cent(books: Ledger) -> None:
    account = books.account(PLENTY)
    keys = [key_of(books, account, 1000, None), key_of(books, account, None, 700)]
    rng = random.Random(3)

    def spend(number: int) -> None:
        call = request(account, keys[number % 2], rng.choice([11, 22, 33]))
        if books.refused(call) == {}:
            books.resolve([costing(call.id, 11)] if number % 3 else [], [call.id])

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(spend, range(60)))
        holds = [request(account, keys[number % 2], 10) for number in range(200)]
        list(threads.map(books.refused, holds))
    for key, cap in zip(keys, (1000, 700), strict=True):
        assert cap - 10 < max(spent(books, key).values()) <= cap
    assert audit.verify(books.engine).violations == []


@pytest.mark.parametrize(
    ("now", "day", "month"),
    [
        (datetime(2026, 12, 31, 23, 59, 59, 500_000, tzinfo=UTC), 1, 1),
        (datetime(2026, 2, 1, tzinfo=UTC), 86_400, 28 * 86_400),
    ],
)
def test_a_period_ends_at_midnight_utc(now: datetime, day: int, month: int) -> None:
    assert seconds_left(Period.DAY, now) == day
    assert seconds_left(Period.MONTH, now) == month
    elsewhere = now.astimezone(tz=None) + timedelta(0)
    assert seconds_left(Period.DAY, elsewhere) == day


@pytest.mark.parametrize("body", [CHAT_BODY, ASYNC_BODY], ids=["sync", "async"])
def test_a_caller_at_the_cap_is_told_to_come_back_another_day(
    web: Web, body: dict[str, object]
) -> None:
    customer = web.customer(daily_nanos=1)
    answer = web.client(customer).post(CHAT, json=body)
    error = error_of(answer)
    assert (error["code"], error["type"]) == (429, "rate_limit_exceeded")
    assert "daily spend limit" in error["message"]
    assert answer.headers["x-should-retry"] == "false"
    assert 1 <= int(answer.headers["Retry-After"]) <= 86_400
    assert web.count("holds") == web.count("jobs") == 0


def test_calls_and_jobs_at_once_share_one_cap_to_the_last_cent(web: Web) -> None:
    (ceiling, standard) = (web.customer(), web.customer())
    web.submit(ceiling, max_tokens=10)
    (held,) = web.column("SELECT amount_nanos FROM holds")
    capped = web.customer(monthly_nanos=20 * held)
    bodies = [{**ASYNC_BODY, "max_tokens": 10}, {**CHAT_BODY, "max_tokens": 10}] * 100
    client = web.client(capped)
    assert client.get("/v1/models").status_code == 200
    answers = at_once([partial(client.post, CHAT, json=body) for body in bodies])
    web.settled()
    statuses = {answer.status_code for answer in answers}
    # Which path is quicker is left open; that something got in and the rest did not is not.
    assert 429 in statuses
    assert statuses & {200, 202}
    assert statuses <= {200, 202, 429}
    # What a call costs beyond its hold counts, but nothing could have kept it below the cap.
    holds = web.column("SELECT amount_nanos FROM holds WHERE key_id = :id", id=capped.key_id)
    assert sum(holds) <= 20 * held
    assert web.client(standard).post(CHAT, json=CHAT_BODY).status_code == 200
    web.assert_books_are_clean()
