"""Usage and costs: exact sums of what was settled, by any of their dimensions."""

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from gateway.access import keys
from gateway.billing import suspense
from gateway.billing.pricing import amounts
from gateway.billing.suspense import Finding
from gateway.catalogue.rates import PriceSnapshot
from gateway.catalogue.usage import Usage
from models import ids
from models.ids import Prefix
from models.session import transaction
from models.states import JobStatus
from tests.integration.web_world import CHAT, CHAT_BODY, Customer, Web, error_of
from tests.integration.widget_world import ask, made


def report(web: Web, customer: Customer, name: str, query: str = "") -> dict[str, Any]:
    response = web.client(customer).get(f"/v1/{name}?{query}")
    assert response.status_code == 200, response.text
    read: dict[str, Any] = response.get_json()
    return read


def today() -> date:
    return datetime.now(UTC).date()


def two_jobs_and_a_call(web: Web, customer: Customer) -> None:
    for _ in range(2):
        web.end(web.submit(customer))
    web.end(web.submit(customer), JobStatus.FAILED)
    web.client(customer).post(CHAT, json=CHAT_BODY)
    web.settled()


@pytest.mark.promise("M32")
def test_costs_are_what_was_paid_and_what_it_would_have_cost(web: Web, customer: Customer) -> None:
    two_jobs_and_a_call(web, customer)
    told = report(web, customer, "costs", "group_by=lane,surface")
    assert (told["object"], told["group_by"]) == ("costs", ["lane", "surface"])
    assert (told["start"], told["end"]) == (str(today() - timedelta(days=29)), str(today()))
    batch, standard = told["data"]
    nothing_else = {"day": None, "model": None, "provider": None, "key_id": None}
    # Ten tokens of output each, at $0.30 a million where the list says $0.60.
    assert batch == {
        **nothing_else,
        "lane": "batch",
        "surface": "async",
        "calls": 2,
        "unpriced_calls": 0,
        "paid_usd": "0.000006",
        "list_usd": "0.000012",
        "savings_usd": "0.000006",
    }
    assert (standard["lane"], standard["surface"], standard["calls"]) == ("standard", "sync", 1)
    assert standard["savings_usd"] == "0"
    charges = web.client(customer).get("/v1/transactions?kind=charge").get_json()["data"]
    assert Decimal(told["total"]["paid_usd"]) == -sum(
        Decimal(each["amount_usd"]) for each in charges
    )
    assert told["total"]["calls"] == 3


@pytest.mark.promise("M31")
def test_usage_counts_every_token_once(web: Web, customer: Customer) -> None:
    two_jobs_and_a_call(web, customer)
    told = report(web, customer, "usage")
    (bucket,) = told["data"]
    (row,) = web.column(
        "SELECT jsonb_build_object('input', sum(input_uncached + cache_read), "
        "'output', sum(output)) FROM settlements"
    )
    assert bucket["day"] == str(today())
    assert (bucket["calls"], bucket["unpriced_calls"]) == (3, 0)
    assert (bucket["input_tokens"], bucket["output_tokens"]) == (row["input"], row["output"])
    assert row["output"] > 20
    assert {name: bucket[name] for name in told["total"]} == told["total"]


def test_sums_are_told_apart_by_key_and_filtered_by_it(web: Web, customer: Customer) -> None:
    with transaction(web.engine) as session:
        other = keys.create(session, web.state.house.digest, customer.account_id)
    second = Customer(customer.account_id, other.id, other.text)
    web.end(web.submit(customer))
    for _ in range(2):
        web.end(web.submit(second))
    shown = {each: ids.show(Prefix.KEY, each) for each in (customer.key_id, other.id)}
    data = report(web, customer, "costs", "group_by=key")["data"]
    assert {each["key_id"]: each["calls"] for each in data} == {
        shown[customer.key_id]: 1,
        shown[other.id]: 2,
    }
    only = report(web, customer, "costs", f"group_by=model&key_id={shown[other.id]}")
    assert [(each["model"], each["calls"]) for each in only["data"]] == [("gpt-4o-mini", 2)]
    assert report(web, customer, "costs", "model=gpt-4o")["data"] == []


