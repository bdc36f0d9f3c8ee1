"""Calls that succeed: what the 202 and the ordinary answer look like, to the letter."""

from typing import Any

import orjson
import pytest

from gateway.billing.prices import format_usd, parse_usd
from gateway.providers.dialect import Endpoint
from models import ids
from models.ids import Prefix
from tests.contract.simulator_process import SimulatorProcess, echo
from tests.integration.web_world import (
    ASYNC_BODY,
    CHAT,
    CHAT_BODY,
    EMBEDDING_BODY,
    EMBEDDINGS,
    SAYS_HI,
    Customer,
    Web,
    job_uuid,
    make_web,
)


def test_an_accepted_chat_is_answered_to_the_letter(web: Web, customer: Customer) -> None:
    body = {
        **CHAT_BODY,
        "prefer_async": True,
        "deadline": "6h",
        "custom_id": "row-1",
        "metadata": {"team": "blue"},
    }
    response = web.client(customer).post(CHAT, json=body)
    job_id = job_uuid(response)
    assert response.status_code == 202
    assert response.mimetype == "application/json"
    assert response.headers["Location"] == f"/v1/jobs/job_{job_id.hex}"
    assert response.headers["Retry-After"] == "30"
    assert response.headers["Preference-Applied"] == "respond-async"
    assert response.headers["X-Lane"] == "batch"
    assert response.headers["X-Request-Id"].startswith("req_")
    assert "X-Cost-Usd" not in response.headers
    assert "X-Async-Ineligible" not in response.headers
    answer = response.get_json()
    job = answer.pop("job")
    created = answer["created"]
    assert answer == {
        "id": f"chatcmpl-{job_id.hex}",
        "object": "chat.completion",
        "created": created,
        "model": "openai/gpt-4o-mini",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": None},
                "finish_reason": None,
            }
        ],
        "usage": None,
        "status": "queued",
    }
    # 1 byte pair at $0.075 and 16,384 tokens at $0.30 a million, the batch lane's rates.
    assert job == {
        "id": f"job_{job_id.hex}",
        "object": "job",
        "status": "queued",
        "lane": "batch",
        "endpoint": CHAT,
        "model": "openai/gpt-4o-mini",
        "completion_id": f"chatcmpl-{job_id.hex}",
        "custom_id": "row-1",
        "metadata": {"team": "blue"},
        "created_at": created,
        "submitted_at": None,
        "completed_at": None,
        "deadline_at": created + 6 * 3600,
        "batch": None,
        "cost": {
            "state": "held",
            "estimated_usd": "0.004915275",
            "billed_usd": None,
            "list_usd": None,
            "savings_usd": None,
        },
        "escalated": False,
        "escalation": None,
        "attempts": 1,
        "result": None,
        "error": None,
    }


def test_what_the_202_says_is_what_the_job_says(web: Web, customer: Customer) -> None:
    client = web.client(customer)
    accepted = client.post(CHAT, json=ASYNC_BODY).get_json()
    assert client.get(f"/v1/jobs/{accepted['job']['id']}").get_json() == accepted["job"]
    assert client.get(f"/v1/chat/completions/{accepted['id']}").get_json() == accepted


def test_accepted_embeddings_are_the_job_with_a_placeholder(web: Web, customer: Customer) -> None:
    response = web.client(customer).post(EMBEDDINGS, json={**EMBEDDING_BODY, "prefer_async": True})
    assert response.status_code == 202
    job_id = job_uuid(response)
    answer = response.get_json()
    assert answer.pop("data") == [{"object": "embedding", "index": 0, "embedding": []}]
    assert answer.pop("usage") is None
    assert answer == web.client(customer).get(f"/v1/jobs/job_{job_id.hex}").get_json()
    assert (answer["object"], answer["endpoint"]) == ("job", EMBEDDINGS)


@pytest.mark.parametrize(
    ("fields", "headers"),
    [
        ({"prefer_async": True}, {}),
        ({"require_async": True}, {}),
        ({}, {"Prefer": "respond-async"}),
        ({}, {"Prefer": "return=minimal, respond-async"}),
        ({"prefer_async": False}, {"Prefer": "respond-async"}),
    ],
)
def test_each_way_of_asking_makes_a_job(
    web: Web, customer: Customer, fields: dict[str, Any], headers: dict[str, str]
) -> None:
    response = web.client(customer).post(CHAT, json={**CHAT_BODY, **fields}, headers=headers)
    assert response.status_code == 202
    assert web.column("SELECT id FROM jobs") == [job_uuid(response)]


