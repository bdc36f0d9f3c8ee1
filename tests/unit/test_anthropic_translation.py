"""OpenAI's chat completion requests as Anthropic's Messages requests, without a network."""

import json
import re
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.providers.anthropic_media import Untranslatable
from gateway.providers.anthropic_messages import to_messages
from tests.unit.translating import (
    CALL,
    MODEL,
    OUTPUT_LIMIT,
    TOOL,
    USER,
    Json,
    calling,
    parts,
    said,
    translate,
)

# The conversation.


def test_the_least_request_gets_a_model_and_the_limit_that_anthropic_requires() -> None:
    assert translate() == {
        "model": MODEL,
        "max_tokens": OUTPUT_LIMIT,
        "messages": [{"role": "user", "content": [said("hi")]}],
    }


def test_leading_system_and_developer_messages_become_the_system_blocks() -> None:
    translated = translate(
        [
            {"role": "system", "content": "Be brief."},
            {"role": "developer", "content": [said("Be kind.")]},
            USER,
        ]
    )
    assert translated["system"] == [said("Be brief."), said("Be kind.")]
    assert translated["messages"] == [{"role": "user", "content": [said("hi")]}]


def test_a_later_system_message_opens_the_next_user_turn() -> None:
    translated = translate(
        [
            USER,
            {"role": "assistant", "content": "hello"},
            {"role": "system", "content": "Now in French."},
            {"role": "user", "content": "thanks"},
        ]
    )
    assert "system" not in translated
    assert translated["messages"][2] == {
        "role": "user",
        "content": [said("Now in French."), said("thanks")],
    }


def test_messages_of_one_role_in_a_row_become_one_turn() -> None:
    translated = translate([USER, {"role": "user", "content": [said("again"), said("and again")]}])
    assert translated["messages"] == [
        {"role": "user", "content": [said("hi"), said("again"), said("and again")]}
    ]


def test_tool_calls_and_their_results_are_translated_results_first() -> None:
    translated = translate(
        [
            USER,
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [CALL, {**CALL, "id": "call_2", "function": {"name": "now"}}],
            },
            {"role": "tool", "tool_call_id": "call_1", "content": "sunny"},
            {"role": "user", "content": "well?"},
            {"role": "tool", "tool_call_id": "call_2", "content": [said("noon")]},
        ]
    )
    assert translated["messages"][1:] == [
        {
            "role": "assistant",
            "content": [
                {"type": "tool_use", "id": "call_1", "name": "weather", "input": {"city": "Oslo"}},
                {"type": "tool_use", "id": "call_2", "name": "now", "input": {}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "call_1", "content": [said("sunny")]},
                {"type": "tool_result", "tool_use_id": "call_2", "content": [said("noon")]},
                said("well?"),
            ],
        },
    ]


def test_what_the_assistant_said_and_refused_is_said_again() -> None:
    translated = translate(
        [
            USER,
            {"role": "assistant", "content": "Let me see.", "tool_calls": [CALL]},
            {"role": "tool", "tool_call_id": "call_1", "content": ""},
            {"role": "assistant", "content": None, "refusal": "I will not."},
        ]
    )
    turns = translated["messages"]
    assert turns[1]["content"][0] == said("Let me see.")
    assert turns[2]["content"] == [{"type": "tool_result", "tool_use_id": "call_1"}]
    assert turns[3]["content"] == [said("I will not.")]


def test_empty_texts_which_anthropic_refuses_are_left_out() -> None:
    translated = translate(
        [
            {"role": "system", "content": ""},
            {"role": "user", "content": [said(""), said("hi")]},
            {"role": "assistant", "content": ""},
            {"role": "user", "content": "still there?"},
        ]
    )
    assert translated["messages"] == [
        {"role": "user", "content": [said("hi"), said("still there?")]}
    ]
    assert "system" not in translated


def test_a_mark_to_cache_a_part_is_kept() -> None:
    marked = {**said("a long preface"), "cache_control": {"type": "ephemeral", "ttl": "1h"}}
    assert translate([{"role": "system", "content": [marked]}, USER])["system"] == [marked]


# Tools and parameters.


def test_a_tool_is_translated_with_its_schema() -> None:
    function = TOOL["function"]
    assert translate(tools=[TOOL])["tools"] == [
        {
            "name": "weather",
            "description": "Tells the weather.",
            "input_schema": function["parameters"],
            "strict": True,
        }
    ]


