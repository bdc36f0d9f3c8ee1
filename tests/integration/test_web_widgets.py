"""Publishable keys as visitors use them: what they open, what they spend, how they end."""

import re
import time
from functools import partial
from typing import Any

import orjson
import pytest

from gateway.access import widget_keys
from gateway.access.widget_keys import Terms
from gateway.billing.prices import format_usd
from models.session import transaction
from tests.contract.simulator_process import echo
from tests.integration.slow_dialect import CHARGED_NANOS, SlowDialect, served_by
from tests.integration.web_world import Customer, Web, at_once
from tests.integration.widget_world import BODY, CHAT, KEY, ask, flat, made, settings_of
from web.auth import OPEN_ROUTES
from web.fresh import FRESH_SECONDS
from web.pace import Pace

# What a key opens.


def test_a_visitor_is_answered(web: Web, customer: Customer) -> None:
    answer = ask(web, made(web, customer))
    assert answer.status_code == 200
    assert echo("hi") in answer.get_json()["text"]
    assert answer.get_json()["costUsd"] > 0
    web.assert_books_are_clean()


def test_a_visitor_is_answered_piece_by_piece(web: Web, customer: Customer) -> None:
    answer = ask(web, made(web, customer), {**BODY, "stream": True})
    *pieces, last = [
        orjson.loads(event.removeprefix("data: "))
        for event in answer.text.split("\n\n")
        if event.startswith("data: ")
    ]
    assert echo("hi") in "".join(each["delta"]["content"] for each in pieces)
    assert last["done"] is True
    web.assert_books_are_clean()


def test_a_publishable_key_opens_no_other_route(web: Web, customer: Customer) -> None:
    headers = {"Authorization": f"Bearer {made(web, customer)}"}
    before = web.count("widget_keys"), web.count("jobs"), web.count("holds")
    client, tried = web.app.test_client(), set()
    for rule in web.app.url_map.iter_rules():
        path = re.sub(r"<[^>]+>", "x", rule.rule)
        for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"):
            if path in OPEN_ROUTES or (method, path) == ("POST", CHAT):
                continue
            response = client.open(path, method=method, headers=headers, json=dict(BODY))
            assert response.status_code == 403, (method, path)
            if method != "HEAD":
                assert b"A publishable key may only be used for POST /ai/chat." in response.data
            tried.add((method, path))
    assert {("POST", "/v1/chat/completions"), ("POST", "/ai/embeddings"), ("POST", KEY)} <= tried
    assert before == (web.count("widget_keys"), web.count("jobs"), web.count("holds"))


def test_the_other_header_opens_too(web: Web, customer: Customer) -> None:
    headers = {"X-API-Key": made(web, customer)}
    assert web.app.test_client().post(CHAT, json=BODY, headers=headers).status_code == 200


def test_neither_kind_of_key_opens_under_the_others_prefix(web: Web, customer: Customer) -> None:
    publishable, secret = made(web, customer), customer.api_key
    for stranger in (
        "sk-op-" + publishable.removeprefix("pk_"),
        "pk_" + secret.removeprefix("sk-op-"),
        widget_keys.generate(),
        publishable[:-1] + ("0" if publishable[-1] != "0" else "1"),
    ):
        assert flat(ask(web, stranger)) == (401, "UNAUTHORIZED")


@pytest.mark.parametrize(
    ("fields", "headers"),
    [
        ({"prefer_async": True}, {}),
        ({}, {"Prefer": "respond-async"}),
        ({}, {"Prefer": "respond-async, wait=0"}),
        ({}, {"Prefer": "respond-async, wait=5"}),
        ({"prefer_async": True, "stream": True}, {}),
    ],
)
def test_a_visitors_call_never_becomes_a_job(
    web: Web, customer: Customer, fields: dict[str, Any], headers: dict[str, str]
) -> None:
    answer = ask(web, made(web, customer), {**BODY, **fields}, **headers)
    assert (answer.status_code, answer.headers["X-Async-Ineligible"]) == (200, "key")
    assert "Preference-Applied" not in answer.headers
    assert answer.data
    assert web.count("jobs") == 0


def test_a_visitor_who_requires_a_job_is_refused(web: Web, customer: Customer) -> None:
    answer = ask(web, made(web, customer), {**BODY, "require_async": True})
    assert flat(answer) == (422, "UNPROCESSABLE")
    assert web.count("jobs") == web.count("holds") == 0


def test_a_key_for_some_models_calls_no_other(web: Web, customer: Customer) -> None:
    key = made(web, customer, models=["gpt-4o-mini"])
    assert ask(web, key).status_code == 200
    assert ask(web, key, {**BODY, "model": "gpt-4o"}).status_code == 403
    assert ask(web, key, {"messages": BODY["messages"], "model": "auto"}).status_code == 400


def test_idempotency_keys_of_a_page_are_apart_from_its_owners(web: Web, customer: Customer) -> None:
    headers = {"Idempotency-Key": "1"}
    owners = web.client(customer).post(CHAT, json=BODY, headers=headers)
    one, other = made(web, customer), made(web, customer)
    first, again, others = (ask(web, key, Idempotency_Key="1") for key in (one, one, other))
    answers = [each.get_json()["logId"] for each in (owners, first, again, others)]
    assert len(set(answers)) == 3
    assert answers[1] == answers[2]
    assert again.headers["Idempotent-Replayed"] == "true"