def test_a_job_keeps_the_body_that_the_provider_will_see(web: Web, customer: Customer) -> None:
    body = {**CHAT_BODY, "seed": 7, "of_tomorrow": {"a": [1, None]}}
    ours = {"prefer_async": True, "deadline": 90000, "metadata": {"a": "b"}, "custom_id": "c"}
    assert web.client(customer).post(CHAT, json={**body, **ours}).status_code == 202
    (kept,) = web.column("SELECT body FROM job_bodies")
    assert orjson.loads(kept) == body


@pytest.mark.parametrize(
    ("inputs", "number"), [("a", 1), (["a", "b", "c"], 3), ([1, 2, 3], 1), ([[1], [2]], 2)]
)
def test_the_inputs_of_embeddings_are_counted(
    web: Web, customer: Customer, inputs: object, number: int
) -> None:
    body = {**EMBEDDING_BODY, "input": inputs, "prefer_async": True}
    assert web.client(customer).post(EMBEDDINGS, json=body).status_code == 202
    assert web.column("SELECT embedding_inputs FROM jobs") == [number]


def test_acceptance_holds_the_ceiling(web: Web, customer: Customer) -> None:
    before = web.available_nanos(customer)
    job = web.client(customer).post(CHAT, json=ASYNC_BODY).get_json()["job"]
    held = parse_usd(job["cost"]["estimated_usd"])
    assert web.available_nanos(customer) == before - held
    web.assert_books_are_clean()


def test_acceptance_needs_no_redis(database_url: str, provider: SimulatorProcess) -> None:
    with make_web(database_url, "redis://127.0.0.1:1/0", provider) as web:
        response = web.client(web.customer()).post(CHAT, json=ASYNC_BODY)
        assert response.status_code == 202
        checks = web.client(None).get("/ready").get_json()["checks"]
        assert (checks["redis"], checks["database"]) == ("down", "ok")


def test_an_ordinary_call_is_answered_under_our_id_and_the_name_that_was_asked_for(
    web: Web, customer: Customer
) -> None:
    response = web.client(customer).post(CHAT, json=CHAT_BODY)
    answer = response.get_json()
    assert response.status_code == 200
    assert ids.parse(Prefix.COMPLETION, answer["id"]) is not None
    assert (answer["object"], answer["model"]) == ("chat.completion", "openai/gpt-4o-mini")
    assert echo("hi") in answer["choices"][0]["message"]["content"]
    assert response.headers["X-Lane"] == "standard"
    assert "Location" not in response.headers
    assert "X-Async-Ineligible" not in response.headers
    web.settled()
    assert web.column("SELECT charged_nanos FROM settlements") == [
        parse_usd(response.headers["X-Cost-Usd"])
    ]
    web.assert_books_are_clean()


def test_an_ordinary_call_costs_its_usage_at_the_standard_price(
    web: Web, customer: Customer
) -> None:
    before = web.available_nanos(customer)
    response = web.client(customer).post(CHAT, json=CHAT_BODY)
    usage = response.get_json()["usage"]
    # gpt-4o-mini: $0.15 and $0.60 a million tokens.
    cost = usage["prompt_tokens"] * 150 + usage["completion_tokens"] * 600
    assert response.headers["X-Cost-Usd"] == format_usd(cost)
    web.settled()
    assert web.available_nanos(customer) == before - cost
    assert web.column("SELECT status FROM holds") == ["posted"]


def test_metadata_reaches_the_provider_of_an_ordinary_call_and_our_fields_do_not(
    web: Web, customer: Customer
) -> None:
    # The simulator refuses fields that OpenAI does not know.
    ours = {"prefer_async": False, "custom_id": "c", "deadline": "1h"}
    body = {**CHAT_BODY, **ours, "metadata": {"a": "b"}, "store": True}
    assert web.client(customer).post(CHAT, json=body).status_code == 200


def test_usage_that_nobody_reported_is_unpriced_and_suspended(
    web: Web, customer: Customer, provider: SimulatorProcess
) -> None:
    provider.turn(missing_usage=1)
    before = web.available_nanos(customer)
    response = web.client(customer).post(CHAT, json=CHAT_BODY)
    assert response.status_code == 200
    assert "X-Cost-Usd" not in response.headers
    web.settled()
    assert web.column("SELECT unpriced FROM settlements") == [True]
    assert web.column("SELECT kind FROM transfers WHERE hold_id IS NOT NULL") == ["suspense"]
    assert web.available_nanos(customer) < before
    web.assert_books_are_clean()


