"""What Neurometric's API documentation promises, against the running gateway.

Where this service decided otherwise:

| the page | here |
|---|---|
| a key from a web page | from an operator command |
| `code` of an error is a string | the HTTP status, a number |
| 500 for an error of the server | and 502, 503, 504, which tell whose it is |
| "100+ models" | under more than 100 names, if all eight providers have a key |
| retired models by their own names | by the maker's present model of the same class |

Not covered, for it is not there yet: the dashboard, usage and cost reports, recommendations. What
they are made of, a row for every request without any set-up, is covered. Kept elsewhere: the SDKs
for Python and JavaScript, by `test_gateway_openai_sdk` and `test_gateway_frameworks`.
"""

from collections.abc import Iterator
from typing import Any, Literal

import httpx
import openai
import pytest
from openai import OpenAI
from pydantic import BaseModel, ConfigDict

from gateway.calls.attempts import ATTEMPTS
from gateway.calls.routing import Router
from gateway.catalogue.catalogue import load
from gateway.net.http import HttpClients
from gateway.providers import dialects
from gateway.providers.dialect import HOUSE, Credential
from tests.acceptance.deployment import Deployment, until
from tests.contract.simulator_process import echo, says

CHAT = "/v1/chat/completions"
QUESTION = "What is the capital of France?"
EXAMPLE: dict[str, Any] = {
    "model": "gpt-4o",
    "messages": [
        {"role": "system", "content": "You are a helpful assistant."},
        {"role": "user", "content": QUESTION},
    ],
    "temperature": 0.7,
    "max_tokens": 150,
    "top_p": 1,
    "stop": ["###"],
}
LOGGED_SECONDS = 20.0


class Message(BaseModel):
    """The page's type of that name; a provider may say more."""

    model_config = ConfigDict(strict=True)

    role: Literal["system", "user", "assistant"]
    content: str


class Choice(BaseModel):
    """One of `choices`."""

    model_config = ConfigDict(strict=True)

    index: int
    message: Message
    finish_reason: Literal["stop", "length", "content_filter"]


class Usage(BaseModel):
    """Token usage statistics."""

    model_config = ConfigDict(strict=True)

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ChatCompletionResponse(BaseModel):
    """The page's type of that name."""

    model_config = ConfigDict(strict=True)

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[Choice]
    usage: Usage


@pytest.fixture
def client(gateway: Deployment) -> Iterator[httpx.Client]:
    with gateway.client(gateway.accounts[1].api_key) as made:
        yield made


def chat(client: httpx.Client, **fields: Any) -> httpx.Response:
    return client.post(CHAT, json={**EXAMPLE, **fields})


@pytest.mark.promise("M1", "M2", "M3", "M4", "M36")
def test_code_for_openai_works_once_base_url_and_key_are_changed(
    gateway: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", gateway.accounts[1].api_key)
    monkeypatch.setenv("OPENAI_BASE_URL", f"{gateway.base_url}/v1")
    with OpenAI() as unchanged:
        response = unchanged.chat.completions.create(model="gpt-4o", messages=says("Hello!"))
    assert echo("Hello!") in (response.choices[0].message.content or "")


@pytest.mark.promise(
    "M5", "M8", "M16", "M17", "M18", "M19", "M20", "M21", "M22", "M23", "M24", "M29"
)
def test_the_example_is_answered_as_the_published_types_say(client: httpx.Client) -> None:
    response = chat(client).raise_for_status()
    answer = ChatCompletionResponse.model_validate_json(response.content)
    assert answer.id.startswith("chatcmpl-")
    assert echo(QUESTION) in answer.choices[0].message.content
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


@pytest.mark.promise("M9", "M10", "M11", "M13")
@pytest.mark.parametrize(
    "model",
    [
        "gpt-4o",
        "gpt-4-turbo",
        "gpt-3.5-turbo",
        "claude-3-5-sonnet",
        "claude-3-opus",
        "llama-3-70b",
        "llama-3-8b",
    ],
)
def test_a_bare_name_is_routed_to_the_right_provider(client: httpx.Client, model: str) -> None:
    # Some of today's models take no sampling parameters.
    answer = client.post(CHAT, json={"model": model, "messages": says(QUESTION)})
    assert answer.status_code == 200, answer.text
    assert answer.json()["model"] == model
    assert echo(QUESTION) in answer.json()["choices"][0]["message"]["content"]


@pytest.fixture(scope="module")
def full_router() -> Iterator[Router]:
    """A router to all providers."""
    http = HttpClients()
    spoken = dialects(http)
    credentials = {
        (name, HOUSE): Credential(name, HOUSE, "sk-1", "http://127.0.0.1:1") for name in spoken
    }
    yield Router(load(), spoken, credentials)
    http.close()


@pytest.mark.promise("M10", "M11", "M12", "M13", "M14")
@pytest.mark.parametrize(
    ("name", "provider"),
    [
        ("gpt-4o", "openai"),
        ("claude-3-opus", "anthropic"),
        ("gemini-pro", "gemini"),
        ("gemini-flash", "gemini"),
        ("llama-3-70b", "groq"),
        ("mistral-large", "mistral"),
        ("mistral-7b", "mistral"),
    ],
)
def test_every_maker_that_the_page_names_is_served(
    full_router: Router, name: str, provider: str
) -> None:
    model = full_router.find(name)
    assert model is not None
    assert model.offers[0].provider == provider


@pytest.mark.promise("M15")
def test_more_than_100_names_are_served(full_router: Router) -> None:
    models = full_router.models()
    bare = {model.id.partition("/")[2] for model in models}
    own = {offer.model.lower() for model in models for offer in model.offers}
    names = bare | own
    assert len(names) > 100
    assert all(full_router.find(name) is not None for name in names)


@pytest.mark.promise("M30", "M31")
def test_every_request_is_tracked_without_any_set_up(
    gateway: Deployment, client: httpx.Client
) -> None:
    def rows() -> list[tuple[Any, ...]]:
        with gateway.database() as connection:
            return connection.execute(
                "SELECT model, http_status, input_uncached, output, charged_nanos,"
                " latency_milliseconds FROM request_log WHERE account_id = %s"
                " ORDER BY created_at DESC LIMIT 2",
                (gateway.accounts[1].id.removeprefix("acct_"),),
            ).fetchall()

    usage = chat(client, model="gpt-4o-mini").raise_for_status().json()["usage"]
    gateway.simulator.turn(server_error={"count": ATTEMPTS})
    assert chat(client, model="gpt-4o-mini").status_code == 502
    until(
        lambda: [row[1] for row in rows()] == [502, 200], LOGGED_SECONDS, "both requests are logged"
    )
    failed, answered = rows()
    model, _, asked, said, charged_nanos, milliseconds = answered
    assert (model, asked, said) == (
        "gpt-4o-mini",
        usage["prompt_tokens"],
        usage["completion_tokens"],
    )
    assert charged_nanos > 0
    assert milliseconds >= 0
    assert (failed[0], failed[3], failed[4]) == ("gpt-4o-mini", 0, None)


@pytest.mark.promise("M25", "M26")
def test_errors_have_a_message_a_type_and_a_code(gateway: Deployment, client: httpx.Client) -> None:
    error = chat(client, model="gpt-nothing").json()["error"]
    assert error.keys() >= {"message", "type", "code"}
    with (
        OpenAI(base_url=f"{gateway.base_url}/v1", api_key="sk-1") as stranger,
        pytest.raises(openai.AuthenticationError) as caught,
    ):
        stranger.models.list()
    assert caught.value.status_code == 401
