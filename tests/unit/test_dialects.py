"""What the dialects send and make of what comes back, over handler functions."""

import httpx
import orjson
import pytest

from gateway.catalogue.usage import Usage
from gateway.net.http import HttpClients
from gateway.providers.dialect import (
    Broken,
    Credential,
    Endpoint,
    Rejected,
    Unauthorized,
    Unavailable,
)
from gateway.providers.openai import OpenAI
from tests.unit.recorder import BODY, BOTH, CHAT, CREDENTIALS, Json, Recorder, ok, speaking

# Calls.


def test_an_openai_call_passes_the_body_on_under_the_providers_model() -> None:
    usage = {"prompt_tokens": 3, "completion_tokens": 1}
    answer = {
        "id": "chatcmpl-1",
        "choices": [{"message": {"content": "hello"}}],
        "usage": usage,
        "service_tier": "priority",
        "new": None,
    }
    recorder = Recorder(ok(answer))
    body = {**BODY, "stream": False, "new": {"field": 1}}
    credential = CREDENTIALS["openai"]
    got = speaking("openai", recorder).call(credential, CHAT, "gpt-6-luna", body, 5)
    assert (got.body, got.service_tier) == (answer, "priority")
    assert got.usage == Usage(input_uncached=3, output=1)
    assert recorder.routes == ["POST /v1/chat/completions"]
    assert recorder.body() == {**BODY, "model": "gpt-6-luna", "new": {"field": 1}}
    assert recorder.requests[0].headers["authorization"] == "Bearer sk-house-1234"
    assert recorder.requests[0].headers["user-agent"] == "offpeak"


def test_an_openai_embedding_goes_to_its_own_route() -> None:
    answer = {"data": [{"embedding": [0.5]}], "usage": {"prompt_tokens": 2, "total_tokens": 2}}
    recorder = Recorder(ok(answer))
    got = speaking("openai", recorder).call(
        CREDENTIALS["openai"], Endpoint.EMBEDDINGS, "text-embedding-3-small", {"input": "hi"}, 5
    )
    assert got.usage == Usage(input_uncached=2)
    assert recorder.routes == ["POST /v1/embeddings"]


def test_an_anthropic_call_is_translated_both_ways() -> None:
    message = {
        "id": "msg_1",
        "model": "claude-haiku-5-5",
        "content": [{"type": "text", "text": "hello"}],
        "stop_reason": "end_turn",
        "usage": {"input_tokens": 3, "output_tokens": 1, "service_tier": "standard"},
    }
    recorder = Recorder(ok(message))
    body = {**BODY, "temperature": 0.5}
    got = speaking("anthropic", recorder).call(
        CREDENTIALS["anthropic"], CHAT, "claude-haiku-5-5", body, 5
    )
    assert got.body["choices"][0]["message"]["content"] == "hello"
    assert got.body["created"] > 1_700_000_000
    assert (got.usage, got.service_tier) == (Usage(input_uncached=3, output=1), "standard")
    assert recorder.routes == ["POST /v1/messages"]
    assert recorder.body()["max_tokens"] == 4_096
    headers = recorder.requests[0].headers
    # The version that still takes the temperature.
    assert (headers["x-api-key"], headers["anthropic-version"]) == ("sk-ant-1234", "2023-06-01")
    assert "authorization" not in headers


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize("content", [b"", b"<html>", b"[]", b"{}", b'{"choices":[]}', b'"\\ud800"'])
def test_an_answer_that_is_none_is_broken(name: str, content: bytes) -> None:
    recorder = Recorder(httpx.Response(200, content=content))
    with pytest.raises(Broken):
        speaking(name, recorder).call(CREDENTIALS[name], CHAT, "m", BODY, 5)


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize(
    ("failure", "code"),
    [
        (httpx.ConnectError("x"), "connection"),
        (httpx.RemoteProtocolError("x"), "connection"),
        (httpx.ReadTimeout("x"), "timeout"),
    ],
)
def test_a_call_that_broke_is_unavailable_and_says_how(
    name: str, failure: Exception, code: str
) -> None:
    with pytest.raises(Unavailable) as caught:
        speaking(name, Recorder(failure)).call(CREDENTIALS[name], CHAT, "m", BODY, 5)
    assert caught.value.code == code


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize("key", ["", "sk-1\r\nX-Evil: 1", "sk-é", "two words"])
def test_a_malformed_key_is_refused_unsent_and_unquoted(name: str, key: str) -> None:
    recorder = Recorder()
    credential = Credential(name, "customer", key, "http://provider.test")
    with pytest.raises(Unauthorized) as caught:
        speaking(name, recorder).call(credential, CHAT, "m", BODY, 5)
    assert recorder.requests == []
    assert caught.value.message == f"the key for {name} is malformed"


