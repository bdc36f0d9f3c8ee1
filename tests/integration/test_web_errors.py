"""Every row of the error table that a caller can provoke."""

import logging
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from flask.typing import ResponseReturnValue
from sqlalchemy import event, text

from gateway.access import keys, keys_admin
from gateway.calls.routing import Ineligible, obstacle
from gateway.providers.dialect import Endpoint
from models.session import transaction
from tests.contract.simulator_process import SimulatorProcess
from tests.integration.web_world import (
    ASYNC_BODY,
    CHAT,
    CHAT_BODY,
    EMBEDDING_BODY,
    EMBEDDINGS,
    OPERATOR,
    Customer,
    Web,
    error_of,
    make_web,
)

CHECKSUM_OFF = "sk-op-" + "0" * 32
DEAD_REDIS = "redis://127.0.0.1:1/0"


@pytest.fixture(scope="module")
def web(web_process: Web) -> Iterator[Web]:
    """A web process for the whole module: nothing here minds what the others left."""
    web_process.renew()
    yield web_process
    web_process.close()


@pytest.fixture(autouse=True)
def circuits(web: Web) -> None:
    """What one test made fail, the next may call."""
    web.close_circuits()


@pytest.fixture
def look_ups(web: Web) -> Iterator[list[str]]:
    """Look-ups of keys that the app sends."""
    seen: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_rest: object) -> None:
        if statement.startswith("SELECT") and "api_keys" in statement:
            seen.append(statement)

    event.listen(web.state.house.engine, "before_cursor_execute", note)
    yield seen
    event.remove(web.state.house.engine, "before_cursor_execute", note)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": ""},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer "},
        {"Authorization": "Basic c2stb3AtMDAwOg=="},
        {"X-API-Key": ""},
    ],
)
def test_a_call_without_a_key_is_unauthorized(web: Web, headers: dict[str, str]) -> None:
    response = web.client(None).post(CHAT, json=CHAT_BODY, headers=headers)
    assert response.status_code == 401
    assert error_of(response)["type"] == "unauthorized"
    assert response.headers["WWW-Authenticate"] == "Bearer"


@pytest.mark.parametrize("key", ["x", CHECKSUM_OFF, "sk-ng-" + "0" * 32, "é", "a\x00b", "🔑"])
def test_a_key_of_the_wrong_shape_or_checksum_is_refused_without_a_look_up(
    web: Web, look_ups: list[str], key: str
) -> None:
    client = web.client(None)
    for name, value in (("HTTP_AUTHORIZATION", f"Bearer {key}"), ("HTTP_X_API_KEY", key)):
        response = client.get("/v1/models", environ_overrides={name: value})
        assert response.status_code == 401
        assert error_of(response)["type"] == "unauthorized"
        assert key not in response.text
    assert look_ups == []


def test_an_unknown_key_is_refused_after_one_look_up(web: Web, look_ups: list[str]) -> None:
    headers = {"Authorization": f"Bearer {keys.generate()}"}
    assert web.client(None).get("/v1/models", headers=headers).status_code == 401
    assert len(look_ups) == 1


def test_a_known_key_is_looked_up_once_in_a_while(
    web: Web, customer: Customer, look_ups: list[str]
) -> None:
    for _ in range(5):
        assert web.client(customer).get("/v1/models").status_code == 200
    assert len(look_ups) == 1


@pytest.mark.parametrize("form", ["Bearer {}", "bearer {}", "BEARER  {} "])
def test_a_bearer_key_opens(web: Web, customer: Customer, form: str) -> None:
    headers = {"Authorization": form.format(customer.api_key)}
    assert web.client(None).get("/v1/models", headers=headers).status_code == 200


def test_the_other_header_opens_too(web: Web, customer: Customer) -> None:
    headers = {"X-API-Key": customer.api_key}
    assert web.client(None).get("/v1/models", headers=headers).status_code == 200


def test_a_revoked_or_expired_key_opens_nothing(web: Web) -> None:
    customers = web.customer(), web.customer()
    revoked = customers[0]
    with transaction(web.engine) as session:
        assert keys_admin.revoke(session, OPERATOR, revoked.account_id, revoked.key_id)
        expiry = "UPDATE api_keys SET expires_at = now() - interval '1 second' WHERE id = :id"
        session.execute(text(expiry), {"id": customers[1].key_id})
    for customer in customers:
        response = web.client(customer).get("/v1/models")
        assert error_of(response)["type"] == "unauthorized"
        assert response.status_code == 401


