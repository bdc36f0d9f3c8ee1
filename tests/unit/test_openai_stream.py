"""Streams of OpenAI and of those who speak as it does, over handler functions."""

import httpx
import pytest

from gateway.catalogue.usage import Usage
from gateway.providers.dialect import (
    Broken,
    ProviderError,
    Rejected,
    Unauthorized,
    Unavailable,
)
from tests.unit.recorder import Json
from tests.unit.streaming import FRAME, USAGE, Streamed, chunk, dumped, events, streaming

ROLE = chunk({"role": "assistant", "content": ""})
HELLO = chunk({"content": "hello"})
STOP = chunk({}, "stop")
TOTAL: Json = {**FRAME, "choices": [], "usage": USAGE, "service_tier": "default"}
COUNTED = Usage(input_uncached=3, output=2)


def stream_of(*payloads: Json | bytes, name: str = "openai", **fields: object) -> Streamed:
    return Streamed(name, streaming(events(*payloads)), **fields)


# What is asked and what comes through.


def test_a_stream_is_asked_for_with_its_usage_whatever_the_caller_said() -> None:
    options = {"include_usage": False, "include_obfuscation": False}
    streamed = stream_of(ROLE, STOP, b"[DONE]", stream=False, stream_options=options)
    sent = streamed.recorder.body()
    assert (sent["model"], sent["stream"]) == ("m", True)
    assert sent["stream_options"] == {"include_usage": True, "include_obfuscation": False}
    assert streamed.recorder.routes == ["POST /v1/chat/completions"]
    assert streamed.recorder.requests[0].headers["accept"] == "text/event-stream"


def test_chunks_come_through_byte_for_byte() -> None:
    odd = b'{"id": "c",  "choices":[{"delta":{"content":"\\u00e9"},"logprob":-1e-05}] ,"new":[]}'
    with_null = dumped({**HELLO, "usage": None})
    streamed = stream_of(ROLE, odd, with_null, STOP, b"[DONE]")
    assert [piece.data for piece in streamed.pieces] == [dumped(ROLE), odd, with_null, dumped(STOP)]
    assert not any(piece.usage or piece.usage_only for piece in streamed.pieces)


def test_the_usage_is_the_last_piece_and_stands_alone() -> None:
    streamed = stream_of(ROLE, {**HELLO, "usage": None}, STOP, TOTAL, b"[DONE]")
    assert [piece.usage_only for piece in streamed.pieces] == [False, False, False, True]
    last = streamed.pieces[-1]
    assert (last.usage, last.service_tier) == (COUNTED, "default")
    assert streamed.chunks[-1] == TOTAL


def test_what_the_model_says_about_usage_and_errors_is_only_said() -> None:
    said = ['"usage"', '"usage":{"prompt_tokens":9}', "usage", "error", '{"error":{}}', "[DONE]"]
    deltas = [chunk({"content": each}) for each in said]
    streamed = stream_of(*deltas, STOP, TOTAL, b"[DONE]")
    assert streamed.said() == "".join(said)
    assert streamed.pieces[-1].usage == COUNTED


@pytest.mark.parametrize("usage", [{"prompt_tokens": -1}, {"prompt_tokens": 3}])
def test_an_impossible_usage_is_shown_and_not_counted(usage: Json) -> None:
    last = stream_of(HELLO, STOP, {**TOTAL, "usage": usage}, b"[DONE]").pieces[-1]
    assert last.usage_only
    assert last.usage is None


def test_a_stream_that_never_counted_ends_without_usage() -> None:
    streamed = stream_of(HELLO, STOP, b"[DONE]")
    assert [piece.usage_only for piece in streamed.pieces] == [False, False]


def test_nothing_is_read_after_the_end() -> None:
    streamed = stream_of(HELLO, STOP, b"[DONE]", {"error": {"message": "late"}}, b"nonsense")
    assert (streamed.said(), streamed.error) == ("hello", None)


@pytest.mark.parametrize("ending", [(STOP,), (STOP, TOTAL), (TOTAL,)])
def test_an_end_without_done_is_one_if_the_answer_was_finished(ending: tuple[Json, ...]) -> None:
    streamed = stream_of(HELLO, *ending)
    assert streamed.error is None
    assert (streamed.pieces[-1].usage == COUNTED) is (TOTAL in ending)


# Failures.


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (httpx.Response(400, json={"error": {"message": "no"}}), Rejected),
        (httpx.Response(401, json={"error": {"message": "no"}}), Unauthorized),
        (httpx.Response(429, json={"error": {"message": "no"}}), Unavailable),
        (httpx.Response(503, content=b"<html>"), Unavailable),
        (httpx.ConnectError("x"), Unavailable),
        (httpx.ReadTimeout("x"), Unavailable),
        (streaming([httpx.ReadError("x")]), Unavailable),
        (streaming([b": hold on\n\n", httpx.ReadTimeout("x")]), Unavailable),
        (streaming(events({"error": {"message": "no", "code": "server_error"}})), Unavailable),
        (streaming(events({"error": {"message": "no", "type": "overloaded_error"}})), Unavailable),
        (streaming(events({"error": {"code": "insufficient_quota"}})), Unauthorized),
        (streaming(events({"error": {"type": "invalid_request_error"}})), Rejected),
        (streaming(events({"error": "down"})), Unavailable),
        (streaming(events({"x_groq": {"error": "down"}})), Unavailable),
        (streaming(events(b"<html>")), Broken),
        (streaming(events(b"[DONE]")), Broken),
        (httpx.Response(200, json={"choices": []}), Broken),
        (streaming(b""), Broken),
    ],
)
def test_a_stream_that_fails_before_its_first_piece_fails_like_a_call(
    answer: httpx.Response | Exception, kind: type[ProviderError]
) -> None:
    with pytest.raises(ProviderError) as caught:
        Streamed("openai", answer)
    assert type(caught.value) is kind


