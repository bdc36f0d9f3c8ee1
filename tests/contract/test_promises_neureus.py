"""What Neureus's reference of its AI gateway promises, against the running gateway.

Where this service decided otherwise:

| the page | here |
|---|---|
| `model: "auto"` routes by task | 400 |
| `x-neureus-options: compress=true`, `x-neureus-debug` | 400: nothing is preprocessed |
| provider `workers-ai` | may be asked for, and has no models |
| retired and unlisted model names | those of the catalogue, and its aliases |
| half price for `prefer_async` | where the provider has a batch price; said if it is not |
| `client.ai.chat` answers `content` | the answer has both `text` and `content` |
| no word on how a job is polled | `GET /ai/batch/{jobId}`, shaped as the call's answer |
| no schema of embeddings | OpenAI's, with tokens and costs as in a chat |
| no word on how a widget key is named to be revoked | by its id, its text or its agent |
| no limits of widget keys | origins, models, requests by key and by visitor, spend caps |

The routes of customers' own provider keys have tests of their own. What is told to the letter is
in the integration tests.
"""

import time
from collections.abc import Iterator
from typing import Any

import httpx
import orjson
import pytest

from gateway.calls.attempts import ATTEMPTS
from tests.acceptance.deployment import Deployment, until
from tests.contract.simulator_process import echo

CHAT, EMBEDDINGS, MODELS = "/ai/chat", "/ai/embeddings", "/ai/models"
WIDGET_KEY, PAGE = "/ai/widget/key", "https://shop.example.com"
QUESTION = "Explain edge computing."
ASKS = [{"role": "user", "content": QUESTION}]
CLAUDE = "claude-sonnet-4-6"
DONE_SECONDS = 40.0
LOGGED_SECONDS = 20.0
REVOKED_SECONDS = 2.5
Json = dict[str, Any]


@pytest.fixture
def client(gateway: Deployment) -> Iterator[httpx.Client]:
    with gateway.client(gateway.accounts[2].api_key) as made:
        yield made


def chat(client: httpx.Client, **fields: Any) -> Json:
    answer: Json = client.post(CHAT, json={"messages": ASKS, **fields}).raise_for_status().json()
    return answer


def events(client: httpx.Client, **fields: Any) -> list[Json]:
    """The events of a stream."""
    body = {"messages": ASKS, "stream": True, **fields}
    with client.stream("POST", CHAT, json=body) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        *told, end = response.read().decode().split("\n\n")
    assert end == ""
    return [orjson.loads(each.removeprefix("data: ")) for each in told]


@pytest.mark.promise("E1", "E3", "E13", "E14")
def test_the_llama_answers_a_chat_that_names_no_model(client: httpx.Client) -> None:
    answer = chat(client)
    assert answer["model"] == "meta-llm"
    assert echo(QUESTION) in answer["text"]


@pytest.mark.promise("E22", "E23", "E26", "E27", "E28", "E29", "E30", "E31", "E38", "E39")
@pytest.mark.parametrize("model", ["meta-llm", CLAUDE, "gpt-4o-mini"])
def test_an_answer_has_every_field_of_the_page(client: httpx.Client, model: str) -> None:
    answer = chat(client, model=model)
    assert echo(QUESTION) in answer["text"]
    assert answer["content"] == answer["text"]
    message = answer["choices"][0]["message"]
    assert (message["role"], message["content"]) == ("assistant", answer["text"])
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert isinstance(answer["logId"], str)
    usage = answer["usage"]
    assert usage["prompt_tokens"] == answer["inputTokens"] > 0
    assert usage["completion_tokens"] == answer["outputTokens"] > 0
    assert usage["total_tokens"] == answer["inputTokens"] + answer["outputTokens"]
    assert answer["cached"] is False
    assert isinstance(answer["costUsd"], float)
    assert answer["costUsd"] > 0


@pytest.mark.promise("E12", "E32", "E33", "E34")
@pytest.mark.parametrize("model", ["meta-llm", CLAUDE])
def test_a_stream_is_deltas_and_an_end_that_counts(client: httpx.Client, model: str) -> None:
    *told, last = events(client, model=model)
    assert len(told) > 1
    assert all(
        each == {"delta": {"content": each["delta"]["content"]}, "done": False} for each in told
    )
    assert echo(QUESTION) in "".join(each["delta"]["content"] for each in told)
    assert last["done"] is True
    assert isinstance(last["logId"], str)
    assert last["inputTokens"] > 0
    assert last["outputTokens"] > 0


@pytest.mark.promise("E12", "E16")
def test_a_chat_is_not_streamed_unless_that_is_asked_for(client: httpx.Client) -> None:
    response = client.post(CHAT, json={"messages": ASKS})
    assert response.headers["content-type"] == "application/json"