@pytest.mark.parametrize("path", ["/v1/nothing", "/", "/v1/chat/completions/", "//v1/models"])
def test_an_unknown_route_is_not_found(web: Web, customer: Customer, path: str) -> None:
    for method in ("GET", "POST"):
        response = web.client(customer).open(path, method=method)
        assert response.status_code == 404
        assert error_of(response)["type"] == "not_found"


def test_an_unknown_route_does_not_tell_strangers_that_it_is_unknown(web: Web) -> None:
    assert web.client(None).get("/v1/nothing").status_code == 401


def test_a_wrong_method_is_told_the_right_ones(web: Web, customer: Customer) -> None:
    response = web.client(customer).put(CHAT, json=CHAT_BODY)
    assert response.status_code == 405
    assert error_of(response)["type"] == "bad_request"
    assert "POST" in response.headers["Allow"]


def test_head_and_options_are_answered(web: Web, customer: Customer) -> None:
    client = web.client(customer)
    head = client.head("/v1/models")
    assert (head.status_code, head.data) == (200, b"")
    options = client.options("/v1/jobs")
    assert (options.status_code, options.data) == (200, b"")
    assert {"GET", "HEAD", "OPTIONS"} <= set(options.headers["Allow"].split(", "))


@pytest.mark.parametrize("path", [CHAT, EMBEDDINGS])
@pytest.mark.parametrize(
    "model", ["gpt-nothing", "openai/", "nobody/gpt-4o-mini", "gpt\x00", "模型"]
)
def test_an_unknown_model_is_not_found(web: Web, customer: Customer, path: str, model: str) -> None:
    body = {**CHAT_BODY, **EMBEDDING_BODY, "model": model}
    response = web.client(customer).post(path, json=body)
    assert response.status_code == 404
    assert error_of(response)["type"] == "not_found"
    assert error_of(response)["param"] == "model"


def test_an_unknown_model_cannot_be_read(web: Web, customer: Customer) -> None:
    response = web.client(customer).get("/v1/models/openai/gpt-nothing")
    assert response.status_code == 404
    assert error_of(response)["param"] == "model"


def test_a_model_of_a_provider_that_is_not_configured_is_not_served(
    web: Web, customer: Customer
) -> None:
    client = web.client(customer)
    listed = {model["id"] for model in client.get("/v1/models").get_json()["data"]}
    assert "x-ai/grok-4.6" not in listed
    assert client.get("/v1/models/x-ai/grok-4.6").status_code == 404
    assert client.post(CHAT, json={**CHAT_BODY, "model": "x-ai/grok-4.6"}).status_code == 404


def test_a_model_of_the_other_kind_is_a_bad_request(web: Web, customer: Customer) -> None:
    client = web.client(customer)
    wrong = client.post(CHAT, json={**CHAT_BODY, "model": "text-embedding-3-small"})
    assert (wrong.status_code, error_of(wrong)["param"]) == (400, "model")
    wrong = client.post(EMBEDDINGS, json={**EMBEDDING_BODY, "model": "gpt-4o-mini"})
    assert (wrong.status_code, error_of(wrong)["param"]) == (400, "model")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": None}, "model"),
        ({"messages": []}, "messages"),
        ({"temperature": 3}, "temperature"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
        ({"service_tier": "flex"}, "service_tier"),
        ({"web_search_options": {}}, "web_search_options"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"max_cost_usd": "a cent"}, "max_cost_usd"),
        ({"dry_run": "yes"}, "dry_run"),
        ({"escalate": "no"}, "escalate"),
        ({"deadline": "soon"}, "deadline"),
        ({"completion_window": "soon"}, "completion_window"),
        ({"custom_id": 5}, "custom_id"),
        ({"metadata": {"a": 1}}, "metadata.a"),
        ({"webhook": {"url": "ftp://example.com"}}, "webhook.url"),
        ({"callback_url": "nowhere"}, "callback_url"),
        ({"prefer_async": "yes"}, "prefer_async"),
        ({"require_async": 1}, "require_async"),
    ],
)
def test_a_bad_field_is_a_bad_request_that_names_it(
    web: Web, customer: Customer, fields: dict[str, Any], param: str
) -> None:
    response = web.client(customer).post(CHAT, json={**ASYNC_BODY, **fields})
    assert response.status_code == 400
    error = error_of(response)
    assert (error["type"], error["param"]) == ("bad_request", param)