def test_a_tool_without_parameters_still_has_a_schema() -> None:
    bare = {"type": "function", "function": {"name": "now"}}
    assert translate(tools=[bare])["tools"] == [{"name": "now", "input_schema": {"type": "object"}}]


NAMED: Json = {"type": "function", "function": {"name": "weather"}}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, None),
        ({"tool_choice": "auto"}, {"type": "auto"}),
        ({"tool_choice": "required"}, {"type": "any"}),
        ({"tool_choice": "none"}, {"type": "none"}),
        ({"tool_choice": NAMED}, {"type": "tool", "name": "weather"}),
        ({"parallel_tool_calls": True}, None),
        ({"parallel_tool_calls": False}, {"type": "auto", "disable_parallel_tool_use": True}),
        (
            {"parallel_tool_calls": False, "tool_choice": "required"},
            {"type": "any", "disable_parallel_tool_use": True},
        ),
        ({"parallel_tool_calls": False, "tool_choice": "none"}, {"type": "none"}),
    ],
)
def test_tool_choices_are_translated(fields: Json, expected: Json | None) -> None:
    assert translate(tools=[TOOL], **fields).get("tool_choice") == expected


@pytest.mark.parametrize("choice", ["auto", "none", None])
def test_a_tool_choice_without_tools_that_asks_for_nothing_is_left_out(choice: str | None) -> None:
    assert "tool_choice" not in translate(tool_choice=choice, parallel_tool_calls=False)


def test_the_parameters_are_translated() -> None:
    translated = translate(
        max_tokens=9,
        temperature=0.2,
        top_p=0.9,
        stop="END",
        user="u-1",
        response_format={
            "type": "json_schema",
            "json_schema": {"name": "city", "strict": True, "schema": {"type": "object"}},
        },
    )
    assert {name: translated[name] for name in translated if name != "messages"} == {
        "model": MODEL,
        "max_tokens": 9,
        "temperature": 0.2,
        "top_p": 0.9,
        "stop_sequences": ["END"],
        "metadata": {"user_id": "u-1"},
        "output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}},
    }


def test_the_newer_of_two_names_wins() -> None:
    translated = translate(
        max_completion_tokens=8, max_tokens=9, safety_identifier="new", user="old", stop=["a", "b"]
    )
    assert translated["max_tokens"] == 8
    assert translated["metadata"] == {"user_id": "new"}
    assert translated["stop_sequences"] == ["a", "b"]


def test_defaults_nulls_and_hints_are_left_out() -> None:
    translated = translate(
        temperature=1,
        top_p=1.0,
        n=1,
        stream=False,
        frequency_penalty=0,
        presence_penalty=0.0,
        logprobs=False,
        logit_bias={},
        modalities=["text"],
        seed=None,
        audio=None,
        web_search_options=None,
        response_format={"type": "text"},
        tools=[],
        prompt_cache_key="k",
        store=True,
        metadata={"a": "b"},
        stream_options={"include_usage": True},
    )
    assert translated == translate()


def test_marks_to_cache_are_kept_on_tools_and_on_the_whole() -> None:
    mark = {"type": "ephemeral"}
    on_function = {"type": "function", "function": {**TOOL["function"], "cache_control": mark}}
    translated = translate(tools=[{**TOOL, "cache_control": mark}, on_function], cache_control=mark)
    assert [tool["cache_control"] for tool in translated["tools"]] == [mark, mark]
    assert translated["cache_control"] == mark