@pytest.mark.promise("E18", "E19")
@pytest.mark.parametrize("name", ["maxTokens", "max_tokens"])
def test_either_name_bounds_the_tokens(client: httpx.Client, name: str) -> None:
    answer = chat(client, model="gpt-4o-mini", **{name: 2})
    assert answer["outputTokens"] <= 2
    assert answer["choices"][0]["finish_reason"] == "length"


@pytest.mark.promise("E20")
def test_the_system_prompt_is_put_before_the_messages(client: httpx.Client) -> None:
    system = {"role": "system", "content": "Be brief."}
    prompted = chat(client, model="gpt-4o-mini", systemPrompt="Be brief.")
    said = chat(client, model="gpt-4o-mini", messages=[system, *ASKS])
    assert (prompted["text"], prompted["inputTokens"]) == (said["text"], said["inputTokens"])
    assert prompted["inputTokens"] > chat(client, model="gpt-4o-mini")["inputTokens"]


@pytest.mark.promise("E17")
@pytest.mark.parametrize(("temperature", "status"), [(0, 200), (2, 200), (2.1, 400), (-1, 400)])
def test_the_temperature_is_between_0_and_2(
    client: httpx.Client, temperature: float, status: int
) -> None:
    body = {"messages": ASKS, "model": "gpt-4o-mini", "temperature": temperature}
    assert client.post(CHAT, json=body).status_code == status


@pytest.mark.promise("E21")
def test_a_call_that_can_wait_costs_half_and_is_polled_to_the_same_answer(
    client: httpx.Client,
) -> None:
    now = client.post(CHAT, json={"messages": ASKS, "model": "gpt-4o-mini"}).json()
    body = {"messages": ASKS, "model": "gpt-4o-mini", "prefer_async": True}
    response = client.post(CHAT, json=body)
    accepted = response.json()
    assert response.status_code == 202, accepted
    assert (accepted["text"], accepted["status"]) == ("", "queued")
    assert now.keys() <= accepted.keys()
    end = time.monotonic() + DONE_SECONDS
    while (polled := client.get(f"/ai/batch/{accepted['jobId']}")).status_code == 202:
        assert polled.json().keys() == accepted.keys()
        assert time.monotonic() < end, polled.text
        time.sleep(0.2)
    done = polled.raise_for_status().json()
    assert (done["status"], done["logId"]) == ("completed", accepted["logId"])
    assert (done["text"], done["usage"]) == (now["text"], now["usage"])
    assert done["costUsd"] == pytest.approx(now["costUsd"] / 2, abs=1e-9)


@pytest.mark.promise("E21")
def test_a_model_without_a_batch_price_is_answered_at_once_and_says_so(
    client: httpx.Client,
) -> None:
    response = client.post(CHAT, json={"messages": ASKS, "prefer_async": True})
    assert (response.status_code, response.headers["x-async-ineligible"]) == (200, "model")


@pytest.mark.promise("E37")
def test_a_surface_that_is_named_tags_the_request(
    gateway: Deployment, client: httpx.Client
) -> None:
    def tagged() -> bool:
        query = "SELECT 1 FROM request_log WHERE source = 'docs' AND account_id = %s"
        account_id = gateway.accounts[2].id.removeprefix("acct_")
        with gateway.database() as connection:
            return connection.execute(query, (account_id,)).fetchone() is not None

    headers = {"x-neureus-surface": "docs"}
    client.post(CHAT, json={"messages": ASKS}, headers=headers).raise_for_status()
    until(tagged, LOGGED_SECONDS, "the request is in the log with its tag")


@pytest.mark.promise("E24")
def test_tools_and_the_other_fields_of_openai_work(client: httpx.Client) -> None:
    function = {"name": "weather", "parameters": {"type": "object"}}
    fields: Json = {
        "tools": [{"type": "function", "function": function}],
        "tool_choice": "required",
        "seed": 7,
    }
    answer = chat(client, model="gpt-4o-mini", **fields)
    assert answer["toolCalls"][0]["function"]["name"] == "weather"


@pytest.mark.promise("E5")
def test_embeddings_are_made(client: httpx.Client) -> None:
    answer = client.post(EMBEDDINGS, json={"input": "edge"}).raise_for_status().json()
    assert len(answer["data"][0]["embedding"]) == 1536
    assert answer["inputTokens"] > 0