@pytest.mark.parametrize("name", BOTH)
def test_a_body_that_json_cannot_carry_is_rejected(name: str) -> None:
    body = {**BODY, "messages": [{"role": "user", "content": "\ud800"}]}
    with pytest.raises(Rejected):
        speaking(name, Recorder()).encode_line("r-1", CHAT, "m", body)


# What is supported.


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({}, None),
        ({"service_tier": None, "web_search_options": None, "audio": None}, None),
        ({"service_tier": "flex"}, "service_tier"),
        ({"service_tier": "auto"}, "service_tier"),
        ({"web_search_options": {}}, "web_search_options"),
        ({"modalities": ["text"]}, None),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"audio": {"voice": "alloy"}}, "audio"),
        ({"tools": [{"type": "function"}, {"type": "custom"}]}, None),
        ({"tools": [{"type": "function"}, {"type": "web_search"}]}, "tools[1].type"),
        ({"tools": [{"type": []}]}, "tools[0].type"),
        ({"tools": "nonsense", "modalities": 5, "logprobs": True, "new": 1}, None),
    ],
)
def test_openai_names_what_has_no_price(fields: Json, field: str | None) -> None:
    assert speaking("openai", Recorder()).unsupported(CHAT, {**BODY, **fields}) == field


def test_anthropic_names_what_it_cannot_serve_and_embeds_nothing() -> None:
    dialect = speaking("anthropic", Recorder())
    assert dialect.unsupported(CHAT, BODY) is None
    assert dialect.unsupported(CHAT, {**BODY, "n": 2}) == "n"
    assert dialect.unsupported(Endpoint.EMBEDDINGS, {"model": "m", "input": "hi"}) == "model"
    with pytest.raises(Rejected) as caught:
        dialect.call(CREDENTIALS["anthropic"], Endpoint.EMBEDDINGS, "m", {"input": "hi"}, 5)
    assert caught.value.param == "model"


# Lines.


def test_an_openai_line_carries_method_url_and_body() -> None:
    line = speaking("openai", Recorder()).encode_line(
        "r-1", Endpoint.EMBEDDINGS, "text-embedding-3-small", {"model": "x", "input": "é\n"}
    )
    assert b"\n" not in line
    assert orjson.loads(line) == {
        "custom_id": "r-1",
        "method": "POST",
        "url": "/v1/embeddings",
        "body": {"model": "text-embedding-3-small", "input": "é\n"},
    }


def test_framed_anthropic_lines_are_the_body_of_a_creation() -> None:
    dialect = speaking("anthropic", Recorder())
    lines = [dialect.encode_line(f"r-{n}", CHAT, "claude-haiku-5-5", BODY) for n in range(3)]
    framing = dialect.framing
    spooled = framing.opening + framing.separator.join(lines) + framing.closing
    requests = orjson.loads(spooled)["requests"]
    assert [request["custom_id"] for request in requests] == ["r-0", "r-1", "r-2"]
    assert requests[0]["params"]["max_tokens"] == 4_096


def test_a_service_that_speaks_like_openai_has_its_own_name() -> None:
    recorder = Recorder(httpx.ConnectError("x"))
    groq = OpenAI(HttpClients(transport=httpx.MockTransport(recorder)), name="groq")
    with pytest.raises(Unavailable, match="groq could not be reached"):
        groq.get_batch(CREDENTIALS["openai"], "b")