def test_a_request_to_stream_is_not_the_translations_business() -> None:
    assert translate(stream=True) == translate()


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"messages": parts({"type": "input_audio"})}, "messages[0].content[1].input_audio"),
        ({"messages": parts({"type": "no such"})}, "messages[0].content[1]"),
        ({"messages": [{"role": "user", "content": None}]}, "messages[0].content"),
        ({"messages": [{"role": "function", "content": "x"}]}, "messages[0].role"),
        ({"messages": [USER, {"role": "tool", "content": "x"}]}, "messages[1].tool_call_id"),
        ({"messages": "hi"}, "messages"),
        ({"messages": ["hi"]}, "messages[0]"),
        ({"messages": calling({**CALL, "type": "custom"})}, "messages[1].tool_calls[0].type"),
        (
            {"messages": calling({**CALL, "function": {"name": "f", "arguments": "{"}})},
            "messages[1].tool_calls[0].function.arguments",
        ),
        (
            {"messages": calling({**CALL, "function": {"name": "f", "arguments": "[1]"}})},
            "messages[1].tool_calls[0].function.arguments",
        ),
        ({"messages": [{"role": "assistant", "audio": {"id": "a"}}]}, "messages[0].audio"),
        ({"temperature": 1.2}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": -0.1}, "top_p"),
        ({"n": 2}, "n"),
        ({"seed": 7}, "seed"),
        ({"logprobs": True}, "logprobs"),
        ({"logit_bias": {"1": 5}}, "logit_bias"),
        ({"frequency_penalty": 0.5}, "frequency_penalty"),
        ({"presence_penalty": -1}, "presence_penalty"),
        ({"reasoning_effort": "enormous"}, "reasoning_effort"),
        ({"reasoning_effort": ["low"]}, "reasoning_effort"),
        ({"thinking": True}, "thinking"),
        ({"cache_control": "yes"}, "cache_control"),
        ({"audio": {"voice": "alloy"}}, "audio"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"service_tier": "auto"}, "service_tier"),
        ({"web_search_options": {}}, "web_search_options"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_completion_tokens": "many"}, "max_completion_tokens"),
        ({"stop": 5}, "stop"),
        ({"stop": [5]}, "stop"),
        ({"user": 5}, "user"),
        ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools[0].type"),
        ({"tools": [TOOL, {"type": "web_search"}]}, "tools[1].type"),
        ({"tools": [{"type": "function", "function": {}}]}, "tools[0].function.name"),
        ({"tools": "all"}, "tools"),
        ({"tools": [TOOL], "tool_choice": {"type": "allowed_tools"}}, "tool_choice"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema.schema"),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"some_new_field": 1}, "some_new_field"),
    ],
)
def test_what_anthropic_cannot_serve_is_named(fields: Json, field: str) -> None:
    with pytest.raises(Untranslatable) as caught:
        translate(**{"messages": [USER], **fields})
    assert caught.value.field == caught.value.param == field
    assert caught.value.status == 400


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2)
    ),
    max_leaves=4,
)
known_fields = st.sampled_from(
    [
        *("tools", "tool_choice", "stop", "response_format", "max_tokens", "user", "n"),
        *("thinking", "reasoning_effort", "cache_control"),
    ]
)
shaped_messages = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["system", "user", "assistant", "tool"]) | json_values},
        optional={
            "content": json_values | st.lists(st.fixed_dictionaries({"type": json_values})),
            "tool_calls": json_values | st.lists(st.fixed_dictionaries({"function": json_values})),
            "tool_call_id": json_values,
            "refusal": json_values,
            "thinking_blocks": json_values,
        },
    ),
    max_size=4,
)


# Building a generator this deep takes its time on a busy machine.
@settings(suppress_health_check=[HealthCheck.too_slow])
@given(fields=st.dictionaries(known_fields, json_values, max_size=4), messages=shaped_messages)
def test_no_body_makes_the_translation_fail_but_by_naming_a_field(
    fields: Json, messages: list[Json]
) -> None:
    body = {"messages": messages, **fields}
    before = json.dumps(body)
    named = "messages"
    try:
        to_messages(MODEL, body, 512)
    except Untranslatable as error:
        named = re.split(r"[.\[]", error.field)[0]
    assert named in body
    assert json.dumps(body) == before


words = st.text(min_size=1, max_size=12)
roles = st.sampled_from(["system", "user", "assistant"])


@given(st.lists(st.tuples(roles, words), min_size=1, max_size=12))
def test_every_text_arrives_in_order_and_turns_alternate(spoken: list[tuple[str, str]]) -> None:
    translated = translate([{"role": role, "content": text} for role, text in spoken])
    turns = translated["messages"]
    arrived = translated.get("system", []) + [b for turn in turns for b in turn["content"]]
    assert [block["text"] for block in arrived] == [text for _, text in spoken]
    roles_of_turns = [turn["role"] for turn in turns]
    assert all(one != two for one, two in pairwise(roles_of_turns))
