"""How large a call is taken to be before it has run, from its body alone."""

import json
from math import ceil
from typing import Any

import pytest

from gateway.billing.prices import Caching, Size, measure

CHAT = "/v1/chat/completions"
EMBEDDINGS = "/v1/embeddings"
LONG = "x" * 4_000
FOR_MINUTES = {"type": "ephemeral"}
FOR_AN_HOUR = {"type": "ephemeral", "ttl": "1h"}


def user(content: Any, **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content}], **more}


def chat_size(body: dict[str, Any], model_limit: int | None = 100) -> Size:
    return measure(CHAT, body, model_limit)


def test_half_the_utf_8_bytes_of_the_messages_are_input_rounded_up() -> None:
    assert chat_size(user("hello")).input_tokens == 3
    assert chat_size(user("héllo")).input_tokens == 3
    assert chat_size(user("日本")).input_tokens == 3
    messages = [{"role": "system", "content": "abc"}, {"role": "user", "content": "def"}]
    assert chat_size({"messages": messages}).input_tokens == 3
    assert chat_size(user("\ud800")).input_tokens == 2


def test_text_parts_count_like_text_and_pictures_and_files_2000_each() -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 9_000}}
    file = {"type": "file", "file": {"file_data": "A" * 9_000, "filename": "a.pdf"}}
    sound = {"type": "input_audio", "input_audio": {"data": "A" * 9_000, "format": "wav"}}
    parts = [{"type": "text", "text": "abcd"}, picture, picture, file, sound]
    assert chat_size(user(parts)).input_tokens == 2 + 4 * 2_000


def test_base64_that_claims_to_be_text_is_text() -> None:
    part = {"type": "text", "text": "data:image/png;base64," + "A" * 978}
    assert chat_size(user([part])).input_tokens == 500


def test_a_part_of_an_unknown_kind_counts_as_text_and_as_an_attachment() -> None:
    part = {"type": "document", "source": {"type": "text", "data": "A" * 9_000}}
    assert chat_size(user([part])).input_tokens >= 4_500 + 2_000


def test_tools_and_functions_count_as_their_json() -> None:
    tools = [{"type": "function", "function": {"name": "näme", "parameters": {"a": [1, 2]}}}]
    as_json = json.dumps(tools, ensure_ascii=False, separators=(",", ":")).encode()
    for field in ("tools", "functions"):
        assert chat_size(user("", **{field: tools})).input_tokens == ceil(len(as_json) / 2)


@pytest.mark.parametrize(
    "body",
    [
        {"messages": [{"role": "user", "name": LONG, "content": "hi"}]},
        {"messages": [{"role": "assistant", "content": None, "refusal": LONG}]},
        {
            "messages": [
                {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [
                        {
                            "id": "c",
                            "type": "function",
                            "function": {"name": "f", "arguments": LONG},
                        }
                    ],
                }
            ]
        },
        {"messages": [{"role": "assistant", "function_call": {"name": "f", "arguments": LONG}}]},
        {"messages": [{"role": "tool", "tool_call_id": "c", "content": LONG}]},
        {"messages": [{"role": "assistant", "reasoning_content": LONG, "content": ""}]},
        {"messages": [{"role": "assistant", "content": [{"type": "refusal", "refusal": LONG}]}]},
        {"messages": [LONG]},
        user(
            "hi",
            response_format={"type": "json_schema", "json_schema": {"description": LONG}},
        ),
        user("hi", documents=[{"text": LONG}]),
        user("hi", system=LONG),
    ],
)
def test_whatever_carries_text_into_the_prompt_is_counted(body: dict[str, Any]) -> None:
    assert 2_000 <= chat_size(body).input_tokens <= 2_100


