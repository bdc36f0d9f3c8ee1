"""The balance and the statement: exact, complete, and of one account only."""

import csv
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from io import StringIO
from typing import Any

import pytest

from gateway.billing import ledger, suspense
from gateway.billing.prices import NANO_PER_USD, parse_usd
from models import ids
from models.ids import Prefix
from models.session import transaction
from tests.integration.web_world import CHAT, CHAT_BODY, Customer, Web, error_of
from web import money

CHARGED = "0.000003"


def deposit(web: Web, customer: Customer, nanos: int, note: str = "more") -> None:
    with transaction(web.engine) as session:
        ledger.deposit(session, customer.account_id, nanos, note)


def get(web: Web, customer: Customer, path: str) -> dict[str, Any]:
    response = web.client(customer).get(path)
    assert response.status_code == 200, response.text
    read: dict[str, Any] = response.get_json()
    return read


def statement(web: Web, customer: Customer, query: str = "") -> list[dict[str, Any]]:
    data: list[dict[str, Any]] = get(web, customer, f"/v1/transactions?{query}")["data"]
    return data


def csv_rows(web: Web, customer: Customer, query: str = "format=csv") -> list[dict[str, str]]:
    response = web.client(customer).get(f"/v1/transactions?{query}")
    assert (response.status_code, response.mimetype) == (200, "text/csv")
    return list(csv.DictReader(StringIO(response.text)))


def test_the_balance_tells_what_is_there_what_is_held_and_what_was_charged(
    web: Web, customer: Customer
) -> None:
    first = web.submit(customer, max_tokens=1_000)
    web.end(first)
    web.submit(customer, max_tokens=1_000)
    (held,) = web.column("SELECT amount_nanos FROM holds WHERE status = 'open'")
    told = get(web, customer, "/v1/balance")
    caps = told.pop("key")
    available = 10 * NANO_PER_USD - 3_000 - held
    assert told == {
        "object": "balance",
        "available_usd": str(Decimal(available) / NANO_PER_USD),
        "held_usd": str(Decimal(held) / NANO_PER_USD),
        "settled": {"today_usd": CHARGED, "this_month_usd": CHARGED},
        "low_balance_usd": None,
    }
    assert caps["id"] == ids.show(Prefix.KEY, customer.key_id)
    assert caps["daily"]["limit_usd"] == "100"
    assert parse_usd(caps["daily"]["left_usd"]) == 100 * NANO_PER_USD - 3_000 - held
    assert parse_usd(caps["monthly"]["left_usd"]) == 1_000 * NANO_PER_USD - 3_000 - held
    assert 0 < caps["daily"]["resets_in_seconds"] <= 86_400


def test_yesterdays_charges_are_not_todays(web: Web, customer: Customer) -> None:
    web.end(web.submit(customer))
    with web.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE daily_usage SET day = day - 40")
    assert get(web, customer, "/v1/balance")["settled"] == {"today_usd": "0", "this_month_usd": "0"}


def test_a_cap_that_is_used_up_leaves_nothing(web: Web) -> None:
    customer = web.customer(daily_nanos=500_000_000)
    with web.engine.begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO key_spending VALUES (%s, 'day', (now() AT TIME ZONE 'UTC')::date, %s)",
            (customer.key_id, 600_000_000),
        )
    daily = get(web, customer, "/v1/balance")["key"]["daily"]
    assert (daily["limit_usd"], daily["left_usd"]) == ("0.5", "0")


def test_the_statement_holds_every_amount_and_the_balance_after_it(
    web: Web, customer: Customer
) -> None:
    job_id = web.submit(customer)
    web.end(job_id)
    call = web.client(customer).post(CHAT, json=CHAT_BODY).get_json()
    web.settled()
    deposit(web, customer, 5, "a gift")
    gift, called, job, opening = statement(web, customer)
    assert (gift["kind"], gift["amount_usd"], gift["note"]) == ("deposit", "0.000000005", "a gift")
    assert gift["job_id"] is gift["completion_id"] is gift["key_id"] is gift["model"] is None
    assert job == {
        "id": job["id"],
        "object": "transaction",
        "kind": "charge",
        "amount_usd": f"-{CHARGED}",
        "balance_usd": "9.999997",
        "created_at": job["created_at"],
        "job_id": ids.show(Prefix.JOB, job_id),
        "completion_id": ids.show(Prefix.COMPLETION, job_id),
        "key_id": ids.show(Prefix.KEY, customer.key_id),
        "provider": "openai",
        "model": "gpt-4o-mini",
        "lane": "batch",
        "note": None,
    }
    assert (called["job_id"], called["completion_id"]) == (None, call["id"])
    assert called["lane"] == "standard"
    assert (opening["amount_usd"], opening["balance_usd"]) == ("10", "10")
    amounts = [Decimal(each["amount_usd"]) for each in (opening, job, called, gift)]
    balances = [Decimal(each["balance_usd"]) for each in (opening, job, called, gift)]
    assert balances == [sum(amounts[: n + 1]) for n in range(4)]
    assert str(balances[-1]) == get(web, customer, "/v1/balance")["available_usd"]


def test_what_has_no_price_shows_as_suspense_and_when_it_is_given_back(
    web: Web, customer: Customer
) -> None:
    job_id = web.submit(customer)
    web.end(job_id, unpriced=True)
    with transaction(web.engine) as session:
        suspense.give_back(session, [job_id])
    back, kept, opening = statement(web, customer)
    assert (kept["kind"], back["kind"]) == ("suspense", "suspense_return")
    assert Decimal(kept["amount_usd"]) == -Decimal(back["amount_usd"]) < 0
    assert back["balance_usd"] == opening["balance_usd"] == "10"
    assert {kept["job_id"], back["job_id"]} == {ids.show(Prefix.JOB, job_id)}


