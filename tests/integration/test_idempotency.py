"""Idempotency keys: the first answer again, byte for byte, whoever races for it."""

from functools import partial
from typing import Any

import gevent
import orjson
import pytest
from flask.testing import FlaskClient
from sqlalchemy import text
from werkzeug.test import TestResponse

from gateway.calls import idempotency, retention
from gateway.calls.errors import KeyInFlight
from gateway.calls.idempotency import KeyedCall
from models import ids
from models.session import transaction
from tests.contract.simulator_process import SimulatorProcess
from tests.integration.web_world import (
    ASYNC_BODY,
    CHAT,
    CHAT_BODY,
    EMBEDDINGS,
    Customer,
    Web,
    at_once,
    error_of,
)

KEYED = {"Idempotency-Key": "order-66"}
# The same call in another order of its keys, spaced otherwise and escaped otherwise.
ASYNC_BODY_REORDERED = (
    b'{ "prefer_async":true, "messages":[ {"content":"\\u0068i","role":"user"} ],\n'
    b'"model":"openai/gpt-4o-mini" }'
)
FALLING_BACK = {**ASYNC_BODY, "deadline": "10s"}


@pytest.fixture
def client(web: Web, customer: Customer) -> FlaskClient:
    return web.client(customer)


def headers_of(response: TestResponse) -> dict[str, str]:
    changing = ("X-Request-Id", "Idempotent-Replayed", "x-ratelimit-")
    return {name: value for name, value in response.headers if not name.startswith(changing)}


@pytest.mark.parametrize("body", [ASYNC_BODY, CHAT_BODY, FALLING_BACK])
def test_the_first_answer_is_given_again_byte_for_byte(
    web: Web, client: FlaskClient, provider: SimulatorProcess, body: dict[str, Any]
) -> None:
    first = client.post(CHAT, json=body, headers=KEYED)
    assert first.status_code in (200, 202)
    assert "Idempotent-Replayed" not in first.headers
    for _ in range(3):
        again = client.post(CHAT, json=body, headers=KEYED)
        assert again.headers["Idempotent-Replayed"] == "true"
        assert (again.status_code, again.data) == (first.status_code, first.data)
        assert headers_of(again) == headers_of(first)
        assert again.headers["X-Request-Id"] != first.headers["X-Request-Id"]
    web.settled()
    assert web.count("jobs") == (first.status_code == 202)
    assert web.count("holds") == 1
    assert len(provider.lines()) == (first.status_code == 200)
    web.assert_books_are_clean()


def test_a_fallback_says_again_why_it_did_not_wait(client: FlaskClient) -> None:
    answers = [client.post(CHAT, json=FALLING_BACK, headers=KEYED) for _ in range(2)]
    assert [each.headers["X-Async-Ineligible"] for each in answers] == ["deadline", "deadline"]


def test_a_body_that_is_equal_as_json_is_the_same_body(web: Web, client: FlaskClient) -> None:
    first = client.post(CHAT, json=ASYNC_BODY, headers=KEYED)
    again = client.post(CHAT, data=ASYNC_BODY_REORDERED, headers=KEYED)
    assert (again.status_code, again.data) == (202, first.data)
    assert again.headers["Idempotent-Replayed"] == "true"
    assert web.count("jobs") == 1


@pytest.mark.parametrize(
    "other",
    [
        {**ASYNC_BODY, "seed": 1},
        {**ASYNC_BODY, "custom_id": "x"},
        {**ASYNC_BODY, "prefer_async": False},
        {**ASYNC_BODY, "messages": [{"role": "user", "content": "ho"}]},
    ],
)
def test_another_body_under_the_same_key_is_unprocessable(
    web: Web, client: FlaskClient, other: dict[str, Any]
) -> None:
    client.post(CHAT, json=ASYNC_BODY, headers=KEYED)
    response = client.post(CHAT, json=other, headers=KEYED)
    assert response.status_code == 422
    assert error_of(response)["type"] == "unprocessable"
    web.settled()
    assert (web.count("jobs"), web.count("holds")) == (1, 1)


def test_the_same_body_at_another_route_is_another_body(client: FlaskClient) -> None:
    body = {**ASYNC_BODY, "model": "text-embedding-3-small", "input": "hi"}
    assert client.post(EMBEDDINGS, json=body, headers=KEYED).status_code == 202
    assert (
        client.post(CHAT, json={**body, "model": "gpt-4o-mini"}, headers=KEYED).status_code == 422
    )