def test_an_error_object_in_mid_stream_breaks_it() -> None:
    failure = {"message": "overloaded, sk-openai-1234", "type": "server_error", "code": None}
    streamed = stream_of(ROLE, HELLO, {"error": failure}, HELLO)
    assert streamed.said() == "hello"
    assert (streamed.broken.message, streamed.broken.status) == ("overloaded, [key]", 500)
    assert (streamed.broken.code, streamed.broken.usage) == ("server_error", None)


@pytest.mark.parametrize(
    ("failure", "code"),
    [(httpx.ReadTimeout("silent"), "timeout"), (httpx.RemoteProtocolError("cut"), "connection")],
)
def test_a_connection_that_breaks_in_mid_stream_breaks_it(failure: Exception, code: str) -> None:
    streamed = Streamed("openai", streaming([events(ROLE, HELLO), failure]))
    assert streamed.said() == "hello"
    assert (streamed.broken.code, streamed.broken.usage) == (code, None)


def test_a_stream_that_breaks_after_the_count_still_tells_it() -> None:
    streamed = Streamed("openai", streaming([events(HELLO, STOP, TOTAL), httpx.ReadError("x")]))
    assert streamed.broken.usage == COUNTED


@pytest.mark.parametrize(
    "rest",
    [b"", dumped(HELLO), events(b"{"), events(b"<html>"), b"data: " + b"x" * 9_000_000],
    ids=["nothing", "half an event", "half an object", "no object", "too much"],
)
def test_a_stream_that_ends_in_the_middle_is_broken(rest: bytes) -> None:
    streamed = Streamed("openai", streaming([events(ROLE, HELLO), rest]))
    assert streamed.said() == "hello"
    assert streamed.error is not None


# Those who stray.


@pytest.mark.parametrize("name", ["gemini", "xai"])
def test_a_service_that_counts_in_every_chunk_counts_once_with_its_reasoning(name: str) -> None:
    def counted(output: int, total: int) -> Json:
        return {"prompt_tokens": 3, "completion_tokens": output, "total_tokens": total}

    streamed = stream_of(
        {**HELLO, "usage": counted(1, 24)},
        {**chunk({"content": " you"}, "stop"), "usage": counted(2, 45)},
        b"[DONE]",
        name=name,
    )
    assert streamed.said() == "hello you"
    assert [piece.usage_only for piece in streamed.pieces] == [False, False, True]
    assert streamed.pieces[-1].usage == Usage(input_uncached=3, output=42, reasoning=40)
    assert all("usage" not in each for each in streamed.chunks[:2])
    assert streamed.chunks[-1]["choices"] == []
    assert streamed.chunks[-1]["usage"]["completion_tokens"] == 42


def test_a_service_that_counts_in_every_chunk_and_is_cut_has_not_finished() -> None:
    streamed = stream_of({**HELLO, "usage": USAGE}, name="gemini")
    assert streamed.said() == "hello"
    assert streamed.broken.usage == COUNTED


@pytest.mark.parametrize("again", [(), (TOTAL,)])
def test_groqs_own_usage_is_found_and_not_doubled(again: tuple[Json, ...]) -> None:
    last = {**STOP, "x_groq": {"id": "req_1", "usage": USAGE}}
    streamed = stream_of(HELLO, last, *again, b"[DONE]", name="groq")
    assert [piece.usage_only for piece in streamed.pieces] == [False, False, True]
    assert streamed.pieces[-1].usage == COUNTED
    assert streamed.chunks[1] == last
    assert streamed.chunks[2]["usage"] == USAGE


def test_mistral_is_not_asked_for_usage_and_its_thinking_is_told_apart() -> None:
    thinking = {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}
    streamed = stream_of(
        chunk({"role": "assistant", "content": ""}),
        chunk({"content": [thinking, {"type": "text", "text": "so: "}]}),
        {**chunk({"content": "yes"}, "stop"), "usage": USAGE},
        b"[DONE]",
        name="mistral",
        stream_options={"include_usage": True},
    )
    assert "stream_options" not in streamed.recorder.body()
    assert (streamed.said(), streamed.said("reasoning_content")) == ("so: yes", "hm")
    assert streamed.pieces[-1].usage == COUNTED


def test_every_piece_can_be_relabelled() -> None:
    for name in ("openai", "gemini"):
        for each in stream_of(ROLE, HELLO, STOP, TOTAL, b"[DONE]", name=name).relabelled:
            assert (each["id"], each["model"]) == ("chatcmpl-ours", "asked/for")
