"""Streams through the running gateway: the official OpenAI SDK, callers who leave, many at once."""

import asyncio
import json
import time
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from openai.types.chat import ChatCompletionChunk

from gateway.calls.attempts import ATTEMPTS
from tests.acceptance.deployment import Deployment, until
from tests.contract.lone_web import lone_web
from tests.contract.simulator_process import echo
from tests.contract.test_gateway_openai_sdk import (
    ANTHROPIC_MODEL,
    OPENAI_MODEL,
    TOOL,
    make_async_client,
    make_client,
    says,
)

CHAT = "/v1/chat/completions"
BODY: dict[str, Any] = {
    "model": "gpt-4o-mini",
    "messages": [{"role": "user", "content": "a long story"}],
    "stream": True,
}
SHOWN: Any = {"include_usage": True}
WEATHER: Any = {"type": "function", "function": {"name": "weather"}}
MANY = 500
IDLE_MILLISECONDS = 3_000
SETTLED_SECONDS = 20.0
TOKENS = ("input_uncached", "cache_read", "cache_write_short", "cache_write_long", "output")

each_model = pytest.mark.parametrize("model", [OPENAI_MODEL, ANTHROPIC_MODEL])


@pytest.fixture
def client(gateway: Deployment) -> Iterator[OpenAI]:
    with make_client(gateway) as made:
        yield made


@pytest.mark.promise("N50")
@each_model
def test_a_stream_says_what_an_answer_does_and_counts_the_same(client: OpenAI, model: str) -> None:
    whole = client.chat.completions.create(model=model, messages=says("tell me"))
    pieces = list(
        client.chat.completions.create(
            model=model, messages=says("tell me"), stream=True, stream_options=SHOWN
        )
    )
    said = "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices)
    assert said == whole.choices[0].message.content
    assert {(piece.model, piece.object) for piece in pieces} == {(model, "chat.completion.chunk")}
    assert len({piece.id for piece in pieces}) == 1
    assert pieces[0].choices[0].delta.role == "assistant"
    assert pieces[-2].choices[0].finish_reason == "stop"
    usage = pieces[-1].usage
    assert usage is not None
    assert usage == whole.usage or usage.total_tokens == getattr(whole.usage, "total_tokens", None)
    assert float((usage.model_extra or {})["cost_usd"]) > 0
    assert not any(piece.usage for piece in pieces[:-1])


@each_model
def test_a_tool_call_arrives_in_pieces_that_the_sdk_puts_together(
    client: OpenAI, model: str
) -> None:
    with client.chat.completions.stream(
        model=model, messages=says("weather?"), tools=[TOOL], tool_choice=WEATHER
    ) as stream:
        for _ in stream:
            continue
        choice = stream.get_final_completion().choices[0]
    assert choice.message.tool_calls is not None
    (call,) = choice.message.tool_calls
    assert call.function.name == "weather"
    assert "city" in json.loads(call.function.arguments)


@each_model
def test_the_asynchronous_client_streams_too(gateway: Deployment, model: str) -> None:
    async def read(client: AsyncOpenAI, text: str) -> str:
        stream = await client.chat.completions.create(model=model, messages=says(text), stream=True)
        return "".join([piece.choices[0].delta.content or "" async for piece in stream])

    async def session() -> list[str]:
        async with make_async_client(gateway) as client:
            return await asyncio.gather(*(read(client, f"text {n}") for n in range(10)))

    for number, said in enumerate(asyncio.run(session())):
        assert echo(f"text {number}") in said


def test_an_error_before_the_first_byte_is_an_ordinary_one(
    gateway: Deployment, client: OpenAI
) -> None:
    gateway.simulator.turn(server_error={"count": ATTEMPTS})
    with pytest.raises(openai.InternalServerError) as caught:
        client.chat.completions.create(model=OPENAI_MODEL, messages=says("hi"), stream=True)
    assert (caught.value.status_code, caught.value.type) == (502, "upstream_error")
    # And one that passes is not seen at all.
    gateway.simulator.turn(server_error={"count": 1})
    assert list(
        client.chat.completions.create(model=OPENAI_MODEL, messages=says("hi"), stream=True)
    )


