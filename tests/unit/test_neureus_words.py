"""What OpenAI's answers and events are in Neureus's words."""

from typing import Any

import orjson
import pytest

from gateway.calls.idempotency import Stored
from web.neureus_words import Events, answer

ID = "0" * 31 + "7"
FRAME = {"id": f"chatcmpl-{ID}", "object": "chat.completion.chunk"}
DONE = b"data: [DONE]\n\n"
NOT_COUNTED = {"inputTokens": None, "outputTokens": None, "costUsd": None}


def event(**fields: Any) -> bytes:
    return b"data: " + orjson.dumps({**FRAME, **fields}) + b"\n\n"


def delta(index: int = 0, finish: str | None = None, **said: Any) -> bytes:
    return event(choices=[{"index": index, "delta": said, "finish_reason": finish}])


def read(events: bytes) -> list[Any]:
    return [orjson.loads(each.removeprefix(b"data: ")) for each in events.split(b"\n\n")[:-1]]


STREAM = [
    delta(role="assistant", content=""),
    delta(reasoning_content="hm"),
    delta(content="a"),
    delta(index=1, content="b"),
    delta(tool_calls=[{"index": 0}]),
    delta(finish="length"),
    event(choices=[], usage={"prompt_tokens": 3, "completion_tokens": 2, "cost_usd": "0.0000001"}),
    DONE,
]
TOLD = [
    {"delta": {"content": "", "reasoning": "hm"}, "done": False},
    {"delta": {"content": "a"}, "done": False},
    {"index": 1, "delta": {"content": "b"}, "done": False},
    {"delta": {"content": "", "toolCalls": [{"index": 0}]}, "done": False},
    {
        "done": True,
        "logId": f"log_{ID}",
        "inputTokens": 3,
        "outputTokens": 2,
        "costUsd": 0.0000001,
        "finishReason": "length",
    },
]


@pytest.mark.parametrize("size", [1, 2, len(STREAM)])
def test_events_are_worded_the_same_whether_they_come_alone_or_together(size: int) -> None:
    events = Events()
    groups = [b"".join(STREAM[place : place + size]) for place in range(0, len(STREAM), size)]
    assert [each for group in groups for each in read(events(group))] == TOLD


def test_a_kept_stream_is_worded_like_one_that_is_heard() -> None:
    kept = Stored(200, {"Content-Type": "text/event-stream"}, b"".join(STREAM))
    assert read(answer(kept).body) == TOLD
    assert answer(kept).headers == kept.headers


def test_what_has_no_text_is_not_told_before_the_end() -> None:
    events = Events()
    assert events(delta(role="assistant", content="")) == b""
    assert events(b": still here\n\n") == b""
    assert events(delta(finish="stop")) == b""
    (last,) = read(events(DONE))
    assert last == {"done": True, "logId": f"log_{ID}", **NOT_COUNTED, "finishReason": "stop"}


def test_an_error_ends_a_stream_flat() -> None:
    error = {"error": {"type": "upstream_error", "message": "cut", "code": 502, "param": None}}
    told = read(Events()(b"data: " + orjson.dumps(error) + b"\n\n"))
    assert told == [{"error": "UPSTREAM_ERROR", "message": "cut", "done": True}]


def test_a_cost_is_a_number_with_every_digit() -> None:
    body = orjson.dumps({"id": f"chatcmpl-{ID}", "choices": []})
    told = answer(Stored(200, {"X-Cost-Usd": "123456789.000000001"}, body)).body
    assert b'"costUsd":123456789.000000001' in told


def test_reasoning_is_told_by_either_of_its_names() -> None:
    for name in ("reasoning", "reasoning_content"):
        message = {"role": "assistant", "content": "a", name: "because"}
        body = orjson.dumps({"id": f"chatcmpl-{ID}", "choices": [{"message": message}]})
        told = orjson.loads(answer(Stored(200, {}, body)).body)
        assert (told["text"], told["reasoning"], told["costUsd"]) == ("a", "because", None)


def test_what_is_neither_a_chat_nor_embeddings_is_told_as_it_is() -> None:
    kept = Stored(200, {}, b'{"object":"quote","cost":"0.1"}')
    assert answer(kept) == kept
