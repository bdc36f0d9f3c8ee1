"""The `/ai` routes: the calls of `/v1` in Neureus's words."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import orjson
import pytest
from werkzeug.test import TestResponse

from gateway.billing.prices import NANO_PER_USD, parse_usd
from gateway.calls.attempts import ATTEMPTS
from gateway.calls.record import CallRecord
from gateway.calls.routing import NO_OWN_KEYS, Router
from gateway.catalogue.catalogue import Model
from gateway.providers.dialect import Broken, Credential
from models import ids
from models.ids import Prefix
from models.states import JobStatus
from tests.conftest import WorkerServices
from tests.contract.simulator_process import SimulatorProcess, echo
from tests.integration.slow_dialect import HURRY, SlowDialect, served_by
from tests.integration.web_world import CHAT, SAYS_HI, Customer, Web, make_web
from web import neureus_models
from web.state import EXTENSION

AI_CHAT, AI_EMBEDDINGS, AI_MODELS = "/ai/chat", "/ai/embeddings", "/ai/models"
BODY: Mapping[str, Any] = {"messages": SAYS_HI}
BATCHABLE: Mapping[str, Any] = {"model": "gpt-4o-mini", "messages": SAYS_HI}
ASYNC: Mapping[str, Any] = {**BATCHABLE, "prefer_async": True}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
CALLS_TOOL = {"tools": [TOOL], "tool_choice": "required"}
Json = dict[str, Any]


@pytest.fixture(scope="module")
def llama_web(
    worker_services: WorkerServices, worker_database_url: str, provider_process: SimulatorProcess
) -> Iterator[Web]:
    """A web process that has a Llama as well."""
    groq = {"groq_api_key": "sim-groq", "groq_base_url": provider_process.openai_url}
    redis_url = worker_services.url("redis")
    with make_web(worker_database_url, redis_url, provider_process, **groq) as made:
        yield made


@pytest.fixture
def web(
    llama_web: Web,
    database_url: str,  # noqa: ARG001 (empties the database)
    redis_url: str,  # noqa: ARG001 (empties Redis)
    provider: SimulatorProcess,  # noqa: ARG001 (makes the provider forget)
) -> Iterator[Web]:
    """A web process that has just started, on an empty database."""
    llama_web.renew()
    yield llama_web
    llama_web.close()


@pytest.fixture
def customer(web: Web) -> Customer:
    return web.customer()


@pytest.fixture
def records(web: Web) -> list[CallRecord]:
    """What is told of finished calls."""
    told: list[CallRecord] = []
    web.state.observers[:] = [told.append]
    return told


def post(
    web: Web,
    customer: Customer | None,
    body: Mapping[str, Any],
    path: str = AI_CHAT,
    **headers: str,
) -> TestResponse:
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    return web.client(customer).post(path, json=body, headers=sent)


def flat(response: TestResponse) -> tuple[int, str]:
    """The status and the word of a flat error."""
    error = orjson.loads(response.data)
    assert error.keys() == {"error", "message"}
    assert isinstance(error["message"], str)
    assert error["message"]
    assert response.mimetype == "application/json"
    return response.status_code, error["error"]


def events(response: TestResponse) -> list[Json]:
    """A stream's events, the comments left out."""
    assert (response.status_code, response.mimetype) == (200, "text/event-stream"), response.text
    *lines, end = response.text.split("\n\n")
    assert end == ""
    return [orjson.loads(each.removeprefix("data: ")) for each in lines if each[0] != ":"]


def kept_body(web: Web) -> Json:
    """What the provider of the only job will see."""
    (body,) = web.column("SELECT body FROM job_bodies")
    kept: Json = orjson.loads(body)
    return kept


# Answers in one piece.