@pytest.mark.promise("E4", "E39", "E40", "E43", "E44", "E45", "E46", "E47", "E48")
def test_a_listed_model_has_every_field_of_the_page(client: httpx.Client) -> None:
    response = client.get(MODELS).raise_for_status()
    assert "max-age=300" in response.headers["cache-control"]
    models = {model["id"]: model for model in response.json()["models"]}
    assert models.keys() >= {CLAUDE, "gpt-4o", "llama-3.1-8b-instruct"}
    claude = models[CLAUDE]
    assert (claude["name"], claude["provider"], claude["type"]) == (
        "Claude Sonnet 4.6",
        "anthropic",
        "reasoning",
    )
    for model in models.values():
        assert isinstance(model["contextWindow"], int | None)
        assert isinstance(model["inputCostPer1k"], int | float)
        assert isinstance(model["outputCostPer1k"], int | float)
        assert isinstance(model["supportedFeatures"], list)
    assert {"streaming", "tool_use"} <= set(claude["supportedFeatures"])


@pytest.mark.promise("E41", "E42")
@pytest.mark.parametrize(
    "query",
    [{"provider": "openai"}, {"provider": "anthropic"}, {"type": "reasoning"}, {"type": "chat"}],
)
def test_models_are_filtered(client: httpx.Client, query: dict[str, str]) -> None:
    models = client.get(MODELS, params=query).raise_for_status().json()["models"]
    assert models
    ((name, value),) = query.items()
    assert {model[name] for model in models} == {value}


@pytest.mark.promise("E41")
def test_a_provider_that_is_not_configured_has_no_models(client: httpx.Client) -> None:
    response = client.get(MODELS, params={"provider": "workers-ai"})
    assert response.raise_for_status().json() == {"models": []}


@pytest.mark.promise("E15")
@pytest.mark.parametrize(
    ("fields", "status", "word"),
    [
        ({"messages": []}, 400, "BAD_REQUEST"),
        ({"model": "auto"}, 400, "BAD_REQUEST"),
        ({"model": "nothing"}, 404, "NOT_FOUND"),
        ({"max_tokens": 10**12}, 402, "INSUFFICIENT_FUNDS"),
    ],
)
def test_errors_are_flat(client: httpx.Client, fields: Json, status: int, word: str) -> None:
    response = client.post(CHAT, json={"messages": ASKS, **fields})
    assert (response.status_code, response.json()["error"]) == (status, word)
    assert response.json().keys() == {"error", "message"}


@pytest.mark.promise("E10", "E11", "E53", "E54", "E55")
def test_a_page_chats_with_a_key_that_opens_nothing_else_until_it_is_revoked(
    gateway: Deployment, client: httpx.Client
) -> None:
    asked = {"agent_id": "agent_abc123", "allowed_origins": [PAGE]}
    key = client.post(WIDGET_KEY, json=asked).raise_for_status().json()
    assert key["key"].startswith("pk_")
    assert key["keyPreview"] == key["key"][:7]
    with gateway.client(key["key"]) as page:
        page.headers["Origin"] = PAGE
        wanted = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "a"}
        with httpx.Client(base_url=gateway.base_url, trust_env=False) as browser:
            allowed = browser.options(CHAT, headers={"Origin": PAGE, **wanted})
        assert (allowed.status_code, allowed.headers["access-control-allow-origin"]) == (204, PAGE)
        response = page.post(CHAT, json={"messages": ASKS})
        assert echo(QUESTION) in response.raise_for_status().json()["text"]
        assert response.headers["access-control-allow-origin"] == PAGE
        assert events(page)[-1]["done"] is True
        for method, path in (("POST", EMBEDDINGS), ("GET", MODELS), ("POST", WIDGET_KEY)):
            refused = page.request(method, path, json={})
            assert (refused.status_code, refused.json()["error"]) == (403, "FORBIDDEN")
        client.request("DELETE", WIDGET_KEY, json={"key": key["key"]}).raise_for_status()
        time.sleep(REVOKED_SECONDS)
        # More often than there are processes: none of them remembers it.
        answers = [page.post(CHAT, json={"messages": ASKS}) for _ in range(6)]
        assert {answer.status_code for answer in answers} == {401}


@pytest.mark.promise("E2")
def test_every_route_needs_a_key(gateway: Deployment) -> None:
    for method, path in (("POST", CHAT), ("GET", MODELS), ("POST", EMBEDDINGS)):
        response = httpx.request(method, gateway.base_url + path, json={}, trust_env=False)
        assert (response.status_code, response.json()["error"]) == (401, "UNAUTHORIZED")


def test_a_failing_provider_is_a_flat_error_in_a_stream_too(
    gateway: Deployment, client: httpx.Client
) -> None:
    gateway.simulator.turn(server_error={"count": ATTEMPTS})
    response = client.post(CHAT, json={"messages": ASKS, "stream": True})
    assert (response.status_code, response.json()["error"]) == (502, "UPSTREAM_ERROR")
    gateway.simulator.turn(stream_error={"count": 1})
    *_, last = events(client)
    assert (last["error"], last["done"]) == ("UPSTREAM_ERROR", True)