@pytest.mark.parametrize(("surface", "source"), [(None, "agent_1"), ("footer", "footer")])
def test_the_request_log_tells_the_key_and_its_agent(
    web: Web, customer: Customer, surface: str | None, source: str
) -> None:
    key = made(web, customer, agent_id="agent_1")
    asked = partial(ask, web, key)
    answer = asked() if surface is None else asked(x_neureus_surface=surface)
    assert answer.status_code == 200
    web.state.request_log.close(5.0)
    (key_id,) = web.column("SELECT id FROM widget_keys")
    assert web.column("SELECT key_id FROM request_log") == [key_id]
    assert web.column("SELECT source FROM request_log") == [source]


# What a key may spend, and how often it may ask.


def test_a_visitors_call_is_made_with_the_houses_provider_key_so_that_the_cap_holds(
    web: Web, customer: Customer
) -> None:
    client = web.client(customer)
    own = {"key": "sim-openai-own-key-0123456789"}
    assert client.put("/ai/providers/openai/key", json=own).status_code == 200
    owners = client.post(CHAT, json=BODY).get_json()
    visitors = ask(web, made(web, customer)).get_json()
    assert owners["costUsd"] == 0
    assert visitors["costUsd"] > 0


def test_fifty_visitors_at_once_reach_the_cap_exactly_and_never_exceed_it(
    web: Web, customer: Customer
) -> None:
    long = {**BODY, "max_tokens": 1000}
    assert ask(web, made(web, customer), long).status_code == 200
    (ceiling,) = web.column("SELECT amount_nanos FROM holds")
    cap = 10 * ceiling
    key = made(web, customer, daily_usd=format_usd(cap), requests_per_minute=600)
    undo = served_by(web, SlowDialect(first_seconds=1.0), Pace())
    visitors = [partial(ask, web, key, long, address=f"192.0.2.{n}") for n in range(50)]
    answers = at_once(visitors)
    undo()
    web.settled()
    # All are under way before the first has ended, so each is counted with its ceiling.
    refused = [answer for answer in answers if answer.status_code != 200]
    assert len(refused) == 40
    assert {flat(answer) for answer in refused} == {(402, "INSUFFICIENT_FUNDS")}
    assert "daily spend limit" in refused[0].get_json()["message"]
    assert refused[0].headers["x-should-retry"] == "false"
    (key_id,) = web.column("SELECT id FROM widget_keys ORDER BY id DESC LIMIT 1")
    spent = "SELECT amount_nanos FROM key_spending WHERE key_id = :id AND period = 'day'"
    assert web.column(spent, id=key_id) == [10 * CHARGED_NANOS]
    web.assert_books_are_clean()


def test_the_owners_other_keys_do_not_count_towards_a_pages_cap(
    web: Web, customer: Customer
) -> None:
    key = made(web, customer, daily_usd="0.000000001")
    assert flat(ask(web, key)) == (402, "INSUFFICIENT_FUNDS")
    assert ask(web, made(web, customer)).status_code == 200
    assert web.client(customer).post(CHAT, json=BODY).status_code == 200


def test_each_visitor_has_a_limit_and_all_together_have_the_keys(
    web: Web, customer: Customer
) -> None:
    key = made(web, customer, visitor_requests_per_minute=2, requests_per_minute=5)

    def statuses(address: str, calls: int) -> list[int]:
        return [ask(web, key, address=address).status_code for _ in range(calls)]

    assert statuses("192.0.2.1", 3) == [200, 200, 429]
    assert statuses("2001:db8::1", 2) == [200, 200]
    assert statuses("2001:db8::2", 1) == [429]
    assert statuses("192.0.2.2", 2) == [200, 429]
    refused = ask(web, key, address="192.0.2.3")
    assert flat(refused) == (429, "RATE_LIMIT_EXCEEDED")
    assert 1 <= int(refused.headers["Retry-After"]) <= 60
    assert refused.headers["x-ratelimit-limit-requests"] == "2"
    assert web.client(customer).post(CHAT, json=BODY).status_code == 200


def test_all_keys_of_an_account_have_one_limit_together(web: Web, customer: Customer) -> None:
    with transaction(web.engine) as session:
        digest, many = web.state.house.widget_key_digest, Terms(requests_per_minute=600)
        for _ in range(2):
            widget_keys.create(session, digest, customer.account_id, many)
        one, other = widget_keys.usable(session, customer.account_id)
    judged = [
        web.state.limiter.judge(widget_keys.buckets_of(key, f"192.0.{n // 250}.{n % 250}"))
        for n in range(301)
        for key in (one, other)
    ]
    assert [verdict.admitted for verdict in judged].count(True) == 600


@pytest.mark.parametrize(
    ("trust_proxy", "statuses"), [(False, [200, 429, 429]), (True, [200, 200, 429])]
)
def test_a_visitor_is_who_the_last_trusted_hop_says(
    web: Web, customer: Customer, trust_proxy: bool, statuses: list[int]
) -> None:
    key = made(web, customer, visitor_requests_per_minute=1)
    forwarded = ["198.51.100.9, 203.0.113.1", "198.51.100.9, 203.0.113.2", "8.8.8.8, 203.0.113.2"]
    with settings_of(web, trust_proxy=trust_proxy):
        answers = [ask(web, key, X_Forwarded_For=hops) for hops in forwarded]
    assert [answer.status_code for answer in answers] == statuses


def test_a_revoked_key_is_refused_everywhere_within_two_seconds(
    web: Web, customer: Customer
) -> None:
    key = made(web, customer)
    assert ask(web, key).status_code == 200
    assert web.client(customer).delete(KEY).status_code == 200
    deadline = time.monotonic() + FRESH_SECONDS
    while ask(web, key).status_code == 200:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert flat(ask(web, key)) == (401, "UNAUTHORIZED")
