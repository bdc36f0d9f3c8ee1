"""Streams at the web door, on a real database, with the simulator as the provider."""

from dataclasses import asdict
from math import ceil
from typing import Any

import orjson
import pytest
from werkzeug.test import TestResponse

from gateway.billing.prices import parse_usd
from gateway.calls.attempts import ATTEMPTS
from gateway.calls.record import CallRecord
from gateway.catalogue.usage import Usage
from gateway.providers.breaker import CIRCUIT_OPEN, Policy
from models import ids
from models.ids import Prefix
from tests.contract.simulator_process import SimulatorProcess, echo
from tests.integration.web_world import (
    CHAT,
    CHAT_BODY,
    EMBEDDING_BODY,
    EMBEDDINGS,
    SAYS_HI,
    Customer,
    Web,
    error_of,
)

STREAM_BODY = {**CHAT_BODY, "stream": True}
WITH_USAGE = {**STREAM_BODY, "stream_options": {"include_usage": True}}
CLAUDE = "anthropic/claude-haiku-5-5"
DONE = "[DONE]"
Json = dict[str, Any]


def events(response: TestResponse) -> list[str]:
    """The data of a stream's events, the comments left out."""
    assert response.status_code == 200, response.text
    assert response.mimetype == "text/event-stream"
    *lines, end = response.text.split("\n\n")
    assert end == ""
    return [line.removeprefix("data: ") for line in lines if not line.startswith(":")]


def chunks(response: TestResponse) -> list[Json]:
    """The chunks of a stream that came to its end."""
    *told, done = events(response)
    assert done == DONE
    return [orjson.loads(each) for each in told]


def said(told: list[Json]) -> str:
    return "".join(
        choice["delta"].get("content") or "" for chunk in told for choice in chunk["choices"]
    )


def metered(provider: SimulatorProcess) -> Json:
    (row,) = provider.meter()
    return {name: row[name] for name in asdict(Usage())}


def settled(web: Web) -> Json:
    """The only settlement."""
    web.assert_books_are_clean()
    with web.engine.connect() as connection:
        (row,) = connection.exec_driver_sql("SELECT * FROM settlements").mappings()
    return dict(row)


@pytest.fixture
def records(web: Web) -> list[CallRecord]:
    """What is told of finished calls."""
    told: list[CallRecord] = []
    web.state.observers[:] = [told.append]
    return told


@pytest.mark.parametrize("model", [CHAT_BODY["model"], CLAUDE])
def test_a_stream_is_answered_under_our_names_and_billed_by_its_usage(
    web: Web, customer: Customer, provider: SimulatorProcess, model: str
) -> None:
    body = {**STREAM_BODY, "model": model, "stream_options": {"include_usage": True}}
    response = web.client(customer).post(CHAT, json=body)
    told = chunks(response)
    assert echo("hi") in said(told)
    assert {(each["object"], each["model"]) for each in told} == {("chat.completion.chunk", model)}
    (completion_id,) = {each["id"] for each in told}
    call_id = ids.parse(Prefix.COMPLETION, completion_id)
    assert told[-1]["choices"] == []
    row = settled(web)
    assert (row["id"], row["lane"], row["unpriced"]) == (call_id, "standard", False)
    assert parse_usd(told[-1]["usage"]["cost_usd"]) == row["charged_nanos"] > 0
    assert {name: row[name] for name in asdict(Usage())} == metered(provider)
    assert response.headers["X-Lane"] == "standard"
    assert response.headers["Cache-Control"] == "no-cache"
    assert response.headers["X-Request-Id"].startswith("req_")
    assert "X-Cost-Usd" not in response.headers
    assert "X-Async-Ineligible" not in response.headers


@pytest.mark.parametrize("fields", [{}, {"stream_options": {"include_usage": False}}])
def test_a_usage_that_was_not_asked_for_is_not_shown_and_billed_all_the_same(
    web: Web, customer: Customer, fields: Json
) -> None:
    told = chunks(web.client(customer).post(CHAT, json={**STREAM_BODY, **fields}))
    assert not any("usage" in each for each in told)
    assert all(each["choices"] for each in told)
    assert settled(web)["charged_nanos"] > 0


def test_a_stream_that_prefers_to_wait_is_told_that_it_cannot(web: Web, customer: Customer) -> None:
    response = web.client(customer).post(CHAT, json={**STREAM_BODY, "prefer_async": True})
    assert chunks(response)
    assert response.headers["X-Async-Ineligible"] == "stream"
    assert web.count("jobs") == 0
    required = web.client(customer).post(CHAT, json={**STREAM_BODY, "require_async": True})
    assert (required.status_code, error_of(required)["type"]) == (422, "unprocessable")