@pytest.mark.parametrize("order", ["asc", "desc"])
def test_pages_add_up_to_the_whole_statement(web: Web, customer: Customer, order: str) -> None:
    for nanos in range(1, 8):
        deposit(web, customer, nanos)
    whole = statement(web, customer, f"order={order}&limit=100")
    assert len(whole) == 8
    pages: list[dict[str, Any]] = []
    query = f"order={order}&limit=3"
    while True:
        page = get(web, customer, f"/v1/transactions?{query}")
        pages += page["data"]
        if not page["has_more"]:
            break
        query = f"order={order}&limit=3&after={page['last_id']}"
    assert pages == whole
    oldest_first = whole if order == "asc" else whole[::-1]
    assert [each["amount_usd"] for each in oldest_first[:3]] == ["10", "0.000000001", "0.000000002"]
    assert oldest_first[-1]["balance_usd"] == "10.000000028"


def test_filters_leave_out_the_rest_and_balances_that_would_not_add_up(
    web: Web, customer: Customer
) -> None:
    web.end(web.submit(customer))
    deposit(web, customer, 5)
    (charge,) = statement(web, customer, "kind=charge")
    assert (charge["kind"], charge["balance_usd"]) == ("charge", None)
    key = ids.show(Prefix.KEY, customer.key_id)
    assert [each["id"] for each in statement(web, customer, f"key_id={key}")] == [charge["id"]]
    other = ids.show(Prefix.KEY, ids.new())
    assert statement(web, customer, f"key_id={other}") == []
    deposits = statement(web, customer, "kind=deposit,suspense")
    assert [each["kind"] for each in deposits] == ["deposit", "deposit"]


def test_a_time_range_is_by_the_time_that_is_shown_and_keeps_its_balances(
    web: Web, customer: Customer
) -> None:
    for nanos in (1, 2, 3):
        deposit(web, customer, nanos)
    now = datetime.now(UTC).replace(microsecond=0)
    with web.engine.begin() as connection:
        for days, nanos in ((30, 10 * NANO_PER_USD), (20, 1), (10, 2), (0, 3)):
            at = now - timedelta(days=days)
            connection.exec_driver_sql(
                "UPDATE transfers SET created_at = %s, id = %s WHERE amount_nanos = %s",
                (at, ids.floor(at), nanos),
            )
    begin, end = now - timedelta(days=20), now - timedelta(days=10)
    query = f"since={begin.isoformat()}&until={int(end.timestamp())}"
    (only,) = statement(web, customer, query)
    assert (only["amount_usd"], only["balance_usd"]) == ("0.000000001", "10.000000001")
    later = statement(web, customer, f"since={end.isoformat().replace('+00:00', 'Z')}")
    assert [each["amount_usd"] for each in later] == ["0.000000003", "0.000000002"]


def test_the_statement_is_streamed_as_csv(
    web: Web, customer: Customer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(money, "ROWS_AT_ONCE", 3)
    for _ in range(4):
        web.end(web.submit(customer))
    deposit(web, customer, 5, 'with "quotes", and a comma')
    rows = csv_rows(web, customer)
    pages = statement(web, customer, "order=asc&limit=100")
    assert [row["id"] for row in rows] == [each["id"] for each in pages]
    for name in ("amount_usd", "balance_usd", "kind", "job_id", "key_id", "model", "note"):
        assert [row[name] for row in rows] == [each[name] or "" for each in pages], name
    assert rows[-1]["note"] == 'with "quotes", and a comma'
    read = [datetime.fromisoformat(row["created_at"]) for row in rows]
    assert [int(at.timestamp()) for at in read] == [each["created_at"] for each in pages]
    charges = csv_rows(web, customer, "format=csv&kind=charge")
    assert [(row["kind"], row["balance_usd"]) for row in charges] == [("charge", "")] * 4
    accepting = web.client(customer, accept="text/csv").get("/v1/transactions")
    assert accepting.mimetype == "text/csv"


def test_nobody_sees_anothers_money(web: Web, customer: Customer) -> None:
    web.end(web.submit(customer))
    newest = statement(web, customer)[0]["id"]
    stranger = web.customer(credit_usd=0)
    assert statement(web, stranger) == []
    assert csv_rows(web, stranger) == []
    key = ids.show(Prefix.KEY, customer.key_id)
    assert statement(web, stranger, f"key_id={key}") == []
    response = web.client(stranger).get(f"/v1/transactions?after={newest}")
    assert (response.status_code, error_of(response)["param"]) == (404, "after")
    assert get(web, stranger, "/v1/balance")["settled"]["this_month_usd"] == "0"


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("kind=gift", "kind"),
        ("kind=overrun_loss", "kind"),
        ("key_id=x", "key_id"),
        ("since=yesterday", "since"),
        ("since=2026-11-22T10:00:00", "since"),
        ("until=0001-01-01T00:00:00Z", "until"),
        ("until=99999999999", "until"),
        ("order=up", "order"),
        ("format=pdf", "format"),
        ("after=txn_1", "after"),
        ("limit=0", "limit"),
    ],
)
def test_a_bad_parameter_is_named(web: Web, customer: Customer, query: str, param: str) -> None:
    response = web.client(customer).get(f"/v1/transactions?{query}")
    assert (response.status_code, error_of(response)["param"]) == (400, param)
