"""The simulator as the official Anthropic SDK sees it: calls."""

import json
from collections.abc import Iterator
from typing import Any

import anthropic
import httpx
import pytest
from anthropic import Anthropic

from tests.contract import simulator_process
from tests.contract.simulator_process import SimulatorProcess, echo, says

process = simulator_process.process
simulator = simulator_process.simulator

MODEL = "claude-haiku-4-5"
WEATHER_TOOL: Any = {
    "name": "weather",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}},
}


@pytest.fixture(scope="module")
def sdk(process: SimulatorProcess) -> Iterator[Anthropic]:
    with Anthropic(api_key="sk-ant-sim", base_url=process.url, timeout=10) as made:
        yield made


@pytest.fixture
def client(sdk: Anthropic, simulator: SimulatorProcess) -> Anthropic:
    return sdk.with_options(base_url=simulator.url)


def ask(client: Anthropic, text: str, **more: Any) -> Any:
    body = {"model": MODEL, "max_tokens": 200, "messages": says(text)}
    return client.messages.create(**body | more)


def test_an_answer_names_the_question_and_repeats_itself(client: Anthropic) -> None:
    first, second = (ask(client, "Why?") for _ in "12")

    assert first.content[0].text.startswith(echo("Why?"))
    assert first.content == second.content
    assert first.usage == second.usage
    assert (first.stop_reason, first.role, first.usage.service_tier) == (
        "end_turn",
        "assistant",
        "standard",
    )
    assert first.model == "claude-haiku-4-5-20251001"


def test_an_answer_ends_at_the_output_limit(client: Anthropic) -> None:
    answer = ask(client, "Why?", max_tokens=6)

    assert (answer.stop_reason, answer.usage.output_tokens) == ("max_tokens", 6)


def test_an_answer_ends_at_a_stop_sequence(client: Anthropic) -> None:
    answer = ask(client, "Why?", stop_sequences=[" "])

    assert (answer.stop_reason, answer.stop_sequence) == ("stop_sequence", " ")
    assert answer.content[0].text == echo("Why?")


def test_a_cache_is_read_and_written_in_classes_that_do_not_overlap(client: Anthropic) -> None:
    kinds = set()
    for number in range(12):
        system = [
            {
                "type": "text",
                "text": f"{number}" + "x" * 8000,
                "cache_control": {"type": "ephemeral", "ttl": "1h"},
            }
        ]
        usage = ask(client, "Why?", system=system).usage
        total = (
            usage.input_tokens + usage.cache_creation_input_tokens + usage.cache_read_input_tokens
        )
        assert 2000 < total < 2010
        assert usage.cache_creation.ephemeral_5m_input_tokens == 0
        long_lived = usage.cache_creation.ephemeral_1h_input_tokens
        assert long_lived == usage.cache_creation_input_tokens
        kinds.add((long_lived > 0, usage.cache_read_input_tokens > 0))

    assert kinds == {(False, False), (True, False), (False, True)}


def test_thinking_comes_first_and_is_part_of_the_output(client: Anthropic) -> None:
    thinking = {"type": "enabled", "budget_tokens": 1024}
    answer = ask(client, "Why?", thinking=thinking, max_tokens=2000)

    assert [block.type for block in answer.content] == ["thinking", "text"]
    thought = answer.usage.output_tokens_details.thinking_tokens
    assert 0 < thought < answer.usage.output_tokens


@pytest.mark.parametrize("choice", [{"type": "any"}, {"type": "tool", "name": "weather"}])
def test_a_required_tool_is_called(client: Anthropic, choice: Any) -> None:
    answer = ask(client, "Rain?", tools=[WEATHER_TOOL], tool_choice=choice)

    assert answer.stop_reason == "tool_use"
    (block,) = answer.content
    assert (block.type, block.name, block.input) == ("tool_use", "weather", {"city": echo("Rain?")})


def test_structured_output_fits_its_schema(client: Anthropic) -> None:
    schema = {
        "type": "object",
        "properties": {"ok": {"type": "boolean"}, "why": {"type": "string"}},
    }
    answer = ask(
        client, "Who?", output_config={"format": {"type": "json_schema", "schema": schema}}
    )

    assert json.loads(answer.content[0].text) == {"ok": True, "why": echo("Who?")}


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"tools": [WEATHER_TOOL], "tool_choice": {"type": "any"}},
        {"thinking": {"type": "enabled", "budget_tokens": 1024}, "max_tokens": 2000},
    ],
)
def test_a_stream_adds_up_to_the_answer(client: Anthropic, more: Any) -> None:
    whole = ask(client, "Why?", **more)
    body = {"model": MODEL, "max_tokens": 200, "messages": says("Why?")} | more
    with client.messages.stream(**body) as stream:
        names = [event.type for event in stream]
        final = stream.get_final_message()

    assert [block.model_dump() for block in final.content] == [
        block.model_dump() for block in whole.content
    ]
    assert final.stop_reason == whole.stop_reason
    assert final.usage.output_tokens == whole.usage.output_tokens
    assert final.usage.input_tokens == whole.usage.input_tokens
    assert (names[0], names[-1]) == ("message_start", "message_stop")
    assert names.index("content_block_start") < names.index("content_block_stop")
    assert names.index("content_block_stop") < names.index("message_delta")


