"""`dry_run`: what a call would cost, in which lanes, and how long it would take; and no more."""

from typing import Any

import pytest

from gateway.billing.prices import NANO_PER_USD, parse_usd
from models import ids
from tests.integration.web_world import (
    CHAT,
    CHAT_BODY,
    EMBEDDING_BODY,
    EMBEDDINGS,
    Customer,
    Web,
    error_of,
)
from tests.integration.widget_world import ask, flat, made

HELD_OR_COUNTED = ("holds", "jobs", "key_spending", "transfers", "settlements", "request_log")


def quote(web: Web, customer: Customer, path: str = CHAT, **fields: Any) -> dict[str, Any]:
    response = web.client(customer).post(path, json={**CHAT_BODY, "dry_run": True, **fields})
    assert response.status_code == 200, response.text
    told: dict[str, Any] = response.get_json()
    assert told["object"] == "quote"
    return told


def past_batches(web: Web, *minutes: int) -> None:
    """Batches of OpenAI that took so long, each from being cut to being taken in."""
    with web.engine.begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO lanes (provider, credential, endpoint, model) "
            "VALUES ('openai', 'house', '/v1/chat/completions', 'gpt-4o-mini')"
        )
        for each in minutes:
            connection.exec_driver_sql(
                "INSERT INTO provider_batches (id, lane_id, status, request_count, body_bytes, "
                "external_id, created_at, submitted_at, ended_at, done_at) "
                "SELECT %s, id, 'done', 1, 1, %s, now() - make_interval(mins => %s), "
                "now() - interval '1 s', now(), now() FROM lanes",
                (ids.new(), ids.new().hex, each),
            )


def test_a_quote_tells_both_lanes_and_does_nothing(web: Web) -> None:
    penniless = web.customer(credit_usd=0)
    past_batches(web, *range(10, 31))
    told = quote(web, penniless, max_tokens=1_000_000, prefer_async=True, deadline="6h")
    standard, batch = told["lanes"]["standard"], told["lanes"]["batch"]
    # A token in at $0.15 a million, and a million out at $0.60.
    assert standard == {
        "open": True,
        "provider": "openai",
        "ceiling_usd": "0.60000015",
        "expected_usd": "0.300000075",
    }
    window = web.settings.batch_window_seconds
    assert batch == {
        "open": True,
        "reason": None,
        "provider": "openai",
        "ceiling_usd": "0.300000075",
        "expected_usd": "0.150000038",
        "discount_percent": 50,
        "expected_completion": {
            "p50_seconds": 20 * 60 + window,
            "p90_seconds": 28 * 60 + window,
            "measured_batches": 21,
        },
    }
    assert (told["lane"], told["would_be_held_usd"]) == ("batch", batch["ceiling_usd"])
    assert told["balance"] == {"available_usd": "0", "sufficient": False}
    web.settled()
    assert {table: web.count(table) for table in HELD_OR_COUNTED} == dict.fromkeys(
        HELD_OR_COUNTED, 0
    )


def test_a_quote_is_what_the_same_call_is_then_held_at(web: Web, customer: Customer) -> None:
    fields: dict[str, Any] = {"max_tokens": 1_000, "prefer_async": True}
    told = quote(web, customer, **fields)
    job_id = web.submit(customer, **fields)
    held = web.column("SELECT amount_nanos FROM holds WHERE id = :id", id=job_id)
    assert held == [parse_usd(told["would_be_held_usd"])]
    assert told["balance"] == {"available_usd": "10", "sufficient": True}