@pytest.mark.parametrize("body", [CHAT_BODY, ASYNC_BODY])
def test_a_balance_that_cannot_hold_the_ceiling_is_insufficient(
    web: Web, body: dict[str, Any], provider: SimulatorProcess
) -> None:
    poor = web.customer(credit_usd=0.000_001)
    response = web.client(poor).post(CHAT, json=body)
    assert response.status_code == 402
    assert error_of(response)["type"] == "insufficient_funds"
    assert web.available_nanos(poor) == 1_000
    assert provider.meter() == []
    assert web.column("SELECT id FROM jobs WHERE account_id = :id", id=poor.account_id) == []


def test_a_call_without_any_credit_is_insufficient(web: Web) -> None:
    nobody = web.customer(credit_usd=0)
    assert web.client(nobody).post(EMBEDDINGS, json=EMBEDDING_BODY).status_code == 402


def test_an_output_limit_beyond_all_money_is_insufficient(web: Web, customer: Customer) -> None:
    body = {**ASYNC_BODY, "max_tokens": 2**63 - 1, "n": 128}
    assert web.client(customer).post(CHAT, json=body).status_code == 402


def test_a_body_over_eight_megabytes_is_too_large(web: Web, customer: Customer) -> None:
    client = web.client(customer)
    fits = b'{"model":"gpt-nothing","messages":[{"role":"user","content":"%s"}]}'
    padding = 8_000_000 - len(fits % b"")
    assert client.post(CHAT, data=fits % (b"x" * padding)).status_code == 404
    response = client.post(CHAT, data=fits % (b"x" * (padding + 1)))
    assert response.status_code == 413
    assert error_of(response)["type"] == "payload_too_large"


def test_a_compressed_body_is_refused(web: Web, customer: Customer) -> None:
    headers = {"Content-Encoding": "gzip"}
    response = web.client(customer).post(CHAT, data=b"\x1f\x8b\x08" + b"\0" * 20, headers=headers)
    assert response.status_code == 400
    error = error_of(response)
    assert (error["type"], error["param"]) == ("bad_request", "Content-Encoding")


def test_required_asynchrony_that_is_not_possible_is_unprocessable(
    web: Web, customer: Customer, provider: SimulatorProcess
) -> None:
    body = {**CHAT_BODY, "require_async": True, "deadline": "10s"}
    response = web.client(customer).post(CHAT, json=body)
    assert response.status_code == 422
    error = error_of(response)
    assert (error["type"], error["param"]) == ("unprocessable", "require_async")
    assert "deadline" in error["message"]
    assert provider.meter() == []


def test_a_model_without_a_batch_price_cannot_wait(web: Web) -> None:
    route = web.state.house.router.route(Endpoint.CHAT_COMPLETIONS, "gpt-4o-mini", CHAT_BODY)
    unpriced = replace(route.offer, prices=replace(route.offer.prices, batch=None))
    day, minute = timedelta(days=1), timedelta(minutes=1)
    assert obstacle(route, {}, day, minute) is None
    assert obstacle(replace(route, offer=unpriced), {}, day, minute) is Ineligible.PRICE
    groq = web.state.house.dialects["groq"]
    assert obstacle(replace(route, dialect=groq), {}, day, minute) is Ineligible.MODEL
    assert obstacle(route, {"stream": True}, day, minute) is Ineligible.STREAM
    assert obstacle(route, {}, minute, day) is Ineligible.DEADLINE
    assert obstacle(route, {}, day, day) is None


@pytest.mark.parametrize(
    ("knobs", "status", "type_"),
    [
        ({"server_error": 1, "server_error_status": 500}, 502, "upstream_error"),
        ({"server_error": 1, "server_error_status": 503}, 502, "upstream_error"),
        ({"rate_limit": 1}, 502, "upstream_error"),
        ({"rate_limit": 1, "rate_limit_code": "insufficient_quota"}, 502, "upstream_error"),
        ({"half_response": 1}, 502, "upstream_error"),
        ({"revoked_keys": ["sim-openai"]}, 502, "upstream_error"),
    ],
)
def test_a_provider_that_fails_costs_nothing(
    web: Web,
    customer: Customer,
    provider: SimulatorProcess,
    knobs: dict[str, Any],
    status: int,
    type_: str,
) -> None:
    provider.turn(**knobs)
    before = web.available_nanos(customer)
    response = web.client(customer).post(CHAT, json=CHAT_BODY)
    error = error_of(response)
    assert (response.status_code, error["type"]) == (status, type_)
    assert "sim-openai" not in response.text
    web.settled()
    assert web.available_nanos(customer) == before
    assert web.column(
        "SELECT status FROM holds WHERE account_id = :id", id=customer.account_id
    ) == ["voided"]


