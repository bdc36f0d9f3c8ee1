"""Every dialect's streams, pictures and thinking, over real HTTP, and what goes wrong with them."""

import json
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from gateway.catalogue.usage import Usage
from gateway.net.http import HttpClients
from gateway.providers import dialects
from gateway.providers.dialect import (
    Credential,
    ProviderError,
    Rejected,
    StreamBroken,
    StreamPiece,
    Unauthorized,
    Unavailable,
)
from gateway.providers.relabel import Relabel
from tests.contract.account import MODELS, Account, Json, body
from tests.contract.simulator_process import QUICK, SimulatorProcess, echo

TOKEN_CLASSES = sorted(asdict(Usage()))
PIXEL = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJ"
    "AAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
SCHEMA: Json = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
    "required": ["city"],
}
WEATHER: Json = {"type": "function", "function": {"name": "weather", "parameters": SCHEMA}}
NAMED: Json = {"type": "function", "function": {"name": "weather"}}


@pytest.fixture(scope="module")
def process() -> Iterator[SimulatorProcess]:
    with SimulatorProcess() as running:
        yield running


@pytest.fixture(params=sorted(MODELS))
def account(
    request: pytest.FixtureRequest, process: SimulatorProcess, tmp_path: Path
) -> Iterator[Account]:
    process.reset(**QUICK)
    http = HttpClients()
    yield Account(request.param, process, http, tmp_path)
    http.close()


def stream(account: Account, asked: Json, timeout_seconds: float = 10.0) -> list[StreamPiece]:
    dialect = account.dialect
    with dialect.stream(account.credential, account.model, asked, timeout_seconds) as pieces:
        return list(pieces)


def heard(account: Account, asked: Json) -> tuple[list[StreamPiece], StreamBroken | None]:
    """What arrived of a stream, and how it broke."""
    arrived: list[StreamPiece] = []
    with account.dialect.stream(account.credential, account.model, asked, 10.0) as pieces:
        try:
            arrived += pieces
        except StreamBroken as error:
            return arrived, error
    return arrived, None


def deltas(pieces: list[StreamPiece]) -> list[Json]:
    chunks = [json.loads(piece.data) for piece in pieces]
    return [choice["delta"] for chunk in chunks for choice in chunk["choices"]]


def said(pieces: list[StreamPiece], field: str = "content") -> str:
    return "".join(delta.get(field) or "" for delta in deltas(pieces))


def metered(account: Account) -> Json:
    (row,) = [row for row in account.simulator.meter() if row["lane"] == "standard"]
    return {name: row[name] for name in TOKEN_CLASSES}


# What comes through.


def test_a_stream_says_and_bills_what_a_call_does(account: Account) -> None:
    # Long enough for a part of the prompt to come from the cache.
    asked = body("a long question " * 500)
    answer = account.call(asked)
    pieces = stream(account, {**asked, "stream": True})
    assert said(pieces) == answer.body["choices"][0]["message"]["content"]
    assert [piece.usage_only for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    last = pieces[-1]
    assert last.usage == answer.usage
    assert last.service_tier == answer.service_tier
    assert json.loads(last.data)["usage"]["prompt_tokens"] == answer.body["usage"]["prompt_tokens"]
    assert metered(account) == {name: 2 * each for name, each in asdict(answer.usage).items()}


def test_the_chunks_are_openais_from_the_role_to_the_finish(account: Account) -> None:
    pieces = stream(account, body("hi"))
    relabel = Relabel("chatcmpl-ours", "asked/for")
    chunks = [json.loads(relabel(piece.data)) for piece in pieces]
    for chunk in chunks:
        assert chunk["object"] == "chat.completion.chunk"
        assert (chunk["id"], chunk["model"]) == ("chatcmpl-ours", "asked/for")
        assert chunk["created"] == chunks[0]["created"]
    assert deltas(pieces)[0]["role"] == "assistant"
    finishes = [choice["finish_reason"] for chunk in chunks for choice in chunk["choices"]]
    assert finishes == [None] * (len(finishes) - 1) + ["stop"]


def test_a_tool_call_arrives_in_pieces_that_add_up(account: Account) -> None:
    asked = body("weather?", tools=[WEATHER], tool_choice=NAMED)
    (whole,) = account.call(asked).body["choices"][0]["message"]["tool_calls"]
    pieces = stream(account, asked)
    calls = [call for delta in deltas(pieces) for call in delta.get("tool_calls", [])]
    assert {call["index"] for call in calls} == {0}
    assert calls[0]["id"] == whole["id"]
    assert calls[0]["function"]["name"] == "weather"
    assert len(calls) > 1
    written = "".join(call["function"]["arguments"] for call in calls)
    assert json.loads(written) == json.loads(whole["function"]["arguments"])


def test_a_picture_is_understood_by_all(account: Account) -> None:
    asked = body("x")
    part = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}}
    asked["messages"][0]["content"] = [{"type": "text", "text": "what is it?"}, part]
    answer = account.call(asked)
    assert answer.body["choices"][0]["message"]["content"].startswith(echo("what is it?"))
    assert answer.usage.input_uncached > account.call(body("what is it?")).usage.input_uncached


