"""The services that speak like OpenAI: what each is sent, and what its answers become."""

from typing import Any

import httpx
import pytest

from gateway.catalogue.usage import Usage
from gateway.net.http import HttpClients
from gateway.providers import dialects
from gateway.providers.accents import ACCENTS
from gateway.providers.dialect import Answer, Credential, Endpoint, Unauthorized
from gateway.providers.openai import OpenAI
from gateway.providers.usage import openai_usage
from tests.unit.recorder import BODY, CHAT, Json, Recorder, credential_of, ok, speaking

IMITATORS = sorted(set(ACCENTS) - {"openai"})
SPEECH: Json = {"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}}


def completion(message: Json | None = None, **usage: Any) -> Json:
    counted = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5, **usage}
    choices = [{"index": 0, "message": message or {"role": "assistant", "content": "hi"}}]
    return {"id": "c", "model": "m", "choices": choices, "usage": counted}


def call(name: str, answer: Json, **fields: Any) -> tuple[Answer, Recorder]:
    recorder = Recorder(ok(answer))
    dialect = speaking(name, recorder)
    return dialect.call(credential_of(name), CHAT, "m", {**BODY, **fields}, 5), recorder


@pytest.mark.parametrize("name", IMITATORS)
def test_a_call_goes_to_the_services_own_address_with_its_key(name: str) -> None:
    answer, recorder = call(name, completion())
    assert answer.usage == Usage(input_uncached=3, output=2)
    path = "/v1/openai" if name == "gemini" else "/v1"
    assert recorder.routes == [f"POST {path}/chat/completions"]
    assert recorder.requests[0].url.host == f"{name}.test"
    assert recorder.requests[0].headers["authorization"] == f"Bearer sk-{name}-1234"


def test_a_base_url_that_names_geminis_layer_already_is_left_alone() -> None:
    recorder = Recorder(ok(completion()))
    credential = Credential("gemini", "house", "k", "http://gemini.test/v1beta/openai/")
    speaking("gemini", recorder).call(credential, CHAT, "m", BODY, 5)
    assert recorder.routes == ["POST /v1beta/openai/chat/completions"]


def test_only_openai_is_batched_of_those_who_speak_like_it() -> None:
    spoken = dialects(HttpClients(transport=httpx.MockTransport(Recorder())))
    assert set(spoken) == {*ACCENTS, "anthropic"}
    batched = {
        (name, endpoint)
        for name, dialect in spoken.items()
        for endpoint in Endpoint
        if dialect.batches(endpoint)
    }
    assert batched == {
        ("openai", Endpoint.CHAT_COMPLETIONS),
        ("openai", Endpoint.EMBEDDINGS),
        ("anthropic", Endpoint.CHAT_COMPLETIONS),
    }


@pytest.mark.parametrize("name", ["mistral", "together", "deepseek"])
def test_a_limit_is_sent_under_the_only_name_that_is_heeded(name: str) -> None:
    _, recorder = call(name, completion(), max_completion_tokens=8, max_tokens=9)
    assert recorder.body() == {**BODY, "model": "m", "max_tokens": 8}
    _, recorder = call(name, completion(), max_completion_tokens=None, max_tokens=9)
    assert recorder.body()["max_tokens"] == 9


@pytest.mark.parametrize("name", ["openai", "gemini", "groq", "xai"])
def test_elsewhere_the_callers_names_are_sent_as_they_are(name: str) -> None:
    fields = {"max_completion_tokens": 8, "seed": 7, "user": "u", "new": {"field": 1}}
    _, recorder = call(name, completion(), **fields)
    assert recorder.body() == {**BODY, "model": "m", **fields}


def test_mistral_is_spared_the_hints_that_it_refuses_and_nothing_else() -> None:
    said = {"role": "assistant", "content": "hi", "reasoning_content": "hm"}
    hints = {"store": True, "user": "u", "prompt_cache_key": "k"}
    messages = [*BODY["messages"], said]
    _, recorder = call("mistral", completion(), seed=7, top_k=3, messages=messages, **hints)
    assert recorder.body() == {
        "model": "m",
        "messages": [*BODY["messages"], {"role": "assistant", "content": "hi"}],
        "random_seed": 7,
        "top_k": 3,
    }