def test_a_provider_that_recovers_is_asked_again(
    web: Web, customer: Customer, provider: SimulatorProcess
) -> None:
    provider.turn(server_error={"count": 2})
    response = web.client(customer).post(CHAT, json=CHAT_BODY)
    assert response.status_code == 200
    assert response.headers["X-Cost-Usd"]


def test_a_lasting_rate_limit_passes_its_retry_after_on(
    web: Web, customer: Customer, provider: SimulatorProcess
) -> None:
    provider.turn(rate_limit=1, retry_after=77)
    response = web.client(customer).post(CHAT, json=CHAT_BODY)
    assert response.status_code == 502
    assert response.headers["Retry-After"] == "77"


def test_a_key_of_ours_that_the_provider_refuses_raises_an_alert(
    web: Web, customer: Customer, provider: SimulatorProcess, caplog: pytest.LogCaptureFixture
) -> None:
    provider.turn(revoked_keys=["sim-openai"])
    with caplog.at_level(logging.ERROR):
        web.client(customer).post(CHAT, json=CHAT_BODY)
    (record,) = [each for each in caplog.records if each.msg == "provider.unauthorized"]
    assert vars(record)["alert"] is True
    assert "sim-openai" not in str(vars(record))


@pytest.mark.parametrize(
    ("fields", "param"),
    [({"of_tomorrow": 1}, "of_tomorrow"), ({"max_tokens": 10**6}, "max_tokens")],
)
def test_what_the_provider_refuses_is_a_bad_request_with_its_message(
    web: Web, customer: Customer, provider: SimulatorProcess, fields: dict[str, Any], param: str
) -> None:
    response = web.client(customer).post(CHAT, json={**CHAT_BODY, **fields})
    error = error_of(response)
    assert (response.status_code, error["type"]) == (400, "bad_request")
    assert param in error["message"]
    assert provider.meter() == []


@pytest.mark.promise("N48", "M28")
def test_our_own_mistake_is_an_internal_error_that_tells_nothing(
    worker_database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> ResponseReturnValue:
        raise ZeroDivisionError("a secret detail")

    with make_web(worker_database_url, DEAD_REDIS, None) as web:
        web.app.add_url_rule("/v1/broken", view_func=broken)
        response = web.client(web.customer()).get("/v1/broken")
    assert response.status_code == 500
    assert error_of(response)["type"] == "internal_error"
    assert "secret detail" not in response.text
    assert [record.msg for record in caplog.records if record.levelname == "ERROR"] == [
        "request.failed"
    ]


def test_every_answer_has_a_request_id_of_its_own(web: Web, customer: Customer) -> None:
    answers = [
        web.client(customer).get("/v1/models"),
        web.client(customer).get("/v1/models"),
        web.client(None).get("/v1/models"),
        web.client(customer).get("/v1/nothing"),
        web.client(None).get("/health"),
    ]
    ids = {answer.headers["X-Request-Id"] for answer in answers}
    assert len(ids) == len(answers)
    assert all(each.startswith("req_") for each in ids)


def test_the_log_tells_of_a_request_and_not_of_what_was_said(
    web: Web, customer: Customer, provider: SimulatorProcess, caplog: pytest.LogCaptureFixture
) -> None:
    assert provider.meter() == []
    said = f"a very private matter of {datetime.now(UTC).isoformat()}"
    body = {**CHAT_BODY, "messages": [{"role": "user", "content": said}], "user": said}
    with caplog.at_level(logging.INFO):
        answer = web.client(customer).post(CHAT, json=body)
    (record,) = [each for each in caplog.records if each.msg == "request"]
    fields = vars(record)
    assert (fields["method"], fields["route"], fields["status"]) == ("POST", CHAT, 200)
    assert fields["request_id"] == answer.headers["X-Request-Id"]
    logged = " ".join(str(vars(each)) for each in caplog.records)
    for secret in (said, customer.api_key, answer.get_json()["choices"][0]["message"]["content"]):
        assert secret not in logged
