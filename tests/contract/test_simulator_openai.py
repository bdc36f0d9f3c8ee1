"""The simulator as the official OpenAI SDK sees it: calls."""

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai import OpenAI
from pydantic import BaseModel

from tests.contract import simulator_process
from tests.contract.simulator_process import SimulatorProcess, echo, says

process = simulator_process.process
simulator = simulator_process.simulator

WEATHER_TOOL: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer", "minimum": 2}},
            "required": ["city", "days"],
        },
    },
}


class Person(BaseModel):
    name: str
    age: int
    tags: list[str]


@pytest.fixture(scope="module")
def sdk(process: SimulatorProcess) -> Iterator[OpenAI]:
    with OpenAI(api_key="sk-sim", base_url=process.openai_url, timeout=10) as made:
        yield made


@pytest.fixture
def client(sdk: OpenAI, simulator: SimulatorProcess) -> OpenAI:
    return sdk.with_options(base_url=simulator.openai_url)


def test_a_chat_answer_names_the_question_and_repeats_itself(client: OpenAI) -> None:
    first, second = (
        client.chat.completions.create(model="gpt-4o-mini", messages=says("Why?")) for _ in "12"
    )

    assert first.choices[0].message.content is not None
    assert first.choices[0].message.content.startswith(echo("Why?"))
    assert first.choices[0].message.content == second.choices[0].message.content
    assert first.usage == second.usage
    assert first.id != second.id
    assert first.model == "gpt-4o-mini-2024-07-18"


def test_several_choices_differ_and_are_counted_together(client: OpenAI) -> None:
    one = client.chat.completions.create(model="gpt-4o", messages=says("Hi"), n=1)
    three = client.chat.completions.create(model="gpt-4o", messages=says("Hi"), n=3)

    assert len({choice.message.content for choice in three.choices}) == 3
    assert one.usage is not None
    assert three.usage is not None
    assert three.usage.completion_tokens > one.usage.completion_tokens
    assert three.usage.prompt_tokens == one.usage.prompt_tokens


def test_an_answer_ends_at_the_output_limit(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model="gpt-4o-mini", messages=says("Tell"), max_completion_tokens=6
    )

    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 6


def test_reasoning_is_part_of_the_output(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model="gpt-6-luna", messages=says("Think"), reasoning_effort="high"
    )

    assert answer.usage is not None
    assert answer.usage.completion_tokens_details is not None
    thought = answer.usage.completion_tokens_details.reasoning_tokens
    assert thought is not None
    assert 256 <= thought < answer.usage.completion_tokens


def test_long_prompts_are_cached_by_halves_at_most(client: OpenAI) -> None:
    kinds = set()
    for number in range(12):
        answer = client.chat.completions.create(
            model="gpt-6-luna", messages=says(f"{number}" + "x" * 8000)
        )
        assert answer.usage is not None
        assert answer.usage.prompt_tokens_details is not None
        details = answer.usage.prompt_tokens_details.model_dump()
        assert details["cached_tokens"] + details["cache_write_tokens"] < answer.usage.prompt_tokens
        kinds.add((details["cached_tokens"] > 0, details["cache_write_tokens"] > 0))

    assert kinds == {(False, False), (True, False), (False, True)}


def test_a_stream_adds_up_to_the_answer_and_tells_its_usage(client: OpenAI) -> None:
    whole = client.chat.completions.create(model="gpt-4o-mini", messages=says("Why?"))
    chunks = list(
        client.chat.completions.create(
            model="gpt-4o-mini",
            messages=says("Why?"),
            stream=True,
            stream_options={"include_usage": True},
        )
    )

    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage
    assert len({chunk.id for chunk in chunks}) == 1
    assert all(chunk.usage is None for chunk in chunks[:-1])


def test_a_stream_keeps_its_usage_to_itself_unless_asked(client: OpenAI) -> None:
    chunks = client.chat.completions.create(model="gpt-4o-mini", messages=says("Why?"), stream=True)

    assert all(chunk.choices and chunk.usage is None for chunk in chunks)


@pytest.mark.parametrize(
    "choice", ["required", {"type": "function", "function": {"name": "weather"}}]
)
def test_a_required_tool_is_called_with_fitting_arguments(client: OpenAI, choice: Any) -> None:
    answer = client.chat.completions.create(
        model="gpt-4o", messages=says("Rain?"), tools=[WEATHER_TOOL], tool_choice=choice
    )

    message = answer.choices[0].message
    assert answer.choices[0].finish_reason == "tool_calls"
    assert message.content is None
    assert message.tool_calls is not None
    call = message.tool_calls[0]
    assert call.type == "function"
    assert call.function.name == "weather"
    assert json.loads(call.function.arguments) == {"city": echo("Rain?"), "days": 2}


def test_a_streamed_tool_call_adds_up(client: OpenAI) -> None:
    with client.chat.completions.stream(
        model="gpt-4o", messages=says("Rain?"), tools=[WEATHER_TOOL], tool_choice="required"
    ) as stream:
        final = stream.get_final_completion()

    assert final.choices[0].message.tool_calls is not None
    arguments = final.choices[0].message.tool_calls[0].function.arguments
    assert json.loads(arguments) == {"city": echo("Rain?"), "days": 2}