def test_embeddings_are_not_streamed(web: Web, customer: Customer) -> None:
    response = web.client(customer).post(EMBEDDINGS, json={**EMBEDDING_BODY, "stream": True})
    assert (response.status_code, error_of(response)["param"]) == (400, "stream")


def test_who_cannot_pay_is_not_streamed_to(web: Web, provider: SimulatorProcess) -> None:
    poor = web.customer(credit_usd=0.000_001)
    response = web.client(poor).post(CHAT, json=STREAM_BODY)
    assert (response.status_code, error_of(response)["type"]) == (402, "insufficient_funds")
    assert provider.meter() == []


@pytest.mark.parametrize(
    ("knobs", "status"),
    [
        ({"server_error": 1}, 502),
        ({"rate_limit": 1, "rate_limit_code": "insufficient_quota"}, 502),
        ({"revoked_keys": ["sim-openai"]}, 502),
    ],
)
def test_what_fails_before_the_first_piece_is_an_ordinary_error_and_costs_nothing(
    web: Web, customer: Customer, provider: SimulatorProcess, knobs: Json, status: int
) -> None:
    provider.turn(**knobs)
    response = web.client(customer).post(CHAT, json=STREAM_BODY)
    assert (response.status_code, error_of(response)["type"]) == (status, "upstream_error")
    web.assert_books_are_clean()
    assert web.column("SELECT status FROM holds") == ["voided"]


def test_what_the_provider_refuses_is_a_bad_request(web: Web, customer: Customer) -> None:
    response = web.client(customer).post(CHAT, json={**STREAM_BODY, "of_tomorrow": 1})
    assert response.status_code == 400
    assert "of_tomorrow" in error_of(response)["message"]


def test_a_provider_that_recovers_in_time_is_streamed_from(
    web: Web, customer: Customer, provider: SimulatorProcess, records: list[CallRecord]
) -> None:
    provider.turn(server_error={"count": 2})
    assert chunks(web.client(customer).post(CHAT, json=STREAM_BODY))
    (record,) = records
    assert [each.http_status for each in record.attempts] == [500, 500, 200]


@pytest.mark.parametrize("fault", ["stream_error", "half_response"])
@pytest.mark.parametrize("model", [CHAT_BODY["model"], CLAUDE])
def test_an_error_in_mid_stream_is_an_event_and_leaves_the_call_without_a_price(
    web: Web,
    customer: Customer,
    provider: SimulatorProcess,
    records: list[CallRecord],
    fault: str,
    model: str,
) -> None:
    provider.turn(**{fault: {"count": 1}})
    before = web.available_nanos(customer)
    response = web.client(customer).post(CHAT, json={**STREAM_BODY, "model": model})
    *told, last = map(orjson.loads, events(response))
    assert said(told) != ""
    assert last.keys() == {"error"}
    assert (last["error"]["type"], last["error"]["code"]) == ("upstream_error", 502)
    row = settled(web)
    assert row["unpriced"]
    assert web.column("SELECT kind FROM transfers WHERE hold_id IS NOT NULL") == ["suspense"]
    assert web.available_nanos(customer) < before
    (record,) = records
    assert (record.http_status, record.unpriced, record.charged_nanos) == (502, True, None)


@pytest.mark.parametrize("fault", ["missing_usage", "negative_usage"])
def test_a_usage_that_nobody_can_believe_leaves_the_call_without_a_price(
    web: Web, customer: Customer, provider: SimulatorProcess, fault: str
) -> None:
    provider.turn(**{fault: 1})
    told = chunks(web.client(customer).post(CHAT, json=WITH_USAGE))
    assert echo("hi") in said(told)
    assert "cost_usd" not in str(told)
    assert settled(web)["unpriced"]


