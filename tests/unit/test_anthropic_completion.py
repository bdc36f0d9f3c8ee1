"""Anthropic's Messages as OpenAI's chat completions, without a network."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.catalogue.usage import Usage
from gateway.providers.anthropic_completion import to_completion
from gateway.providers.anthropic_messages import to_messages
from gateway.providers.dialect import Broken
from gateway.providers.usage import anthropic_usage

MODEL = "claude-sonnet-5-5"
Json = dict[str, Any]


def said(text: str) -> Json:
    return {"type": "text", "text": text}


def message(content: list[Json], stop_reason: str | None = "end_turn", **fields: Any) -> Json:
    return {
        "id": "msg_01",
        "type": "message",
        "role": "assistant",
        "model": MODEL,
        "content": content,
        "stop_reason": stop_reason,
        "usage": {"input_tokens": 20, "output_tokens": 5},
        **fields,
    }


def answer(content: list[Json], stop_reason: str | None = "end_turn", **fields: Any) -> Json:
    choice: Json = to_completion(message(content, stop_reason, **fields), 7)["choices"][0]
    return choice


def test_a_message_becomes_a_completion() -> None:
    completion = to_completion(message([said("hel"), said("lo")]), 1_795_305_600)
    assert completion == {
        "id": "msg_01",
        "object": "chat.completion",
        "created": 1_795_305_600,
        "model": MODEL,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "hello", "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": 20,
            "completion_tokens": 5,
            "total_tokens": 25,
            "prompt_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 0},
        },
    }


@pytest.mark.parametrize(
    ("stop_reason", "finish_reason"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("pause_turn", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("tool_use", "tool_calls"),
        ("refusal", "content_filter"),
        ("something_new", "stop"),
        (None, "stop"),
    ],
)
def test_stop_reasons_become_finish_reasons(stop_reason: str | None, finish_reason: str) -> None:
    assert answer([said("x")], stop_reason)["finish_reason"] == finish_reason


def test_a_tool_use_becomes_a_tool_call_without_content() -> None:
    block = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Oslo"}}
    assert answer([block], "tool_use")["message"] == {
        "role": "assistant",
        "content": None,
        "refusal": None,
        "tool_calls": [
            {
                "id": "toolu_1",
                "type": "function",
                "function": {"name": "weather", "arguments": '{"city":"Oslo"}'},
            }
        ],
    }


def test_thinking_is_shown_beside_the_content_and_kept_whole() -> None:
    thought: Json = {"type": "thinking", "thinking": "hm", "signature": "s"}
    hidden: Json = {"type": "redacted_thinking", "data": "x"}
    shown = answer([thought, hidden, said("yes")])["message"]
    assert shown["content"] == "yes"
    assert shown["reasoning_content"] == "hm"
    assert shown["thinking_blocks"] == [thought, hidden]


def test_blocks_that_are_new_are_not_shown() -> None:
    blocks = [said("yes"), {"type": "something_new", "text": "?"}]
    assert answer(blocks)["message"] == answer([said("yes")])["message"]


@pytest.mark.parametrize(
    ("content", "details", "refusal"),
    [
        ([said("I cannot help with that.")], None, "I cannot help with that."),
        ([], {"type": "refusal", "explanation": "It is unsafe."}, "It is unsafe."),
        ([], None, "The model declined to answer."),
    ],
)
def test_a_refusal_is_shown_as_one(content: list[Json], details: Json | None, refusal: str) -> None:
    choice = answer(content, "refusal", stop_details=details)
    assert choice["message"] == {"role": "assistant", "content": None, "refusal": refusal}
    assert choice["finish_reason"] == "content_filter"


def test_the_tier_is_told_in_openais_words() -> None:
    def tier(name: str) -> Any:
        usage = {"input_tokens": 1, "output_tokens": 1, "service_tier": name}
        return to_completion(message([], usage=usage), 0).get("service_tier")

    assert [tier("standard"), tier("priority"), tier("batch")] == ["default", "priority", None]


@pytest.mark.parametrize("content", [None, "text", {}])
def test_a_message_without_blocks_is_broken(content: Any) -> None:
    with pytest.raises(Broken):
        to_completion({"id": "msg_01", "content": content}, 0)


def test_a_tool_use_without_a_name_is_broken() -> None:
    with pytest.raises(Broken):
        answer([{"type": "tool_use", "id": "toolu_1"}])


def test_cache_classes_and_thinking_are_counted_apart() -> None:
    usage = {
        "input_tokens": 20,
        "cache_creation_input_tokens": 90,
        "cache_read_input_tokens": 100,
        "cache_creation": {"ephemeral_5m_input_tokens": 60, "ephemeral_1h_input_tokens": 30},
        "output_tokens": 50,
        "output_tokens_details": {"thinking_tokens": 40},
        "service_tier": "batch",
    }
    assert anthropic_usage({"usage": usage}) == Usage(20, 100, 60, 30, 50, 40)
    shown = to_completion(message([], usage=usage), 0)["usage"]
    assert shown["prompt_tokens"] == 210
    assert shown["prompt_tokens_details"] == {"cached_tokens": 100, "cache_write_tokens": 90}
    assert shown["completion_tokens_details"] == {"reasoning_tokens": 40}


@pytest.mark.parametrize(
    "usage",
    [
        None,
        {},
        {"output_tokens": 5},
        {"input_tokens": 5},
        {"input_tokens": -5, "output_tokens": 5},
        {"input_tokens": 5, "output_tokens": True},
        {"input_tokens": 5, "output_tokens": 5, "cache_read_input_tokens": -1},
        {"input_tokens": 5, "output_tokens": 5, "output_tokens_details": {"thinking_tokens": 6}},
        {
            "input_tokens": 5,
            "output_tokens": 5,
            "cache_creation_input_tokens": 1,
            "cache_creation": {"ephemeral_1h_input_tokens": 2},
        },
    ],
)
def test_a_usage_that_is_missing_or_impossible_is_none_and_shown_as_null(usage: Any) -> None:
    assert anthropic_usage({"usage": usage}) is None
    assert to_completion(message([], usage=usage), 0)["usage"] is None


words = st.text(min_size=1, max_size=12)
arguments = st.dictionaries(
    words, st.integers(-(2**63), 2**63) | words | st.booleans() | st.none() | st.lists(words)
)


thoughts = st.lists(
    st.fixed_dictionaries({"type": st.just("thinking"), "thinking": words, "signature": words}),
    max_size=2,
)


@given(
    thought=thoughts,
    calls=st.lists(st.tuples(words, words, arguments), min_size=1, max_size=4),
    text=st.text(),
)
def test_an_answer_with_thinking_and_tools_comes_back_as_it_was_given(
    thought: list[Json], calls: list[tuple[str, str, Json]], text: str
) -> None:
    calls = [(id_.replace("\0", "0"), name.replace("\0", "0"), given) for id_, name, given in calls]
    blocks = (
        thought
        + [said(text)] * bool(text)
        + [
            {"type": "tool_use", "id": id_, "name": name, "input": given}
            for id_, name, given in calls
        ]
    )
    said_by_openai = answer(blocks, "tool_use")["message"]
    again = to_messages(MODEL, {"messages": [said_by_openai]}, 512)["messages"][0]
    assert again == {"role": "assistant", "content": blocks}