def test_an_error_in_mid_stream_is_raised(client: Anthropic, simulator: SimulatorProcess) -> None:
    simulator.turn(stream_error={"count": 1})

    with (
        pytest.raises(anthropic.APIStatusError, match="Overloaded"),
        client.messages.stream(model=MODEL, max_tokens=50, messages=says("Hi")) as stream,
    ):
        stream.get_final_message()
    assert simulator.meter() == []


def test_models_tell_what_they_can(client: Anthropic) -> None:
    listed = list(client.models.list(limit=2))

    assert {model.id for model in listed} >= {"claude-haiku-4-5-20251001", "claude-opus-5-5"}
    model = client.models.retrieve("claude-haiku-4-5")
    assert model.capabilities is not None
    assert model.capabilities.batch.supported
    assert (model.lifecycle, model.line, model.max_tokens) == ("active", "haiku", 64_000)
    assert client.models.retrieve("claude-haiku-4-5-20251001").id == "claude-haiku-4-5-20251001"
    with pytest.raises(anthropic.NotFoundError):
        client.models.retrieve("gpt-4o")


def test_tokens_are_counted_as_they_are_billed(client: Anthropic) -> None:
    counted = client.messages.count_tokens(model=MODEL, messages=says("How long is this?"))

    assert counted.input_tokens == ask(client, "How long is this?").usage.input_tokens


@pytest.mark.parametrize("name", ["temperature", "top_p", "top_k"])
def test_sampling_needs_the_old_version(client: Anthropic, name: str) -> None:
    with pytest.raises(anthropic.BadRequestError, match=name):
        ask(client, "Hi", extra_body={name: 1})

    old = {"anthropic-version": "2023-06-01"}
    assert ask(client, "Hi", extra_body={name: 1}, extra_headers=old).stop_reason == "end_turn"


@pytest.mark.parametrize(
    ("changes", "raised"),
    [
        ({"model": "claude-nil"}, anthropic.NotFoundError),
        ({"model": "gpt-4o"}, anthropic.NotFoundError),
        ({"messages": []}, anthropic.BadRequestError),
        ({"messages": [{"role": "king", "content": "x"}]}, anthropic.BadRequestError),
        ({"messages": says("")}, anthropic.BadRequestError),
        ({"max_tokens": 10**6}, anthropic.BadRequestError),
        ({"extra_body": {"n": 2}}, anthropic.BadRequestError),
        ({"tool_choice": {"type": "any"}}, anthropic.BadRequestError),
        ({"thinking": {"type": "enabled", "budget_tokens": 5}}, anthropic.BadRequestError),
        ({"messages": says("x" * 900_000)}, anthropic.BadRequestError),
    ],
)
def test_a_wrong_body_is_refused_as_anthropic_refuses_it(
    client: Anthropic, changes: dict[str, Any], raised: type[anthropic.APIStatusError]
) -> None:
    with pytest.raises(raised) as caught:
        ask(client, "Hi", **changes)

    body = caught.value.body
    assert isinstance(body, dict)
    assert body["type"] == "error"
    assert (
        body["request_id"] == caught.value.request_id == caught.value.response.headers["request-id"]
    )


def test_the_version_must_be_named_and_known(simulator: SimulatorProcess) -> None:
    body = {"model": MODEL, "max_tokens": 5, "messages": says("Hi")}
    url, key = f"{simulator.url}/v1/messages", {"x-api-key": "k"}

    assert "header is required" in httpx.post(url, json=body, headers=key).text
    unknown = httpx.post(url, json=body, headers=key | {"anthropic-version": "2020-01-01"})
    assert unknown.status_code == 400
    known = httpx.post(url, json=body, headers=key | {"anthropic-version": "2023-06-01"})
    assert known.status_code == 200


def test_a_key_is_taken_in_either_header_and_must_be_there(simulator: SimulatorProcess) -> None:
    simulator.turn(revoked_keys=["gone"])
    body = {"model": MODEL, "max_tokens": 5, "messages": says("Hi")}
    version = {"anthropic-version": "2026-10-21"}
    statuses = [
        httpx.post(f"{simulator.url}/v1/messages", json=body, headers=version | key).status_code
        for key in (
            {"x-api-key": "k"},
            {"authorization": "Bearer k"},
            {},
            {"x-api-key": "gone"},
        )
    ]

    assert statuses == [200, 200, 401, 401]


def test_the_sdk_waits_out_an_overload(client: Anthropic, simulator: SimulatorProcess) -> None:
    simulator.turn(server_error={"count": 1}, server_error_status=529)

    assert ask(client, "Hi").stop_reason == "end_turn"
    assert [row["calls"] for row in simulator.meter()] == [1]


def test_a_lasting_rate_limit_is_raised(client: Anthropic, simulator: SimulatorProcess) -> None:
    simulator.turn(rate_limit=1, retry_after=0.01)

    with pytest.raises(anthropic.RateLimitError):
        ask(client, "Hi")