def test_racing_calls_with_one_key_make_one_job(web: Web, customer: Customer) -> None:
    before = web.available_nanos(customer)

    def submit() -> TestResponse:
        return web.client(customer).post(CHAT, json=ASYNC_BODY, headers=KEYED)

    answers = at_once([submit] * 20)
    assert {each.status_code for each in answers} == {202}
    assert len({each.data for each in answers}) == 1
    assert sum("Idempotent-Replayed" not in each.headers for each in answers) == 1
    assert (web.count("jobs"), web.count("holds")) == (1, 1)
    (held,) = web.column("SELECT amount_nanos FROM holds")
    assert web.available_nanos(customer) == before - held


def test_racing_calls_with_one_key_and_two_bodies_make_one_job(
    web: Web, customer: Customer
) -> None:
    def submit(seed: int) -> TestResponse:
        body = {**ASYNC_BODY, "seed": seed % 2}
        return web.client(customer).post(CHAT, json=body, headers=KEYED)

    answers = at_once([partial(submit, seed) for seed in range(20)])
    assert sorted({each.status_code for each in answers}) == [202, 422]
    assert len({each.data for each in answers if each.status_code == 202}) == 1
    assert web.count("jobs") == 1


def test_who_repeats_a_call_that_cannot_be_paid_is_refused_like_the_first(web: Web) -> None:
    poor = web.customer(credit_usd=0)

    def submit() -> TestResponse:
        return web.client(poor).post(CHAT, json=ASYNC_BODY, headers=KEYED)

    # Greenlets, so that they share a transaction: none may be told of a job that is not there.
    assert {each.status_code for each in at_once([submit] * 5)} == {402}
    assert (web.count("jobs"), web.count("idempotency_keys")) == (0, 0)


@pytest.mark.parametrize("body", [ASYNC_BODY, CHAT_BODY])
def test_the_key_of_a_call_that_could_not_be_paid_is_free_again(
    web: Web, body: dict[str, Any]
) -> None:
    poor = web.customer(credit_usd=0)
    assert web.client(poor).post(CHAT, json=body, headers=KEYED).status_code == 402
    with transaction(web.engine) as session:
        enough = "UPDATE balances SET credits_nanos = 10000000000 WHERE account_id = :id"
        session.execute(text(enough), {"id": poor.account_id})
    response = web.client(poor).post(CHAT, json=body, headers=KEYED)
    assert response.status_code in (200, 202)
    assert "Idempotent-Replayed" not in response.headers


def test_the_key_of_a_call_that_the_provider_failed_is_free_at_once(
    web: Web, client: FlaskClient, provider: SimulatorProcess
) -> None:
    provider.turn(rate_limit={"count": 1}, rate_limit_code="insufficient_quota")
    assert client.post(CHAT, json=CHAT_BODY, headers=KEYED).status_code == 502
    assert web.count("idempotency_keys") == 0
    assert web.column("SELECT status FROM holds") == ["voided"]
    response = client.post(CHAT, json=CHAT_BODY, headers=KEYED)
    assert response.status_code == 200
    assert "Idempotent-Replayed" not in response.headers


def test_a_refused_request_takes_no_key(web: Web, client: FlaskClient) -> None:
    assert client.post(CHAT, json={**ASYNC_BODY, "n": 0}, headers=KEYED).status_code == 400
    assert web.count("idempotency_keys") == 0
    assert client.post(CHAT, json=ASYNC_BODY, headers=KEYED).status_code == 202


def test_a_call_in_flight_is_a_conflict_until_it_is_answered(
    web: Web, customer: Customer, client: FlaskClient
) -> None:
    digest = idempotency.digest(CHAT, dict(CHAT_BODY))
    first = KeyedCall(customer.account_id, KEYED["Idempotency-Key"], digest, ids.new(), None)
    with transaction(web.engine) as session:
        assert idempotency.claim(session, [first]) == {}
    response = client.post(CHAT, json=CHAT_BODY, headers=KEYED)
    assert response.status_code == 409
    assert error_of(response)["type"] == "conflict"
    assert int(response.headers["Retry-After"]) > 0
    assert "x-should-retry" not in response.headers
    assert client.post(CHAT, json=ASYNC_BODY, headers=KEYED).status_code == 422
    assert web.count("holds") == 0
    said = b'{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"m","choices":[]}'
    answered = idempotency.Stored(200, {"X-Lane": "standard"}, said)
    with transaction(web.engine) as session:
        idempotency.answer(session, first, answered)
    response = client.post(CHAT, json=CHAT_BODY, headers=KEYED)
    assert (response.status_code, response.data) == (200, said)