def test_settings_of_a_call_are_no_prompt() -> None:
    settings_of_a_call = {
        "model": "gpt-4o-mini",
        "temperature": 0.5,
        "stop": ["a" * 100],
        "user": "b" * 100,
        "metadata": {"c": "d" * 100},
        "response_format": {"type": "json_object"},
        "tool_choice": "auto",
        "stream": True,
        "stream_options": {"include_usage": True},
        "seed": 7,
        "logprobs": None,
    }
    assert chat_size(user("hi", **settings_of_a_call)) == chat_size(user("hi"))


@pytest.mark.parametrize(
    ("limits", "model_limit", "tokens"),
    [
        ({"max_completion_tokens": 7}, 100, 7),
        ({"max_tokens": 8}, 100, 8),
        ({"max_tokens": 8, "max_completion_tokens": 7}, 100, 8),
        ({"max_tokens": None}, 100, 100),
        ({"max_tokens": "many"}, 100, 100),
        ({}, 100, 100),
        ({}, None, 4_096),
        ({"n": 3, "max_tokens": 8}, 100, 24),
        ({"n": None}, 100, 100),
        ({"n": 2}, None, 8_192),
    ],
)
def test_output_is_n_times_the_callers_limit_else_the_models_else_4096(
    limits: dict[str, Any], model_limit: int | None, tokens: int
) -> None:
    assert chat_size(user("hi", **limits), model_limit).output_tokens == tokens


def test_a_predicted_output_may_be_billed_as_output_on_top() -> None:
    for content in (LONG, [{"type": "text", "text": LONG}]):
        size = chat_size(user("hi", n=2, prediction={"type": "content", "content": content}))
        assert 2 * (100 + 2_000) <= size.output_tokens <= 2 * (100 + 2_100)
        assert size.input_tokens == 1


@pytest.mark.parametrize(
    ("body", "caching"),
    [
        (user("hi"), Caching.NONE),
        (user([{"type": "text", "text": "hi", "cache_control": FOR_MINUTES}]), Caching.SHORT),
        (user([{"type": "text", "text": "hi", "cache_control": FOR_AN_HOUR}]), Caching.LONG),
        (
            user([{"type": "text", "text": "hi", "prompt_cache_breakpoint": {"mode": "explicit"}}]),
            Caching.SHORT,
        ),
        (user("hi", tools=[{"function": {}, "cache_control": FOR_MINUTES}]), Caching.SHORT),
        (
            user("hi", tools=[{"cache_control": FOR_MINUTES}, {"cache_control": FOR_AN_HOUR}]),
            Caching.LONG,
        ),
        (user("hi", cache_control={"type": "ephemeral", "ttl": "5m"}), Caching.SHORT),
        (user("hi", cache_control=FOR_AN_HOUR), Caching.LONG),
        (user("hi", cache_control={"type": "ephemeral", "ttl": ["5m"]}), Caching.SHORT),
        (user("hi", prompt_cache_key="k"), Caching.SHORT),
        (user("hi", prompt_cache_options={"ttl": "30m"}), Caching.SHORT),
        (user("hi", prompt_cache_retention="in_memory"), Caching.SHORT),
        (user("hi", prompt_cache_retention="24h"), Caching.LONG),
    ],
)
def test_what_a_body_asks_of_the_cache_is_recognised(
    body: dict[str, Any], caching: Caching
) -> None:
    assert chat_size(body).caching is caching


def test_marks_of_caching_are_no_text() -> None:
    part = {"type": "text", "text": "hi", "cache_control": FOR_AN_HOUR}
    assert chat_size(user([part])).input_tokens == 1


@pytest.mark.parametrize(
    ("texts", "tokens"),
    [
        ("hello", 3),
        (["a", "b", "c"], 3),
        (["hello", "日本"], 6),
        ([1, 2, 3], 3),
        ([[1, 2], [3]], 3),
        ([], 0),
        (None, 0),
    ],
)
def test_embeddings_are_measured_by_bytes_or_tokens_and_have_no_output(
    texts: Any, tokens: int
) -> None:
    assert measure(EMBEDDINGS, {"input": texts}, 100) == Size(tokens, 0)