def test_without_being_made_to_no_tool_is_called(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model="gpt-4o", messages=says("Rain?"), tools=[WEATHER_TOOL]
    )

    assert answer.choices[0].finish_reason == "stop"


def test_structured_output_fits_its_schema(client: OpenAI) -> None:
    answer = client.chat.completions.parse(
        model="gpt-4o", messages=says("Who?"), response_format=Person
    )

    assert answer.choices[0].message.parsed == Person(name=echo("Who?"), age=1, tags=[echo("Who?")])


@pytest.mark.parametrize("given", ["one", ["one", "two"], [1, 2, 3], [[1, 2], [3]]])
def test_embeddings_are_the_same_as_floats_and_as_base64(client: OpenAI, given: Any) -> None:
    model = "text-embedding-3-small"
    decoded = client.embeddings.create(model=model, input=given)
    floats = client.embeddings.create(model=model, input=given, encoding_format="float")

    assert [item.embedding for item in decoded.data] == [item.embedding for item in floats.data]
    assert len(decoded.data[0].embedding) == 1536
    assert abs(sum(value**2 for value in decoded.data[0].embedding) - 1) < 1e-4
    assert decoded.usage.prompt_tokens == decoded.usage.total_tokens > 0


def test_embeddings_can_be_shorter(client: OpenAI) -> None:
    answer = client.embeddings.create(
        model="text-embedding-3-large", input=["a", "b"], dimensions=64
    )

    assert [len(item.embedding) for item in answer.data] == [64, 64]
    assert answer.data[0].embedding != answer.data[1].embedding


def test_models_are_listed_and_dated_snapshots_are_known(client: OpenAI) -> None:
    names = [model.id for model in client.models.list()]

    assert "gpt-6-luna" in names
    assert not [name for name in names if name.startswith("claude")]
    assert client.models.retrieve("gpt-4o-mini-2024-07-18").owned_by == "system"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("claude-haiku-4-5")


@pytest.mark.parametrize(
    ("changes", "raised", "code"),
    [
        ({"model": "gpt-nil"}, openai.NotFoundError, "model_not_found"),
        ({"messages": []}, openai.BadRequestError, "empty_array"),
        ({"temperature": 3}, openai.BadRequestError, "decimal_above_max_value"),
        ({"stop": ["a", "b", "c", "d", "e"]}, openai.BadRequestError, "array_above_max_length"),
        ({"max_tokens": 20_000}, openai.BadRequestError, "invalid_value"),
        ({"messages": [{"role": "king"}]}, openai.BadRequestError, "invalid_value"),
        ({"extra_body": {"prefer_async": True}}, openai.BadRequestError, None),
        (
            {"messages": [{"role": "user", "content": "x" * 600_000}]},
            openai.BadRequestError,
            "context_length_exceeded",
        ),
    ],
)
def test_a_wrong_body_is_refused_as_openai_refuses_it(
    client: OpenAI, changes: dict[str, Any], raised: type[openai.APIStatusError], code: str | None
) -> None:
    body = {"model": "gpt-4o-mini", "messages": says("Hi")} | changes
    with pytest.raises(raised) as caught:
        client.chat.completions.create(**body)

    assert caught.value.code == code
    assert caught.value.request_id is not None
    assert isinstance(caught.value.body, dict)
    assert caught.value.body.keys() == {"message", "type", "param", "code"}


def test_a_revoked_key_is_refused_and_any_other_is_good(simulator: SimulatorProcess) -> None:
    simulator.turn(revoked_keys=["sk-gone"])
    with OpenAI(api_key="sk-gone", base_url=simulator.openai_url) as gone:
        with pytest.raises(openai.AuthenticationError) as caught:
            gone.models.list()
        assert caught.value.code == "invalid_api_key"
    with OpenAI(api_key="sk-anything", base_url=simulator.openai_url) as other:
        assert other.models.list().data


def test_the_sdk_waits_out_a_rate_limit(client: OpenAI, simulator: SimulatorProcess) -> None:
    simulator.turn(rate_limit={"count": 2}, retry_after=0.05)

    answer = client.chat.completions.create(model="gpt-4o-mini", messages=says("Hi"))

    assert answer.choices[0].finish_reason == "stop"
    assert [row["calls"] for row in simulator.meter()] == [1]


def test_a_lasting_rate_limit_is_raised(client: OpenAI, simulator: SimulatorProcess) -> None:
    simulator.turn(rate_limit=1, retry_after=0.01)

    with pytest.raises(openai.RateLimitError) as caught:
        client.chat.completions.create(model="gpt-4o-mini", messages=says("Hi"))
    assert caught.value.code == "rate_limit_exceeded"
    assert simulator.meter() == []


def test_an_error_in_mid_stream_is_raised(client: OpenAI, simulator: SimulatorProcess) -> None:
    simulator.turn(stream_error={"count": 1})
    stream = client.chat.completions.create(model="gpt-4o-mini", messages=says("Hi"), stream=True)

    with pytest.raises(openai.APIError, match="mid-stream"):
        list(stream)
    assert simulator.meter() == []