def test_claudes_thinking_is_shown_signed_and_taken_back(
    process: SimulatorProcess, tmp_path: Path
) -> None:
    process.reset(**QUICK)
    http = HttpClients()
    account = Account("anthropic", process, http, tmp_path)
    asked = body("weather?", thinking={"type": "adaptive"}, reasoning_effort="low")
    message = account.call(asked).body["choices"][0]["message"]
    pieces = stream(account, asked)
    assert said(pieces, "reasoning_content") == message["reasoning_content"] != ""
    assert deltas(pieces)[-1]["thinking_blocks"] == message["thinking_blocks"]
    assert pieces[-1].usage is not None
    assert pieces[-1].usage.reasoning > 0
    again = [*asked["messages"], message, {"role": "user", "content": "and now?"}]
    assert said(stream(account, {**asked, "messages": again})).startswith(echo("and now?"))
    http.close()


def test_a_service_that_speaks_like_openai_is_called_and_streamed_likewise(
    process: SimulatorProcess,
) -> None:
    process.reset(**QUICK)
    http = HttpClients()
    asked = {**body("hi"), "max_completion_tokens": 50}
    for name in ("groq", "mistral"):
        dialect = dialects(http)[name]
        credential = Credential(name, "house", f"sk-sim-{name}", process.openai_url)
        with dialect.stream(credential, "gpt-4o-mini", asked, 10) as pieces:
            arrived = list(pieces)
        assert said(arrived).startswith(echo("hi"))
        # The simulator counts only when asked to, which Mistral must not be.
        assert (arrived[-1].usage is not None) is (name == "groq")
    http.close()


def test_pieces_arrive_one_by_one(account: Account) -> None:
    account.simulator.turn(first_token_ms=100, chunk_ms=50)
    began = time.monotonic()
    dialect, arrivals = account.dialect, []
    with dialect.stream(account.credential, account.model, body("hi"), 10) as pieces:
        for _ in pieces:
            arrivals.append(time.monotonic() - began)
    assert arrivals[0] >= 0.1
    assert arrivals[-1] - arrivals[0] > 0.05 * 3
    assert arrivals[0] < arrivals[-1] / 2


# What goes wrong.


def test_an_error_in_mid_stream_breaks_it(account: Account) -> None:
    account.simulator.turn(stream_error={"count": 1})
    arrived, broken = heard(account, body("hi"))
    assert said(arrived) != ""
    assert broken is not None
    assert broken.status in (500, 529)
    assert broken.message
    assert not any(piece.usage for piece in arrived)
    # Anthropic counts the prompt at the beginning, OpenAI everything at the end.
    assert (broken.usage is not None) is (account.dialect.name == "anthropic")
    assert said(stream(account, body("hi"))).startswith(echo("hi"))


def test_a_connection_cut_in_mid_stream_breaks_it(account: Account) -> None:
    account.simulator.turn(half_response={"count": 1})
    arrived, broken = heard(account, body("hi"))
    assert said(arrived) != ""
    assert broken is not None
    assert (broken.status, broken.code) == (None, "connection")


def test_a_stream_that_drips_is_given_up_at_its_deadline(account: Account) -> None:
    account.simulator.turn(drip=1, drip_seconds=0.02)
    with pytest.raises((Unavailable, StreamBroken)) as caught:
        stream(account, body("hi"), timeout_seconds=0.5)
    assert caught.value.code == "timeout"


@pytest.mark.parametrize(
    ("knobs", "kind"),
    [
        ({"rate_limit": 1}, Unavailable),
        ({"rate_limit": 1, "rate_limit_code": "insufficient_quota"}, Unauthorized),
        ({"server_error": 1, "server_error_status": 529}, Unavailable),
        ({"hang_seconds": 30}, Unavailable),
    ],
)
def test_what_is_refused_before_the_first_piece_is_refused_as_for_calls(
    account: Account, knobs: Json, kind: type[ProviderError]
) -> None:
    account.simulator.turn(**knobs)
    with pytest.raises(ProviderError) as caught:
        stream(account, body("hi"), timeout_seconds=0.5)
    assert type(caught.value) is kind


def test_an_unknown_model_is_rejected(account: Account) -> None:
    account.model = "no-such-model"
    with pytest.raises(Rejected):
        stream(account, body("hi"))


@pytest.mark.parametrize("knob", ["missing_usage", "negative_usage"])
def test_a_usage_that_was_not_told_is_none(account: Account, knob: str) -> None:
    account.simulator.turn(**{knob: 1})
    pieces = stream(account, body("hi"))
    assert said(pieces).startswith(echo("hi"))
    assert not any(piece.usage for piece in pieces)


def test_a_stream_left_early_does_no_harm_to_the_next_call(account: Account) -> None:
    account.simulator.turn(chunk_ms=20)
    dialect = account.dialect
    for _ in range(3):
        with dialect.stream(account.credential, account.model, body("hi"), 10) as pieces:
            next(pieces)
        assert account.call(body("hi")).usage is not None