def test_mistrals_thinking_is_told_apart_from_what_it_says() -> None:
    parts: list[Json] = [
        {"type": "thinking", "thinking": [{"type": "text", "text": "h"}, {"type": "text"}]},
        {"type": "thinking", "thinking": [{"type": "text", "text": "m"}]},
        {"type": "text", "text": "yes"},
        {"type": "reference", "reference_ids": [1]},
    ]
    answer, _ = call("mistral", completion({"role": "assistant", "content": parts}))
    message = answer.body["choices"][0]["message"]
    assert message == {"role": "assistant", "content": "yes", "reasoning_content": "hm"}


@pytest.mark.parametrize("name", ["gemini", "xai"])
@pytest.mark.parametrize("details", [{}, {"completion_tokens_details": {"reasoning_tokens": 40}}])
def test_reasoning_that_is_counted_beside_the_answer_is_billed_and_shown(
    name: str, details: Json
) -> None:
    answer, _ = call(name, completion(total_tokens=45, **details))
    assert answer.usage == Usage(input_uncached=3, output=42, reasoning=40)
    shown = answer.body["usage"]
    assert (shown["completion_tokens"], shown["total_tokens"]) == (42, 45)
    assert shown["completion_tokens_details"]["reasoning_tokens"] == 40


def test_a_total_that_adds_up_or_is_nonsense_changes_nothing() -> None:
    for total in (5, 4, None, -1, "45"):
        answer, _ = call("xai", completion(total_tokens=total))
        assert answer.usage == Usage(input_uncached=3, output=2)
    # Elsewhere a total is not looked at.
    answer, _ = call("groq", completion(total_tokens=45))
    assert answer.usage == Usage(input_uncached=3, output=2)


@pytest.mark.parametrize(
    "told",
    [
        {"prompt_cache_hit_tokens": 2, "prompt_cache_miss_tokens": 1},
        {"num_cached_tokens": 2},
        {"cached_tokens": 2},
        {"prompt_tokens_details": {"cached_tokens": 2}, "prompt_cache_hit_tokens": 9},
    ],
)
def test_cached_tokens_are_found_wherever_they_are_told(told: Json) -> None:
    assert openai_usage(completion(**told)) == Usage(input_uncached=1, cache_read=2, output=2)


def test_cached_tokens_beyond_the_prompt_are_impossible_anywhere() -> None:
    assert openai_usage(completion(prompt_cache_hit_tokens=4)) is None
    assert openai_usage(completion(num_cached_tokens="2")) is None


@pytest.mark.parametrize("name", sorted(ACCENTS))
@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"service_tier": "flex"}, "service_tier"),
        (
            {"messages": [*BODY["messages"], {"role": "user", "content": [SPEECH]}]},
            "messages[1].content[0].input_audio",
        ),
        ({"messages": [{"role": "assistant", "audio": {"id": "a"}}]}, "messages[0].audio"),
        ({"messages": [{"role": "user", "content": [{"type": []}, 5]}, "hi", None]}, None),
    ],
)
def test_sound_and_tiers_are_refused_by_name_everywhere(
    name: str, fields: Json, field: str | None
) -> None:
    assert speaking(name, Recorder()).unsupported(CHAT, {**BODY, **fields}) == field


@pytest.mark.parametrize(
    ("name", "field"),
    [("xai", "search_parameters"), ("groq", "search_settings"), ("groq", "compound_custom")],
)
def test_a_services_own_priced_tools_are_refused_by_name(name: str, field: str) -> None:
    assert speaking(name, Recorder()).unsupported(CHAT, {**BODY, field: {}}) == field
    assert speaking("openai", Recorder()).unsupported(CHAT, {**BODY, field: {}}) is None


@pytest.mark.parametrize(
    "body",
    [
        [{"error": {"code": 400, "message": "API key not valid.", "status": "INVALID_ARGUMENT"}}],
        {"code": "invalid argument", "error": "Incorrect API key provided: ab***yz."},
    ],
)
def test_a_bad_key_that_is_answered_with_400_is_no_fault_of_the_callers(body: Any) -> None:
    recorder = Recorder(httpx.Response(400, json=body))
    with pytest.raises(Unauthorized):
        speaking("gemini", recorder).call(credential_of("gemini"), CHAT, "m", BODY, 5)


def test_an_accent_that_is_not_known_is_no_dialect() -> None:
    clients = HttpClients(transport=httpx.MockTransport(Recorder()))
    with pytest.raises(KeyError):
        OpenAI(clients, "nobody")