def test_a_chat_without_a_model_is_answered_by_the_llama_to_the_letter(
    web: Web, customer: Customer, records: list[CallRecord]
) -> None:
    response = post(web, customer, BODY)
    answer = response.get_json()
    assert response.status_code == 200, answer
    (record,) = records
    assert (record.model, record.provider) == ("meta-llama/llama-3.1-8b-instruct", "groq")
    text, usage = answer["text"], answer["usage"]
    assert echo("hi") in text
    (choice,) = answer["choices"]
    assert (choice["message"]["role"], choice["finish_reason"]) == ("assistant", "stop")
    assert choice["message"]["content"] == text
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"] > 0
    assert answer == {
        "text": text,
        "content": text,
        "choices": [choice],
        "model": "meta-llm",
        "logId": f"log_{record.call_id.hex}",
        "inputTokens": usage["prompt_tokens"],
        "outputTokens": usage["completion_tokens"],
        "usage": usage,
        "cached": False,
        "costUsd": float(response.headers["X-Cost-Usd"]),
    }
    assert b'"costUsd":%b}' % response.headers["X-Cost-Usd"].encode() in response.data
    assert answer["costUsd"] > 0
    web.assert_books_are_clean()


@pytest.mark.promise("E24", "E25")
def test_a_tool_call_and_the_reasoning_are_told_besides_the_text(
    web: Web, customer: Customer
) -> None:
    answer = post(web, customer, {**BATCHABLE, **CALLS_TOOL}).get_json()
    (call,) = answer["toolCalls"]
    assert (call["type"], call["function"]["name"]) == ("function", "weather")
    assert (answer["text"], answer["choices"][0]["finish_reason"]) == ("", "tool_calls")
    assert "reasoning" not in answer


def test_the_same_words_reach_the_provider_as_from_v1(web: Web, customer: Customer) -> None:
    named = {"systemPrompt": "Be brief.", "maxTokens": 20, "max_tokens": 20, "seed": 7}
    assert post(web, customer, {**ASYNC, **named}).status_code == 202
    assert kept_body(web) == {
        "model": "gpt-4o-mini",
        "messages": [{"role": "system", "content": "Be brief."}, *SAYS_HI],
        "max_tokens": 20,
        "seed": 7,
    }


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"maxTokens": 20, "max_tokens": 21}, "maxTokens"),
        ({"maxTokens": 0}, "maxTokens"),
        ({"systemPrompt": 1}, "systemPrompt"),
        (
            {"systemPrompt": "x", "messages": [{"role": "nobody", "content": "x"}]},
            "messages[0].role",
        ),
        ({"messages": []}, "messages"),
        ({"temperature": 2.1}, "temperature"),
        ({"model": "auto"}, "auto"),
        ({"model": ""}, "model"),
        ({"deadline": "soon"}, "deadline"),
    ],
)
def test_a_wrong_field_is_named_as_its_caller_wrote_it(
    web: Web, customer: Customer, fields: Json, named: str
) -> None:
    response = post(web, customer, {**BODY, **fields})
    assert flat(response) == (400, "BAD_REQUEST")
    assert f"'{named}'" in response.get_json()["message"]


@pytest.mark.promise("E35", "E36")
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("x-neureus-options", "compress=true"),
        ("x-neureus-debug", "true"),
        ("x-neureus-surface", "two words"),
        ("x-neureus-surface", "x" * 65),
    ],
)
def test_a_header_that_asks_for_what_is_not_there_is_refused_by_its_name(
    web: Web, customer: Customer, name: str, value: str
) -> None:
    response = post(web, customer, BODY, **{name: value})
    assert flat(response) == (400, "BAD_REQUEST")
    assert f"'{name}'" in response.get_json()["message"]


def test_headers_that_ask_for_nothing_are_taken(web: Web, customer: Customer) -> None:
    headers = {"x-neureus-options": "compress=false", "x-neureus-debug": "false"}
    assert post(web, customer, BODY, **headers).status_code == 200