@each_model
def test_an_error_after_it_is_raised_by_the_sdk_after_what_came_before(
    gateway: Deployment, client: OpenAI, model: str
) -> None:
    gateway.simulator.turn(stream_error={"count": 1})
    stream = client.chat.completions.create(model=model, messages=says("hi"), stream=True)
    pieces: list[ChatCompletionChunk] = []
    with pytest.raises(openai.APIError) as caught:
        pieces.extend(stream)
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces) != ""
    assert not isinstance(caught.value, openai.APIStatusError)
    assert caught.value.type == "upstream_error"


class Books:
    """What the gateway has settled in the standard lane, and what the provider has metered."""

    def __init__(self, gateway: Deployment) -> None:
        self._gateway = gateway
        until(self._is_quiet, SETTLED_SECONDS, "what others began is settled")
        self._metered, self._settled = self._meter(), self._settlements()

    def _is_quiet(self) -> bool:
        query = "SELECT count(*) FROM holds WHERE status = 'open' AND expires_at IS NOT NULL"
        with self._gateway.database() as connection:
            return connection.execute(query).fetchone() == (0,)

    def _meter(self) -> tuple[int, ...]:
        rows = [row for row in self._gateway.simulator.lines() if row["lane"] == "standard"]
        return len(rows), *(sum(row[name] for row in rows) for name in TOKENS)

    def _settlements(self) -> tuple[int, ...]:
        sums = ", ".join(f"coalesce(sum({name}), 0)::bigint" for name in TOKENS)
        query = f"SELECT count(*), {sums} FROM settlements WHERE lane = 'standard' AND NOT unpriced"
        with self._gateway.database() as connection:
            row = connection.execute(query).fetchone()
        assert row is not None
        return tuple(row)

    def agree_on(self, calls: int) -> bool:
        """Whether both count so many calls since this was made, and the same tokens."""
        metered = [now - then for now, then in zip(self._meter(), self._metered, strict=True)]
        settled = [now - then for now, then in zip(self._settlements(), self._settled, strict=True)]
        return metered == settled and metered[0] == calls


@each_model
def test_who_leaves_in_the_middle_is_billed_for_what_the_provider_bills(
    gateway: Deployment, client: OpenAI, model: str
) -> None:
    books = Books(gateway)
    gateway.simulator.turn(chunk_ms=20)
    for number in range(5):
        with client.chat.completions.create(
            model=model, messages=says(f"story {number}"), stream=True
        ) as stream:
            for _ in range(number):
                next(stream)
    until(lambda: books.agree_on(5), SETTLED_SECONDS, "what was left is settled")


def test_many_idle_streams_in_one_process_do_not_keep_others_waiting(gateway: Deployment) -> None:
    books = Books(gateway)
    headers = {"Authorization": f"Bearer {gateway.accounts[0].api_key}"}
    limits = httpx.Limits(max_connections=None)

    async def open_stream(client: httpx.AsyncClient, opened: list[float]) -> str:
        async with client.stream("POST", CHAT, json=BODY) as response:
            assert response.status_code == 200
            lines = response.aiter_lines()
            text = await anext(lines)
            opened.append(time.monotonic())
            return text + "\n".join([line async for line in lines])

    async def session(url: str) -> tuple[list[str], float]:
        async with httpx.AsyncClient(
            base_url=url,
            headers=headers,
            timeout=60,
            limits=limits,
            trust_env=False,
            verify=False,
        ) as client:
            opened: list[float] = []
            streams = [asyncio.create_task(open_stream(client, opened)) for _ in range(MANY)]
            while len(opened) < MANY:
                await asyncio.sleep(0.05)
            began = time.monotonic()
            for _ in range(10):
                answer = await client.post(CHAT, json={**BODY, "stream": False})
                assert answer.status_code == 200
            others_seconds = time.monotonic() - began
            assert not any(stream.done() for stream in streams)
            gateway.simulator.turn(chunk_ms=0)
            return list(await asyncio.gather(*streams)), others_seconds

    gateway.simulator.turn(chunk_ms=IDLE_MILLISECONDS)
    with lone_web(gateway) as url:
        told, others_seconds = asyncio.run(session(url))
    assert others_seconds < 5.0
    assert all(text.rstrip().endswith("data: [DONE]") for text in told)
    until(lambda: books.agree_on(MANY + 10), SETTLED_SECONDS, "all streams are settled")
