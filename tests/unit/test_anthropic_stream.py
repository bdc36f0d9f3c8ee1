"""Anthropic's streams as OpenAI's, over handler functions."""

import json
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.catalogue.usage import Usage
from gateway.providers.anthropic_completion import to_completion
from gateway.providers.anthropic_stream import AnthropicPieces
from gateway.providers.dialect import (
    Broken,
    ProviderError,
    Rejected,
    Unauthorized,
    Unavailable,
)
from gateway.providers.streams import pieces
from tests.unit.recorder import Json
from tests.unit.streaming import Heard, Streamed, dumped, streaming

INPUT: Json = {"input_tokens": 20, "output_tokens": 1, "service_tier": "standard"}
PING: Json = {"type": "ping"}
STOP: Json = {"type": "message_stop"}


def opening(**usage: Any) -> Json:
    message = {"id": "msg_01", "model": "claude", "content": [], "usage": {**INPUT, **usage}}
    return {"type": "message_start", "message": message}


def closing(stop_reason: str = "end_turn", output: int = 5, **delta: Any) -> Json:
    return {
        "type": "message_delta",
        "delta": {"stop_reason": stop_reason, **delta},
        "usage": {"output_tokens": output},
    }


def block(index: int, begun: Json, *deltas: Json) -> list[Json]:
    return [
        {"type": "content_block_start", "index": index, "content_block": begun},
        *({"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas),
        {"type": "content_block_stop", "index": index},
    ]


def text_block(index: int, *texts: str) -> list[Json]:
    deltas = ({"type": "text_delta", "text": text} for text in texts)
    return block(index, {"type": "text", "text": ""}, *deltas)


def tool_block(index: int, call_id: str, name: str, *pieces: str) -> list[Json]:
    deltas = ({"type": "input_json_delta", "partial_json": piece} for piece in pieces)
    begun = {"type": "tool_use", "id": call_id, "name": name, "input": {}}
    return block(index, begun, *deltas)


def thinking_block(index: int, signature: str, *thoughts: str) -> list[Json]:
    deltas: list[Json] = [{"type": "thinking_delta", "thinking": each} for each in thoughts]
    signed = {"type": "signature_delta", "signature": signature}
    begun = {"type": "thinking", "thinking": "", "signature": ""}
    return block(index, begun, *deltas, signed)


def sent(*events: Json) -> bytes:
    return b"".join(
        b"event: " + str(event["type"]).encode() + b"\ndata: " + dumped(event) + b"\n\n"
        for event in events
    )


def stream_of(*events: Json, **fields: Any) -> Streamed:
    return Streamed("anthropic", streaming(sent(*events)), **fields)


def answered(*blocks: list[Json], end: Json | None = None) -> Streamed:
    inner = [event for each in blocks for event in each]
    return stream_of(opening(), PING, *inner, end or closing(), STOP)


def heard_of(*events: Json) -> Heard:
    """The same without a dialect, for what is tried very often."""
    heard = Heard()
    heard.listen(pieces([sent(*events)], AnthropicPieces(created=0)), Broken)
    return heard


# What comes through.


def test_a_text_is_streamed_from_its_role_to_its_usage() -> None:
    streamed = answered(text_block(0, "hel", "lo"))
    assert streamed.deltas == [
        {"role": "assistant", "content": "", "refusal": None},
        {"content": "hel"},
        {"content": "lo"},
        {},
    ]
    finishes = [each["choices"][0]["finish_reason"] for each in streamed.chunks[:-1]]
    assert finishes == [None, None, None, "stop"]
    for each in streamed.chunks:
        assert each["object"] == "chat.completion.chunk"
        assert (each["id"], each["model"], each["service_tier"]) == ("msg_01", "claude", "default")
        assert each["created"] > 1_700_000_000
    last = streamed.pieces[-1]
    assert (last.usage_only, last.service_tier) == (True, "standard")
    assert last.usage == Usage(input_uncached=20, output=5)
    assert streamed.chunks[-1]["choices"] == []
    assert streamed.chunks[-1]["usage"]["total_tokens"] == 25


def test_the_request_is_the_translated_one_with_a_stream_asked_for() -> None:
    streamed = stream_of(opening(), closing(), STOP, stream=True, reasoning_effort="low")
    body = streamed.recorder.body()
    assert (body["model"], body["stream"], body["max_tokens"]) == ("m", True, 4_096)
    assert body["output_config"] == {"effort": "low"}
    assert streamed.recorder.routes == ["POST /v1/messages"]


def test_tool_calls_keep_their_places_and_pieces_whatever_stands_between() -> None:
    streamed = answered(
        text_block(0, "Let me see."),
        tool_block(1, "toolu_1", "weather", "", '{"city":', '"Oslo"}'),
        tool_block(2, "toolu_2", "now"),
        end=closing("tool_use"),
    )
    calls = [call for delta in streamed.deltas for call in delta.get("tool_calls", [])]
    assert calls == [
        {
            "index": 0,
            "id": "toolu_1",
            "type": "function",
            "function": {"name": "weather", "arguments": ""},
        },
        {"index": 0, "function": {"arguments": '{"city":'}},
        {"index": 0, "function": {"arguments": '"Oslo"}'}},
        {
            "index": 1,
            "id": "toolu_2",
            "type": "function",
            "function": {"name": "now", "arguments": ""},
        },
        # Without this the caller would try to parse an empty string.
        {"index": 1, "function": {"arguments": "{}"}},
    ]
    assert streamed.chunks[-2]["choices"][0]["finish_reason"] == "tool_calls"


def test_thinking_is_told_apart_and_handed_over_signed_at_the_end() -> None:
    hidden = {"type": "redacted_thinking", "data": "x"}
    streamed = answered(thinking_block(0, "s1", "h", "m"), block(1, hidden), text_block(2, "yes"))
    assert (streamed.said("reasoning_content"), streamed.said()) == ("hm", "yes")
    whole = {"type": "thinking", "thinking": "hm", "signature": "s1"}
    assert streamed.deltas[-1] == {"thinking_blocks": [whole, hidden]}


@pytest.mark.parametrize(
    ("blocks", "details", "refusal"),
    [
        ([text_block(0, "I cannot.")], None, None),
        ([], {"explanation": "It is unsafe."}, "It is unsafe."),
        ([], None, "The model declined to answer."),
    ],
)
def test_a_refusal_is_told_where_the_model_did_not_say_it(
    blocks: list[list[Json]], details: Json | None, refusal: str | None
) -> None:
    streamed = answered(*blocks, end=closing("refusal", stop_details=details))
    assert streamed.deltas[-1].get("refusal") == refusal
    assert streamed.chunks[-2]["choices"][0]["finish_reason"] == "content_filter"


def test_every_class_of_usage_is_counted_from_both_ends_of_the_stream() -> None:
    begun = opening(
        cache_creation_input_tokens=90,
        cache_read_input_tokens=100,
        cache_creation={"ephemeral_5m_input_tokens": 60, "ephemeral_1h_input_tokens": 30},
    )
    end = closing(output=50)
    end["usage"] |= {"output_tokens_details": {"thinking_tokens": 40}, "input_tokens": None}
    last = stream_of(begun, *text_block(0, "x"), end, STOP).pieces[-1]
    assert last.usage == Usage(20, 100, 60, 30, 50, 40)


def test_events_and_blocks_that_are_new_say_nothing() -> None:
    streamed = answered(
        block(0, {"type": "something_new", "text": "?"}, {"type": "new_delta", "text": "?"}),
        [{"type": "something_else", "index": 0}],
        text_block(1, "yes"),
    )
    assert (streamed.said(), len(streamed.chunks)) == ("yes", 4)


def test_an_impossible_usage_is_not_told() -> None:
    streamed = answered(text_block(0, "x"), end=closing(output=-1))
    assert streamed.error is None
    assert not any(piece.usage_only for piece in streamed.pieces)


words = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=8)
pieces_of_text = st.lists(words, min_size=1, max_size=3)
# Of 64 bits: what is wider has become a float by the time a message is parsed.
integers = st.integers(-(2**63), 2**64 - 1)
arguments = st.dictionaries(words, integers | words | st.lists(words), max_size=3)
spoken = st.one_of(
    st.tuples(st.just("text"), pieces_of_text),
    st.tuples(st.just("thinking"), pieces_of_text),
    st.tuples(st.just("tool_use"), st.tuples(words, words, arguments)),
)


@given(st.lists(spoken, max_size=5))
def test_a_stream_adds_up_to_the_completion_of_the_whole_message(
    said: list[tuple[str, Any]],
) -> None:
    content: list[Json] = []
    sequence: list[list[Json]] = []
    for index, (kind, given_block) in enumerate(said):
        if kind == "tool_use":
            call_id, name, given_input = given_block
            written = json.dumps(given_input, separators=(",", ":"), ensure_ascii=False)
            halves = (written[:3], written[3:])
            sequence.append(tool_block(index, call_id, name, *halves))
            content.append({"type": kind, "id": call_id, "name": name, "input": given_input})
        elif kind == "text":
            sequence.append(text_block(index, *given_block))
            content.append({"type": kind, "text": "".join(given_block)})
        else:
            sequence.append(thinking_block(index, f"s{index}", *given_block))
            thought = {"type": kind, "thinking": "".join(given_block), "signature": f"s{index}"}
            content.append(thought)
    inner = [event for each in sequence for event in each]
    streamed = heard_of(opening(), *inner, closing(), STOP)
    usage = {**INPUT, "output_tokens": 5}
    whole = to_completion({"content": content, "usage": usage, "stop_reason": "end_turn"}, 0)
    message = whole["choices"][0]["message"]
    assert streamed.said() == (message["content"] or "")
    assert streamed.said("reasoning_content") == message.get("reasoning_content", "")
    assert streamed.deltas[-1].get("thinking_blocks") == message.get("thinking_blocks")
    assert added_up(streamed) == message.get("tool_calls", [])
    assert streamed.chunks[-1]["usage"] == whole["usage"]


def added_up(streamed: Heard) -> list[Json]:
    """Tool calls as OpenAI's clients put them together."""
    calls: list[Json] = []
    for delta in streamed.deltas:
        for call in delta.get("tool_calls", []):
            if call["index"] == len(calls):
                calls.append({"function": {"arguments": ""}})
            whole = calls[call["index"]]
            function = call["function"]
            joined = whole["function"]["arguments"] + function.get("arguments", "")
            whole |= {name: call[name] for name in ("id", "type") if name in call}
            whole["function"] = {**whole["function"], **function, "arguments": joined}
    return calls


# Failures.


@pytest.mark.parametrize(
    ("events", "kind"),
    [
        ([{"type": "error", "error": {"type": "overloaded_error"}}], Unavailable),
        ([PING, {"type": "error", "error": {"type": "rate_limit_error"}}], Unavailable),
        ([{"type": "error", "error": {"type": "invalid_request_error"}}], Rejected),
        ([{"type": "error", "error": {"type": "billing_error"}}], Unauthorized),
        ([{"type": "error"}], Unavailable),
        ([PING], Broken),
        ([], Broken),
    ],
)
def test_an_error_before_the_first_piece_is_told_like_a_calls(
    events: list[Json], kind: type[ProviderError]
) -> None:
    with pytest.raises(ProviderError) as caught:
        stream_of(*events)
    assert type(caught.value) is kind


def test_an_error_event_in_mid_stream_breaks_it_with_what_was_counted() -> None:
    failure = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
    streamed = stream_of(opening(), *text_block(0, "hello"), failure)
    assert streamed.said() == "hello"
    assert (streamed.broken.message, streamed.broken.status) == ("Overloaded", 529)
    assert streamed.broken.code == "overloaded_error"
    assert streamed.broken.usage == Usage(input_uncached=20, output=1)


def test_a_cut_connection_breaks_it_with_what_was_counted() -> None:
    begun = sent(opening(), *text_block(0, "hello"))
    streamed = Streamed("anthropic", streaming([begun, httpx.ReadError("x")]))
    assert (streamed.broken.code, streamed.broken.usage) == ("connection", Usage(20, output=1))


def test_an_end_without_the_last_event_is_one_if_the_answer_was_finished() -> None:
    streamed = stream_of(opening(), *text_block(0, "x"), closing())
    assert streamed.error is None
    assert streamed.pieces[-1].usage == Usage(input_uncached=20, output=5)
    cut = stream_of(opening(), *text_block(0, "x"))
    assert cut.error is not None


@pytest.mark.parametrize(
    "event",
    [
        {"type": "content_block_start", "content_block": {"type": "tool_use", "name": "x"}},
        {"type": "content_block_start", "content_block": {"type": "tool_use", "id": "x"}},
    ],
)
def test_a_tool_call_without_a_name_or_id_breaks_the_stream(event: Json) -> None:
    assert stream_of(opening(), event, closing(), STOP).error is not None


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=3,
)
kinds = st.sampled_from(
    [
        *("message_start", "content_block_start", "content_block_delta", "content_block_stop"),
        *("message_delta", "message_stop", "ping"),
    ]
)
inner_kinds = st.sampled_from(["text", "tool_use", "text_delta", "input_json_delta", "thinking"])
inner_objects = st.dictionaries(
    st.sampled_from(["id", "name", "text", "stop_reason", "usage", "partial_json"]), json_values
)
typed = st.builds(lambda kind, fields: {**fields, "type": kind}, inner_kinds, inner_objects)
strange = st.fixed_dictionaries(
    {"type": kinds},
    optional={
        "index": json_values,
        "delta": json_values | typed,
        "content_block": json_values | typed,
        "message": json_values | inner_objects,
        "usage": json_values,
    },
)


@given(st.lists(strange, max_size=6))
def test_no_events_make_it_fail_but_by_breaking(events: list[Json]) -> None:
    heard = heard_of(opening(), *events)
    assert heard.chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    if heard.error is None:
        assert any(each["choices"][0]["finish_reason"] for each in heard.chunks if each["choices"])