def test_embeddings_are_openais_and_say_what_they_took(web: Web, customer: Customer) -> None:
    response = post(web, customer, {"input": ["a", "b"]}, AI_EMBEDDINGS)
    answer = response.get_json()
    assert response.status_code == 200, answer
    assert [len(each["embedding"]) for each in answer["data"]] == [1536, 1536]
    assert answer["inputTokens"] == answer["usage"]["prompt_tokens"] > 0
    assert (answer["outputTokens"], answer["cached"]) == (None, False)
    assert answer["costUsd"] == float(response.headers["X-Cost-Usd"]) > 0
    streamed = post(web, customer, {"input": "a", "stream": True}, AI_EMBEDDINGS)
    assert flat(streamed) == (400, "BAD_REQUEST")


def test_a_cost_that_nobody_knows_is_null(
    web: Web, customer: Customer, provider: SimulatorProcess
) -> None:
    provider.turn(missing_usage=2)
    answer = post(web, customer, BATCHABLE).get_json()
    assert (answer["costUsd"], answer["inputTokens"], answer["usage"]) == (None, None, None)
    *_, last = events(post(web, customer, {**BATCHABLE, "stream": True}))
    assert (last["costUsd"], last["inputTokens"], last["outputTokens"]) == (None, None, None)


@pytest.mark.parametrize(
    ("error", "told"),
    [(None, None), (Broken("garbled"), "UPSTREAM_ERROR")],
    ids=["answer", "error"],
)
def test_what_is_told_late_is_worded_too(
    web: Web, customer: Customer, error: Broken | None, told: str | None
) -> None:
    undo = served_by(web, SlowDialect(first_seconds=0.3, error=error), HURRY)
    response = post(web, customer, BATCHABLE)
    assert response.data.startswith(b" ")
    late = orjson.loads(response.data)
    undo()
    assert (response.status_code, late.get("error")) == (200, told)
    assert ("text" in late) == (error is None)


# Streams.


@pytest.mark.parametrize("model", ["meta-llm", "claude-haiku-5-5"])
def test_a_stream_says_what_an_answer_does_and_counts_the_same(
    web: Web, customer: Customer, records: list[CallRecord], model: str
) -> None:
    whole = post(web, customer, {**BODY, "model": model}).get_json()
    *told, last = events(post(web, customer, {**BODY, "model": model, "stream": True}))
    assert {frozenset(each) for each in told} == {frozenset(("delta", "done"))}
    assert {each["done"] for each in told} == {False}
    assert all(each["delta"].keys() == {"content"} for each in told)
    assert "".join(each["delta"]["content"] for each in told) == whole["text"]
    assert last == {
        "done": True,
        "logId": f"log_{records[-1].call_id.hex}",
        "inputTokens": whole["inputTokens"],
        "outputTokens": whole["outputTokens"],
        "costUsd": whole["costUsd"],
        "finishReason": "stop",
    }
    web.assert_books_are_clean()


def test_a_streamed_tool_call_comes_in_deltas(web: Web, customer: Customer) -> None:
    *told, last = events(post(web, customer, {**BATCHABLE, **CALLS_TOOL, "stream": True}))
    pieces = [each["delta"]["toolCalls"][0]["function"] for each in told]
    assert pieces[0]["name"] == "weather"
    assert orjson.loads("".join(piece.get("arguments", "") for piece in pieces)) is not None
    assert last["finishReason"] == "tool_calls"


def test_an_error_in_mid_stream_is_the_last_event(
    web: Web, customer: Customer, provider: SimulatorProcess
) -> None:
    provider.turn(stream_error={"count": 1})
    *told, last = events(post(web, customer, {**BATCHABLE, "stream": True}))
    assert told
    assert (last["error"], last["done"]) == ("UPSTREAM_ERROR", True)
    web.assert_books_are_clean()


def test_a_stream_is_not_batched_and_says_so(web: Web, customer: Customer) -> None:
    response = post(web, customer, {**ASYNC, "stream": True})
    assert response.headers["X-Async-Ineligible"] == "stream"
    assert events(response)[-1]["done"]