def test_what_a_page_was_charged_is_under_its_publishable_key(web: Web, customer: Customer) -> None:
    assert ask(web, made(web, customer)).status_code == 200
    web.settled()
    (bucket,) = report(web, customer, "usage", "group_by=key")["data"]
    assert bucket["key_id"].startswith("wkey_")
    query = f"key_id={bucket['key_id']}"
    (charge,) = web.client(customer).get(f"/v1/transactions?{query}").get_json()["data"]
    assert charge["key_id"] == bucket["key_id"]
    assert report(web, customer, "usage", query)["total"]["calls"] == 1


@pytest.mark.promise("M32")
def test_days_are_told_newest_first_and_only_those_that_are_asked_for(
    web: Web, customer: Customer
) -> None:
    web.end(web.submit(customer))
    with web.engine.begin() as connection:
        for days in (1, 40):
            connection.exec_driver_sql(
                "INSERT INTO daily_usage SELECT account_id, day - %s, key_id, provider, model, "
                "lane, surface, calls, unpriced_calls, input_uncached, cache_read, cache_write, "
                "output, reasoning, held_nanos, paid_nanos, list_nanos FROM daily_usage "
                "WHERE day = (now() AT TIME ZONE 'UTC')::date",
                (days,),
            )
    usual = report(web, customer, "usage")
    assert [each["day"] for each in usual["data"]] == [
        str(today()),
        str(today() - timedelta(days=1)),
    ]
    yesterday = str(today() - timedelta(days=1))
    one = report(web, customer, "usage", f"start={yesterday}&end={yesterday}&group_by=")
    assert (one["group_by"], [each["calls"] for each in one["data"]]) == ([], [1])
    long = report(web, customer, "usage", f"start={today() - timedelta(days=40)}")
    assert long["total"]["calls"] == 3


def test_a_call_without_known_usage_is_counted_and_joins_its_day_when_it_is_known(
    web: Web, customer: Customer
) -> None:
    job_id = web.submit(customer)
    web.end(job_id, unpriced=True)
    before = report(web, customer, "costs")["total"]
    assert (before["calls"], before["unpriced_calls"], before["paid_usd"]) == (0, 1, "0")
    with web.engine.begin() as connection:
        for table in ("settlements", "holds", "transfers"):
            connection.exec_driver_sql(
                f"UPDATE {table} SET created_at = created_at - interval '2 days'"
            )
        connection.exec_driver_sql("UPDATE daily_usage SET day = day - 2")
    (snapshot,) = web.column("SELECT snapshot FROM prices")
    used = Usage(output=10)
    found = Finding(job_id, used, amounts(used, PriceSnapshot.from_json(snapshot), "batch", 0))
    with transaction(web.engine) as session:
        assert suspense.charge(session, found)
    (bucket,) = report(web, customer, "costs")["data"]
    assert bucket["day"] == str(today() - timedelta(days=2))
    assert (bucket["calls"], bucket["unpriced_calls"]) == (1, 0)
    assert (bucket["paid_usd"], bucket["list_usd"]) == ("0.000003", "0.000006")
    assert web.count("daily_usage") == 1


def test_nobody_sees_anothers_usage(web: Web, customer: Customer) -> None:
    web.end(web.submit(customer))
    key = ids.show(Prefix.KEY, customer.key_id)
    stranger = web.customer()
    for query in ("", f"key_id={key}", "group_by="):
        for name in ("usage", "costs"):
            assert report(web, stranger, name, query)["total"]["calls"] == 0


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("start=2026-13-01", "start"),
        ("end=today", "end"),
        ("start=2026-02-01&end=2026-01-01", "start"),
        ("start=2024-01-01&end=2026-01-01", "start"),
        ("group_by=colour", "group_by"),
        ("key_id=1", "key_id"),
        ("model=%00", "model"),
    ],
)
def test_a_bad_parameter_is_named(web: Web, customer: Customer, query: str, param: str) -> None:
    response = web.client(customer).get(f"/v1/usage?{query}")
    assert (response.status_code, error_of(response)["param"]) == (400, param)


def test_the_day_of_a_sum_is_in_the_books_that_are_verified(web: Web, customer: Customer) -> None:
    two_jobs_and_a_call(web, customer)
    web.assert_books_are_clean()