def test_what_is_expected_follows_what_such_calls_have_cost_their_account(
    web: Web, customer: Customer
) -> None:
    assert quote(web, customer)["measured_calls"] == 0
    jobs = [web.submit(customer, max_tokens=1_000) for _ in range(3)]
    for job_id in jobs[:2]:
        web.end(job_id)
    told = quote(web, customer, max_tokens=1_000)
    ceiling, expected = (
        parse_usd(told["lanes"]["batch"][name]) for name in ("ceiling_usd", "expected_usd")
    )
    # Ten tokens of output where a thousand and one token of input were held.
    assert told["measured_calls"] == 2
    assert expected == -(-ceiling * 3_000 // ceiling)
    assert quote(web, web.customer(), max_tokens=1_000)["measured_calls"] == 0
    assert quote(web, customer, model="gpt-4o")["measured_calls"] == 0


@pytest.mark.parametrize(
    ("fields", "reason", "lane"),
    [
        ({"prefer_async": True, "stream": True}, "stream", "standard"),
        ({"prefer_async": True, "deadline": 5}, "deadline", "standard"),
        ({"require_async": True, "deadline": 5}, "deadline", None),
        ({"stream": True}, "stream", "standard"),
        ({}, None, "standard"),
    ],
)
def test_a_lane_that_is_not_open_says_why(
    web: Web,
    customer: Customer,
    fields: dict[str, Any],
    reason: str | None,
    lane: str | None,
) -> None:
    told = quote(web, customer, **fields)
    batch = told["lanes"]["batch"]
    assert (batch["open"], batch["reason"], told["lane"]) == (reason is None, reason, lane)
    assert batch["discount_percent"] == 50
    held = "0" if lane is None else told["lanes"]["standard"]["ceiling_usd"]
    assert told["would_be_held_usd"] == held


def test_who_waits_for_the_answer_is_quoted_the_standard_lane(web: Web, customer: Customer) -> None:
    client = web.client(customer, prefer="respond-async, wait=5")
    told = client.post(CHAT, json={**CHAT_BODY, "dry_run": True}).get_json()
    assert (told["lane"], told["lanes"]["batch"]["open"]) == ("standard", True)


def test_embeddings_and_the_other_surface_are_quoted_too(web: Web, customer: Customer) -> None:
    client = web.client(customer)
    vectors = client.post(EMBEDDINGS, json={**EMBEDDING_BODY, "dry_run": True}).get_json()
    assert vectors["lanes"]["standard"]["ceiling_usd"] == "0.00000002"
    assert vectors["lanes"]["batch"]["open"]
    for path, body in (("/ai/chat", CHAT_BODY), ("/ai/embeddings", EMBEDDING_BODY)):
        told = client.post(path, json={**body, "dry_run": True})
        assert (told.status_code, told.get_json()["object"]) == (200, "quote")


def test_a_visitor_of_a_page_is_told_nothing_of_its_owners_money(
    web: Web, customer: Customer
) -> None:
    response = ask(web, made(web, customer), {**CHAT_BODY, "dry_run": True})
    assert flat(response) == (403, "FORBIDDEN")


def test_what_could_not_be_called_is_not_quoted(web: Web, customer: Customer) -> None:
    client = web.client(customer)
    unknown = client.post(CHAT, json={**CHAT_BODY, "model": "nobody/knows", "dry_run": True})
    assert (unknown.status_code, error_of(unknown)["param"]) == (404, "model")
    wrong = client.post(CHAT, json={**CHAT_BODY, "messages": [], "dry_run": True})
    assert (wrong.status_code, error_of(wrong)["param"]) == (400, "messages")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("prefer_async", [False, True])
def test_no_call_is_made_that_may_cost_more_than_its_caller_allows(
    web: Web, customer: Customer, stream: bool, prefer_async: bool
) -> None:
    body = {**CHAT_BODY, "max_tokens": 1_000, "stream": stream, "prefer_async": prefer_async}
    ceiling = quote(web, customer, **body)["would_be_held_usd"]
    less = f"{(parse_usd(ceiling) - 1) / NANO_PER_USD:.9f}"
    client = web.client(customer)
    refused = client.post(CHAT, json={**body, "max_cost_usd": less})
    assert (refused.status_code, error_of(refused)["param"]) == (422, "max_cost_usd")
    web.settled()
    assert (web.count("holds"), web.count("jobs")) == (0, 0)
    made = client.post(CHAT, json={**body, "max_cost_usd": ceiling})
    assert made.status_code == (202 if prefer_async and not stream else 200)
    made.close()