@pytest.mark.parametrize("fields", [{}, {"stream": True}, {"prefer_async": True}])
def test_an_idempotency_key_gives_the_same_bytes_again(
    web: Web, customer: Customer, fields: Json
) -> None:
    body = {**BATCHABLE, **fields}
    first = post(web, customer, body, idempotency_key="k")
    told = first.data
    web.settled()
    again = post(web, customer, body, idempotency_key="k")
    assert (again.data, again.status_code) == (told, first.status_code)
    assert again.headers["Idempotent-Replayed"] == "true"
    assert again.headers.get("Location") == first.headers.get("Location")
    # The same words mean something else elsewhere.
    assert post(web, customer, body, CHAT, idempotency_key="k").status_code == 422
    web.assert_books_are_clean()


# Jobs.


def test_a_job_is_answered_like_a_call_and_polled_to_its_answer(
    web: Web, customer: Customer
) -> None:
    response = post(web, customer, ASYNC)
    accepted = response.get_json()
    job_id = ids.parse(Prefix.JOB, accepted["jobId"])
    assert job_id is not None
    assert response.status_code == 202
    assert response.headers["Location"] == f"/ai/batch/{accepted['jobId']}"
    assert (response.headers["X-Lane"], response.headers["Retry-After"]) == ("batch", "30")
    estimated = accepted.pop("estimatedCostUsd")
    assert estimated > 0
    assert accepted == {
        "text": "",
        "content": "",
        "status": "queued",
        "jobId": f"job_{job_id.hex}",
        "logId": f"log_{job_id.hex}",
        "model": "gpt-4o-mini",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": None},
                "finish_reason": None,
            }
        ],
        "usage": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0},
        "inputTokens": 0,
        "outputTokens": 0,
        "cached": False,
        "costUsd": 0,
    }
    polled = web.client(customer).get(response.headers["Location"])
    assert (polled.status_code, polled.headers["Retry-After"]) == (202, "30")
    assert polled.get_json() == {**accepted, "estimatedCostUsd": estimated}
    web.end(job_id)
    done = web.client(customer).get(response.headers["Location"])
    answer = done.get_json()
    assert (done.status_code, answer["status"], answer["jobId"]) == (
        200,
        "completed",
        accepted["jobId"],
    )
    assert answer["logId"] == accepted["logId"]
    assert answer["costUsd"] == float(done.headers["X-Cost-Usd"]) > 0
    assert done.headers["X-Lane"] == "batch"
    # The same job in OpenAI's words.
    assert web.client(customer).get(f"/v1/jobs/{accepted['jobId']}/result").status_code == 200


def test_embeddings_become_a_job_too(web: Web, customer: Customer) -> None:
    accepted = post(web, customer, {"input": "a", "prefer_async": True}, AI_EMBEDDINGS)
    assert accepted.status_code == 202
    assert accepted.get_json()["data"] == [{"object": "embedding", "index": 0, "embedding": []}]
    polled = web.client(customer).get(accepted.headers["Location"])
    assert polled.get_json() == accepted.get_json()


@pytest.mark.parametrize(
    ("status", "told"),
    [
        (JobStatus.FAILED, (400, "BAD_REQUEST")),
        (JobStatus.EXPIRED, (504, "UPSTREAM_TIMEOUT")),
        (JobStatus.CANCELLED, (409, "CONFLICT")),
    ],
)
def test_a_job_that_ended_otherwise_is_a_flat_error_that_is_not_retried(
    web: Web, customer: Customer, status: JobStatus, told: tuple[int, str]
) -> None:
    job_id = web.submit(customer)
    web.end(job_id, status)
    response = web.client(customer).get(f"/ai/batch/{ids.show(Prefix.JOB, job_id)}")
    assert flat(response) == told
    assert response.headers["x-should-retry"] == "false"