@pytest.mark.parametrize("encoding", [None, "float", "base64"])
def test_embeddings_come_in_the_encoding_that_was_asked_for(
    web: Web, customer: Customer, encoding: str | None
) -> None:
    fields = {} if encoding is None else {"encoding_format": encoding}
    body = {**EMBEDDING_BODY, "input": ["a", "b"], **fields}
    response = web.client(customer).post(EMBEDDINGS, json=body)
    vectors = [each["embedding"] for each in response.get_json()["data"]]
    assert response.status_code == 200
    assert response.get_json()["model"] == "text-embedding-3-small"
    assert [type(vector) for vector in vectors] == [str if encoding == "base64" else list] * 2
    assert response.headers["X-Cost-Usd"]


def test_an_anthropic_model_is_answered_in_openais_shape(web: Web, customer: Customer) -> None:
    body = {"model": "anthropic/claude-haiku-5-5", "messages": SAYS_HI}
    response = web.client(customer).post(CHAT, json=body)
    answer = response.get_json()
    assert response.status_code == 200, response.text
    assert (answer["object"], answer["model"]) == ("chat.completion", body["model"])
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["usage"]["total_tokens"] > 0
    assert response.headers["X-Cost-Usd"]


@pytest.mark.parametrize(
    "model",
    [
        *("claude-haiku-4-5", "claude-sonnet-4-5", "claude-opus-4-5", "claude-sonnet-4-6"),
        *("claude-haiku-5-5", "claude-sonnet-5-5", "claude-opus-5-5"),
    ],
)
def test_who_sets_no_limit_is_asked_for_with_all_that_a_claude_may_say(
    web: Web, customer: Customer, model: str
) -> None:
    body = {"model": model, "messages": SAYS_HI}
    (route,) = web.state.house.router.routes(Endpoint.CHAT_COMPLETIONS, model, body)
    line = route.dialect.encode_line("r-1", Endpoint.CHAT_COMPLETIONS, route.offer.model, body)
    limit = orjson.loads(line)["params"]["max_tokens"]
    assert limit == route.model.max_output_tokens
    # Anthropic refuses a limit above the model's.
    assert web.client(customer).post(CHAT, json=body).status_code == 200


@pytest.mark.parametrize(
    ("fields", "reason"),
    [({"deadline": "299s"}, "deadline"), ({"deadline": 10}, "deadline")],
)
def test_a_call_that_cannot_wait_is_answered_at_once_and_told_why(
    web: Web, customer: Customer, fields: dict[str, Any], reason: str
) -> None:
    response = web.client(customer).post(CHAT, json={**ASYNC_BODY, **fields})
    assert response.status_code == 200
    assert response.headers["X-Async-Ineligible"] == reason
    assert response.headers["X-Lane"] == "standard"
    assert "Preference-Applied" not in response.headers
    assert response.get_json()["object"] == "chat.completion"
    assert web.count("jobs") == 0


def test_the_models_that_are_listed_can_be_called(web: Web, customer: Customer) -> None:
    client = web.client(customer)
    listed = client.get("/v1/models").get_json()
    assert listed["object"] == "list"
    makers = {model["owned_by"] for model in listed["data"]}
    assert makers == {"openai", "anthropic"}
    mini = next(model for model in listed["data"] if model["id"] == "openai/gpt-4o-mini")
    assert mini["object"] == "model"
    assert mini["pricing"] == {
        "prompt": "0.00015",
        "completion": "0.0006",
        "batch_prompt": "0.000075",
        "batch_completion": "0.0003",
        "unit": "usd_per_1k_tokens",
    }
    assert mini["context_length"] == 128_000
    assert "batch" in mini["supported_features"]
    for path in ("openai/gpt-4o-mini", "gpt-4o-mini", "openai%2Fgpt-4o-mini"):
        assert client.get(f"/v1/models/{path}").get_json() == mini


def test_the_webhook_secret_is_the_accounts_own(web: Web, customer: Customer) -> None:
    secrets = set()
    for each in (customer, customer, web.customer()):
        answer = web.client(each).get("/v1/webhook_secret").get_json()
        assert answer["object"] == "webhook_secret"
        assert answer["secret"].startswith("whsec_")
        secrets.add(answer["secret"])
    assert len(secrets) == 2


def test_health_needs_no_key_and_no_database(web: Web) -> None:
    response = web.client(None).get("/health")
    assert (response.status_code, response.get_json()) == (200, {"status": "ok"})


def test_readiness_names_what_is_checked(web: Web) -> None:
    response = web.client(None).get("/ready")
    assert response.status_code == 200
    assert response.get_json() == {
        "status": "degraded",
        "checks": {"database": "ok", "migrations": "ok", "redis": "ok", "scheduler": "down"},
    }
