"""`balance.low`: told once each time that what is available falls below the threshold."""

import threading
from collections.abc import Iterator
from typing import Any

import orjson
import pytest

from gateway.analytics import low_balance
from gateway.billing.prices import NANO_PER_USD
from models import ids
from models.ids import Prefix
from models.session import transaction
from tests.integration.ledger_world import Ledger, opened
from tests.integration.web_world import Customer, Web

THRESHOLD = 5 * NANO_PER_USD
ENDPOINT = {"name": "money", "url": "http://127.0.0.1:9/", "event_types": ["balance.low"]}


def told(web: Web) -> list[dict[str, Any]]:
    """The data of every event, the oldest first."""
    return web.column("SELECT data FROM events WHERE type = 'balance.low' ORDER BY id")


def set_threshold(web: Web, customer: Customer, nanos: int | None) -> None:
    with transaction(web.engine) as session:
        low_balance.set_threshold(session, customer.account_id, nanos)


def debit(web: Web, customer: Customer, nanos: int) -> None:
    """Takes so much, or gives it back; the books are not looked at here."""
    with web.engine.begin() as connection:
        connection.exec_driver_sql(
            "UPDATE balances SET debits_nanos = debits_nanos + %s WHERE account_id = %s",
            (nanos, customer.account_id),
        )


def test_a_balance_is_told_low_once_a_crossing(web: Web, customer: Customer) -> None:
    web.client(customer).post("/v1/webhook_endpoints", json=ENDPOINT)
    set_threshold(web, customer, THRESHOLD)
    debit(web, customer, THRESHOLD)
    assert (low_balance.tell(web.engine), told(web)) == (0, [])
    debit(web, customer, 1)
    assert [low_balance.tell(web.engine) for _ in range(3)] == [1, 0, 0]
    debit(web, customer, 1)
    assert low_balance.tell(web.engine) == 0
    assert told(web) == [
        {
            "object": "balance",
            "available_usd": "4.999999999",
            "held_usd": "0",
            "threshold_usd": "5",
        }
    ]
    debit(web, customer, -2)
    assert low_balance.tell(web.engine) == 0
    debit(web, customer, 3 * NANO_PER_USD)
    assert [low_balance.tell(web.engine) for _ in range(2)] == [1, 0]
    assert [each["available_usd"] for each in told(web)] == ["4.999999999", "2"]


def test_what_is_held_counts_as_gone(web: Web, customer: Customer) -> None:
    web.client(customer).post("/v1/webhook_endpoints", json=ENDPOINT)
    set_threshold(web, customer, 10 * NANO_PER_USD)
    job_id = web.submit(customer)
    assert low_balance.tell(web.engine) == 1
    (held,) = web.column("SELECT amount_nanos FROM holds WHERE id = :id", id=job_id)
    assert told(web)[0]["held_usd"] == f"{held / NANO_PER_USD:.9f}".rstrip("0")


def test_only_accounts_with_a_threshold_and_an_endpoint_are_told(web: Web) -> None:
    for threshold in (None, THRESHOLD):
        customer = web.customer(credit_usd=1)
        set_threshold(web, customer, threshold)
        if threshold is None:
            web.client(customer).post("/v1/webhook_endpoints", json=ENDPOINT)
    assert (low_balance.tell(web.engine), told(web)) == (0, [])


def test_a_threshold_that_is_moved_or_taken_away_holds_from_the_next_look(
    web: Web, customer: Customer
) -> None:
    web.client(customer).post("/v1/webhook_endpoints", json=ENDPOINT)
    set_threshold(web, customer, THRESHOLD)
    assert low_balance.tell(web.engine) == 0
    set_threshold(web, customer, 11 * NANO_PER_USD)
    assert web.client(customer).get("/v1/balance").get_json()["low_balance_usd"] == "11"
    assert low_balance.tell(web.engine) == 1
    set_threshold(web, customer, None)
    set_threshold(web, customer, 12 * NANO_PER_USD)
    assert low_balance.tell(web.engine) == 1


def test_an_endpoint_can_be_tested_with_a_sample(web: Web, customer: Customer) -> None:
    client = web.client(customer)
    assert "balance.low" in client.get("/v1/webhook_event_types").get_json()["data"]
    made = client.post("/v1/webhook_endpoints", json=ENDPOINT).get_json()
    tried = client.post(
        f"/v1/webhook_endpoints/{made['id']}/test", json={"event_type": "balance.low"}
    )
    # Nobody listens there.
    assert tried.status_code in (200, 502)


def test_an_operator_sets_the_threshold(web: Web, customer: Customer) -> None:
    account_id = ids.show(Prefix.ACCOUNT, customer.account_id)
    runner = web.app.test_cli_runner()
    result = runner.invoke(args=["accounts", "threshold", account_id, "2.5", "--json"])
    assert orjson.loads(result.output) == {"account_id": account_id, "low_balance_usd": "2.5"}
    assert web.column("SELECT threshold_nanos FROM balance_thresholds") == [2_500_000_000]
    runner.invoke(args=["accounts", "threshold", account_id])
    assert web.count("balance_thresholds") == 0
    unknown = ids.show(Prefix.ACCOUNT, ids.new())
    assert runner.invoke(args=["accounts", "threshold", unknown, "1"]).exit_code == 1
    actions = web.column("SELECT action FROM audit_log ORDER BY id")
    assert actions == ["account.threshold_set"] * 2


@pytest.fixture
def ledger(database_url: str) -> Iterator[Ledger]:
    with opened(database_url) as ledger:
        yield ledger


def test_of_looks_at_the_same_time_one_tells(ledger: Ledger) -> None:
    accounts = [ledger.account(100) for _ in range(20)]
    with transaction(ledger.engine) as session:
        for account_id in accounts:
            low_balance.set_threshold(session, account_id, 200)
            session.connection().exec_driver_sql(
                "INSERT INTO webhook_endpoints (id, account_id, name, url, event_types, secret, "
                "secret_hint) VALUES (%s, %s, 'n', 'http://127.0.0.1:9/', '{balance.low}', %s, '')",
                (ids.new(), account_id, b"sealed"),
            )
    counts: list[int] = []
    looks = [
        threading.Thread(target=lambda: counts.append(low_balance.tell(ledger.engine)))
        for _ in range(6)
    ]
    for look in looks:
        look.start()
    for look in looks:
        look.join(30)
    assert sorted(counts) == [0, 0, 0, 0, 0, 20]