def test_a_call_whose_caller_waits_no_longer_is_a_job_on_either_surface(
    web: Web, customer: Customer
) -> None:
    undo = served_by(web, SlowDialect(first_seconds=1.3), HURRY)
    response = post(web, customer, BATCHABLE, prefer="respond-async, wait=1")
    assert response.status_code == 202, response.text
    assert response.get_json()["status"] == "in_progress"
    web.state.in_flight.finish(10.0)
    undo()
    job_id = response.get_json()["jobId"]
    told = web.client(customer).get(f"/ai/batch/{job_id}").get_json()
    completion = web.client(customer).get(f"/v1/jobs/{job_id}/result").get_json()
    assert completion["object"] == "chat.completion"
    assert (told["status"], told["choices"]) == ("completed", completion["choices"])
    assert told["logId"] == response.get_json()["logId"]


def test_a_model_that_cannot_be_batched_is_answered_at_once(web: Web, customer: Customer) -> None:
    response = post(web, customer, {**BODY, "prefer_async": True})
    assert (response.status_code, response.headers["X-Async-Ineligible"]) == (200, "model")


def test_what_a_caller_calls_its_surface_is_kept_of_calls_and_jobs(
    web: Web, customer: Customer
) -> None:
    for body in (BATCHABLE, {**BATCHABLE, "stream": True}):
        assert post(web, customer, body, x_neureus_surface="web/chat-1").data
    web.state.request_log.close(5.0)
    job = post(web, customer, ASYNC, x_neureus_surface="night")
    job_id = ids.parse(Prefix.JOB, job.get_json()["jobId"])
    assert job_id is not None
    web.end(job_id)
    assert web.column("SELECT source FROM request_log ORDER BY created_at") == [
        "web/chat-1",
        "web/chat-1",
        "night",
    ]


# Errors.


def test_every_error_of_these_routes_is_flat(
    web: Web, customer: Customer, provider: SimulatorProcess
) -> None:
    client = web.client(customer)
    assert flat(post(web, None, BODY)) == (401, "UNAUTHORIZED")
    assert flat(client.get("/ai/nowhere")) == (404, "NOT_FOUND")
    assert flat(client.get("/ai/batch/job_1")) == (404, "NOT_FOUND")
    assert flat(client.delete(AI_CHAT)) == (405, "BAD_REQUEST")
    assert flat(client.post(AI_CHAT, data=b"{")) == (400, "BAD_REQUEST")
    assert flat(client.post(AI_CHAT, data=b" " * 8_000_001)) == (413, "PAYLOAD_TOO_LARGE")
    compressed = client.post(AI_CHAT, data=b"{}", headers={"Content-Encoding": "gzip"})
    assert flat(compressed) == (400, "BAD_REQUEST")
    assert flat(post(web, customer, {**BODY, "model": "gpt-nothing"})) == (404, "NOT_FOUND")
    required = {**BODY, "require_async": True}
    assert flat(post(web, customer, required)) == (422, "UNPROCESSABLE")
    provider.turn(server_error={"count": ATTEMPTS})
    assert flat(post(web, customer, BATCHABLE)) == (502, "UPSTREAM_ERROR")
    # And no other's.
    assert client.get("/airs").get_json()["error"]["type"] == "not_found"


def test_a_job_of_somebody_else_is_not_there(web: Web, customer: Customer) -> None:
    job_id = web.submit(customer)
    response = web.client(web.customer()).get(f"/ai/batch/{ids.show(Prefix.JOB, job_id)}")
    assert flat(response) == (404, "NOT_FOUND")


def test_too_many_requests_are_a_429_and_too_much_money_a_402(web: Web) -> None:
    hurried = web.customer(requests_per_minute=1)
    assert web.client(hurried).get(AI_MODELS).status_code == 200
    refused = post(web, hurried, BODY)
    assert flat(refused) == (429, "RATE_LIMIT_EXCEEDED")
    assert 1 <= int(refused.headers["Retry-After"]) <= 60
    assert flat(post(web, web.customer(credit_usd=0), BODY)) == (402, "INSUFFICIENT_FUNDS")
    capped = web.customer(daily_nanos=1)
    for fields in ({}, {"stream": True}):
        over = post(web, capped, {**BATCHABLE, **fields})
        assert flat(over) == (402, "INSUFFICIENT_FUNDS")
        assert "daily spend limit" in over.get_json()["message"]
        assert over.headers["x-should-retry"] == "false"
    # OpenAI's words for it are others.
    assert post(web, capped, BATCHABLE, CHAT).status_code == 429