def test_a_stream_under_a_key_is_given_again_byte_for_byte(
    web: Web, customer: Customer, provider: SimulatorProcess, records: list[CallRecord]
) -> None:
    client = web.client(customer, Idempotency_Key="once")
    first = client.post(CHAT, json=WITH_USAGE)
    told = chunks(first)
    again = client.post(CHAT, json={**WITH_USAGE, "messages": SAYS_HI})
    assert chunks(again) == told
    assert again.data == first.data
    assert again.headers["Idempotent-Replayed"] == "true"
    assert again.headers["X-Lane"] == "standard"
    assert "Idempotent-Replayed" not in first.headers
    assert len(provider.meter()) == 1
    assert settled(web)["charged_nanos"] > 0
    assert [(each.replayed, each.charged_nanos is None) for each in records] == [
        (False, False),
        (True, True),
    ]
    other = client.post(CHAT, json=CHAT_BODY)
    assert (other.status_code, error_of(other)["type"]) == (422, "unprocessable")


def test_the_key_of_a_stream_that_never_began_is_free_again(
    web: Web, customer: Customer, provider: SimulatorProcess
) -> None:
    client = web.client(customer, Idempotency_Key="once")
    provider.turn(server_error={"count": ATTEMPTS})
    assert client.post(CHAT, json=STREAM_BODY).status_code == 502
    assert chunks(client.post(CHAT, json=STREAM_BODY))


def test_the_stream_that_broke_is_given_again_with_its_error(
    web: Web, customer: Customer, provider: SimulatorProcess
) -> None:
    client = web.client(customer, Idempotency_Key="once")
    provider.turn(stream_error={"count": 1})
    first = client.post(CHAT, json=STREAM_BODY)
    assert "upstream_error" in first.text
    again = client.post(CHAT, json=STREAM_BODY)
    assert again.data == first.data
    assert settled(web)["unpriced"]


def test_every_finished_call_is_told_of(
    web: Web, customer: Customer, provider: SimulatorProcess, records: list[CallRecord]
) -> None:
    client = web.client(customer)
    whole = client.post(CHAT, json=CHAT_BODY)
    streamed = client.post(CHAT, json=STREAM_BODY)
    assert chunks(streamed)
    provider.turn(server_error={"count": ATTEMPTS})
    failed = client.post(CHAT, json=CHAT_BODY)
    poor = web.client(web.customer(credit_usd=0)).post(EMBEDDINGS, json=EMBEDDING_BODY)
    answers = [whole, streamed, failed, poor]
    assert [each.request_id for each in records] == [
        answer.headers["X-Request-Id"] for answer in answers
    ]
    assert [each.http_status for each in records] == [200, 200, 502, 402]
    assert [each.streamed for each in records] == [False, True, False, False]
    assert [len(each.attempts) for each in records] == [1, 1, ATTEMPTS, 0]
    assert [each.provider for each in records] == ["openai", "openai", "openai", None]
    assert [each.charged_nanos is None for each in records] == [False, False, True, True]
    assert not any(each.unpriced for each in records)
    first = records[0]
    assert (first.account_id, first.key_id) == (customer.account_id, customer.key_id)
    assert (first.model, first.asked_model) == ("openai/gpt-4o-mini", CHAT_BODY["model"])
    assert first.usage is not None
    assert first.cost_nanos == parse_usd(whole.headers["X-Cost-Usd"])
    assert first.latency_milliseconds >= first.attempts[0].milliseconds
    assert [each.first_token_milliseconds is None for each in records] == [True, False, True, True]


def test_an_observer_that_fails_costs_nobody_the_answer(web: Web, customer: Customer) -> None:
    def fail(_: CallRecord) -> None:
        raise RuntimeError("the log is full")

    web.state.observers[:] = [fail]
    assert web.client(customer).post(CHAT, json=CHAT_BODY).status_code == 200
    web.assert_books_are_clean()


def test_a_provider_that_keeps_failing_is_not_asked_for_a_moment(
    web: Web, customer: Customer, provider: SimulatorProcess, records: list[CallRecord]
) -> None:
    provider.turn(server_error=1)
    client = web.client(customer)
    for _ in range(ceil(Policy().failures_in_a_row / ATTEMPTS)):
        assert client.post(CHAT, json=CHAT_BODY).status_code == 502
    provider.turn(server_error=0)
    for body in (CHAT_BODY, STREAM_BODY):
        response = client.post(CHAT, json=body)
        assert (response.status_code, error_of(response)["type"]) == (502, "upstream_error")
        assert 1 <= int(response.headers["Retry-After"]) <= Policy().cool_down_seconds
    assert [each.error for each in records[-1].attempts] == [CIRCUIT_OPEN]
    assert provider.meter() == []
    # Another provider's circuit is another one.
    assert client.post(CHAT, json={**CHAT_BODY, "model": CLAUDE}).status_code == 200
    web.assert_books_are_clean()