def test_the_charge_and_the_kept_answer_are_one_transaction(web: Web, client: FlaskClient) -> None:
    assert client.post(CHAT, json=CHAT_BODY, headers=KEYED).status_code == 200
    query = "SELECT xmin::text FROM {}"
    settled = web.column(query.format("settlements"))
    assert settled == web.column(query.format("idempotency_keys"))
    assert len(settled) == 1


def test_the_key_of_a_call_that_died_is_free_with_its_hold(
    web: Web, customer: Customer, client: FlaskClient
) -> None:
    hold_id = ids.new()
    digest = idempotency.digest(CHAT, dict(CHAT_BODY))
    with transaction(web.engine) as session:
        call = KeyedCall(customer.account_id, KEYED["Idempotency-Key"], digest, hold_id, None)
        idempotency.claim(session, [call])
        session.execute(
            text(
                "INSERT INTO holds (id, account_id, key_id, amount_nanos, status, expires_at)"
                " VALUES (:id, :account, :key, 0, 'open', now() - interval '1 second')"
            ),
            {"id": hold_id, "account": customer.account_id, "key": customer.key_id},
        )
    assert client.post(CHAT, json=CHAT_BODY, headers=KEYED).status_code == 409
    assert retention.release_expired_holds(web.engine) == 1
    assert client.post(CHAT, json=CHAT_BODY, headers=KEYED).status_code == 200


def test_a_key_lasts_seven_days(web: Web, client: FlaskClient) -> None:
    first = client.post(CHAT, json=ASYNC_BODY, headers=KEYED)

    def age(days: float) -> None:
        with transaction(web.engine) as session:
            older = "UPDATE idempotency_keys SET created_at = now() - make_interval(secs => :age)"
            session.execute(text(older), {"age": days * 86_400})
        retention.forget(web.engine)

    age(6.9)
    assert client.post(CHAT, json=ASYNC_BODY, headers=KEYED).data == first.data
    age(7.1)
    assert client.post(CHAT, json=ASYNC_BODY, headers=KEYED).data != first.data
    assert web.count("jobs") == 2


def test_a_synchronous_call_that_repeats_one_in_flight_gets_no_second_run(
    web: Web, customer: Customer, provider: SimulatorProcess
) -> None:
    provider.turn(latency_ms=1_000)
    calls = [
        gevent.spawn(lambda: web.client(customer).post(CHAT, json=CHAT_BODY, headers=KEYED))
        for _ in range(3)
    ]
    gevent.joinall(calls, raise_error=True)
    statuses = sorted(call.get().status_code for call in calls)
    assert statuses == [200, 409, 409]
    web.settled()
    assert web.count("settlements") == 1


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        ({"a": 1, "b": [1, 2]}, {"b": [1, 2], "a": 1}, True),
        ({"a": {"x": 1, "y": 2}}, {"a": {"y": 2, "x": 1}}, True),
        ({"a": [1, 2]}, {"a": [2, 1]}, False),
        ({"a": None}, {}, False),
        ({"a": "1"}, {"a": 1}, False),
        ({"a": 1, "b": [0]}, {"a": 1.0, "b": [-0.0]}, True),
        ({"a": 1.5}, {"a": 1}, False),
        ({"a": True}, {"a": 1}, False),
        ({"a": 2**53 + 1}, {"a": 2.0**53 + 2}, False),
        ({"a": 1e300}, {"a": 1e300}, True),
    ],
)
def test_the_digest_is_of_the_json_and_not_of_the_bytes(
    one: object, other: object, equal: bool
) -> None:
    parsed = orjson.loads(orjson.dumps(other, option=orjson.OPT_INDENT_2))
    assert (idempotency.digest(CHAT, one) == idempotency.digest(CHAT, parsed)) is equal
    assert idempotency.digest(CHAT, one) != idempotency.digest(EMBEDDINGS, one)


def test_calls_under_one_key_in_one_set_are_told_apart(web: Web, customer: Customer) -> None:
    calls = [KeyedCall(customer.account_id, "k", b"d", ids.new(), None) for _ in range(3)]
    with transaction(web.engine) as session:
        told = idempotency.claim(session, calls)
    assert len(told) == 2
    assert all(isinstance(each, KeyInFlight) for each in told.values())