def test_polls_do_not_use_up_the_limit_of_calls(web: Web) -> None:
    customer = web.customer(requests_per_minute=1)
    job_id = post(web, customer, ASYNC).get_json()["jobId"]
    for _ in range(3):
        assert web.client(customer).get(f"/ai/batch/{job_id}").status_code == 202


# Models.


def models(web: Web, customer: Customer, query: str = "") -> list[Json]:
    response = web.client(customer).get(AI_MODELS + query)
    assert response.status_code == 200
    listed: list[Json] = response.get_json()["models"]
    return listed


def test_the_models_are_listed_under_their_bare_names_with_what_is_charged(
    web: Web, customer: Customer
) -> None:
    listed = {model["id"]: model for model in models(web, customer)}
    assert listed["claude-sonnet-4-6"] == {
        "id": "claude-sonnet-4-6",
        "name": "Claude Sonnet 4.6",
        "provider": "anthropic",
        "type": "reasoning",
        "contextWindow": 1_000_000,
        "inputCostPer1k": 0.003,
        "outputCostPer1k": 0.015,
        "supportedFeatures": listed["claude-sonnet-4-6"]["supportedFeatures"],
    }
    assert {"streaming", "tool_use"} <= set(listed["claude-sonnet-4-6"]["supportedFeatures"])
    on_v1 = {model["id"] for model in web.client(customer).get("/v1/models").get_json()["data"]}
    assert {name.partition("/")[2] for name in on_v1} == set(listed)
    charged = parse_usd(web_pricing(web, customer)) / NANO_PER_USD
    assert listed["gpt-4o-mini"]["inputCostPer1k"] == charged


def web_pricing(web: Web, customer: Customer) -> str:
    model = web.client(customer).get("/v1/models/gpt-4o-mini").get_json()
    prompt: str = model["pricing"]["prompt"]
    return prompt


def test_models_are_filtered_by_provider_and_by_type(web: Web, customer: Customer) -> None:
    everything = models(web, customer)
    for name in ("provider", "type"):
        for value in {model[name] for model in everything}:
            wanted = [model for model in everything if model[name] == value]
            assert models(web, customer, f"?{name}={value}") == wanted
    assert models(web, customer, "?provider=openai&type=embedding")
    assert {model["type"] for model in everything} == {"chat", "reasoning", "embedding"}
    assert models(web, customer, "?provider=workers-ai") == []
    assert models(web, customer, "?type=vision") == []
    unknown = web.client(customer).get(AI_MODELS + "?provider=nobody")
    assert flat(unknown) == (400, "BAD_REQUEST")


class CountingRouter(Router):
    """A router that counts how often its models are asked for."""

    def __init__(self, router: Router) -> None:
        self.asked = 0
        self._router = router

    def models(self, own: Mapping[str, Credential] = NO_OWN_KEYS) -> list[Model]:
        self.asked += 1
        return self._router.models(own)


@pytest.mark.promise("E48")
def test_the_list_of_models_is_kept_for_five_minutes(web: Web, customer: Customer) -> None:
    parts = web.state
    router = CountingRouter(parts.house.router)
    house = replace(parts.house, router=router)
    web.app.extensions[EXTENSION] = replace(parts, house=house)
    web.app.extensions.pop(neureus_models.EXTENSION, None)
    for query in ("", "?type=chat", ""):
        response = web.client(customer).get(AI_MODELS + query)
        assert response.headers["Cache-Control"] == "private, max-age=300"
    assert router.asked == 1
    ((providers, kept),) = web.app.extensions[neureus_models.EXTENSION].items()
    assert kept.until > 0
    web.app.extensions[neureus_models.EXTENSION] = {providers: replace(kept, until=0.0)}
    models(web, customer)
    assert router.asked == 2
    web.app.extensions[EXTENSION] = parts
