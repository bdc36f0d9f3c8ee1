"""The official OpenAI SDK against the running gateway."""

import asyncio
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from openai.types import CreateEmbeddingResponse
from openai.types.chat import ChatCompletion, ChatCompletionMessageParam
from pydantic import BaseModel

from tests.acceptance.deployment import Deployment
from tests.contract.simulator_process import echo
from tests.contract.test_streams_against_simulator import PIXEL

OPENAI_MODEL, ANTHROPIC_MODEL = "openai/gpt-4o-mini", "anthropic/claude-haiku-5-5"
EMBEDDING_MODEL = "text-embedding-3-small"
ASYNC = {"prefer_async": True}
DONE_SECONDS = 40.0
TOOL: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather somewhere.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
BATCH_ERRORS = {"line_error": 1, "line_error_status": 400}


class Step(BaseModel):
    """What `.parse` is asked for."""

    explanation: str
    number: int


@pytest.fixture
def client(gateway: Deployment) -> Iterator[OpenAI]:
    with make_client(gateway) as made:
        yield made


def make_client(gateway: Deployment, **options: Any) -> OpenAI:
    usual: dict[str, Any] = {
        "api_key": gateway.accounts[0].api_key,
        "max_retries": 0,
        "timeout": 30,
    }
    return OpenAI(base_url=f"{gateway.base_url}/v1", **usual | options)


def says(text: str) -> list[ChatCompletionMessageParam]:
    return [{"role": "user", "content": text}]


@dataclass(frozen=True, slots=True)
class Submitted:
    """Jobs that were made together, so that their tests wait together."""

    chats: dict[str, ChatCompletion]
    embeddings: dict[str, CreateEmbeddingResponse]


@pytest.fixture(scope="module")
def submitted(standing_gateway: Deployment) -> Submitted:
    with make_client(standing_gateway) as client:
        chats = {
            model: client.chat.completions.create(
                model=model, messages=says("good night"), extra_body=ASYNC
            )
            for model in (OPENAI_MODEL, ANTHROPIC_MODEL)
        }
        texts = ["a", "b"]
        embeddings = {
            "base64": client.embeddings.create(
                model=EMBEDDING_MODEL, input=texts, extra_body=ASYNC
            ),
            "float": client.embeddings.create(
                model=EMBEDDING_MODEL, input=texts, extra_body=ASYNC, encoding_format="float"
            ),
        }
    return Submitted(chats, embeddings)


def until_done(look: Callable[[], ChatCompletion]) -> ChatCompletion:
    """Polls as a user would, until there is an answer."""
    end = time.monotonic() + DONE_SECONDS
    while (completion := look()).choices[0].message.content is None:
        assert time.monotonic() < end, "the job is not done"
        time.sleep(0.2)
    return completion


@pytest.mark.parametrize("model", [OPENAI_MODEL, ANTHROPIC_MODEL])
def test_an_asynchronous_chat_is_created_and_polled_to_its_completion(
    client: OpenAI, submitted: Submitted, model: str
) -> None:
    created = submitted.chats[model]
    assert created.id.startswith("chatcmpl-")
    assert (created.object, created.model) == ("chat.completion", model)
    assert created.choices[0].message.content is None
    assert created.choices[0].message.role == "assistant"
    assert created.usage is None
    assert created.model_extra is not None
    assert created.model_extra["status"] == "queued"
    job = created.model_extra["job"]
    assert (job["object"], job["completion_id"]) == ("job", created.id)
    done = until_done(lambda: client.chat.completions.retrieve(created.id))
    assert done.choices[0].message.content is not None
    assert echo("good night") in done.choices[0].message.content
    assert done.choices[0].finish_reason == "stop"
    assert done.id == created.id
    assert done.model == model
    assert done.usage is not None
    assert done.usage.total_tokens == done.usage.prompt_tokens + done.usage.completion_tokens


def test_the_headers_of_a_202_are_at_hand(client: OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(
        model=OPENAI_MODEL,
        messages=says("hi"),
        extra_headers={"Prefer": "respond-async", "Idempotency-Key": f"k-{time.time_ns()}"},
    )
    assert raw.http_response.status_code == 202
    assert raw.headers["location"].startswith("/v1/jobs/job_")
    assert raw.headers["retry-after"] == "30"
    assert raw.headers["preference-applied"] == "respond-async"
    assert raw.headers["x-lane"] == "batch"
    assert raw.headers["x-request-id"].startswith("req_")
    assert raw.parse().choices[0].message.content is None


@pytest.mark.parametrize("encoding", ["base64", "float"])
def test_asynchronous_embeddings_parse(client: OpenAI, submitted: Submitted, encoding: str) -> None:
    created = submitted.embeddings[encoding]
    assert created.data[0].embedding == []
    assert created.model_extra is not None
    assert created.model_extra["status"] == "queued"
    path = f"/jobs/{created.model_extra['id']}"
    end = time.monotonic() + DONE_SECONDS
    while True:
        job: Any = client.get(f"{path}?wait=20", cast_to=object)
        if job["status"] == "completed":
            break
        assert time.monotonic() < end, job
    result: Any = client.get(f"{path}/result", cast_to=object)
    assert [each["index"] for each in result["data"]] == [0, 1]
    assert result == job["result"]


@pytest.mark.promise("N1", "N50", "M6")
@pytest.mark.parametrize("model", [OPENAI_MODEL, ANTHROPIC_MODEL, "gpt-4o-mini"])
def test_an_ordinary_chat_is_answered(client: OpenAI, model: str) -> None:
    raw = client.chat.completions.with_raw_response.create(model=model, messages=says("morning"))
    answer = raw.parse()
    assert answer.choices[0].message.content is not None
    assert echo("morning") in answer.choices[0].message.content
    assert answer.model == model
    assert answer.usage is not None
    assert answer.usage.completion_tokens > 0
    assert raw.headers["x-lane"] == "standard"
    assert float(raw.headers["x-cost-usd"]) > 0


@pytest.mark.promise("N53")
@pytest.mark.parametrize("model", [OPENAI_MODEL, ANTHROPIC_MODEL])
def test_tools_are_called_and_answered(client: OpenAI, model: str) -> None:
    messages = says("what is the weather in Berlin?")
    asked = client.chat.completions.create(
        model=model,
        messages=messages,
        tools=[TOOL],
        tool_choice={"type": "function", "function": {"name": "weather"}},
    ).choices[0]
    assert asked.message.tool_calls is not None
    call = asked.message.tool_calls[0]
    assert call.type == "function"
    assert call.function.name == "weather"
    answer: Any = {"role": "tool", "tool_call_id": call.id, "content": "sunny"}
    said: Any = asked.message.model_dump(exclude_none=True)
    told = client.chat.completions.create(
        model=model, messages=[*messages, said, answer], tools=[TOOL]
    )
    assert told.choices[0].finish_reason in ("stop", "tool_calls")


@pytest.mark.promise("N53")
@pytest.mark.parametrize("model", [OPENAI_MODEL, ANTHROPIC_MODEL])
def test_a_schema_is_parsed(client: OpenAI, model: str) -> None:
    answer = client.chat.completions.parse(
        model=model, messages=says("one step"), response_format=Step
    )
    assert isinstance(answer.choices[0].message.parsed, Step)


@pytest.mark.promise("N53")
@pytest.mark.parametrize("model", [OPENAI_MODEL, ANTHROPIC_MODEL])
def test_pictures_and_files_are_sent(client: OpenAI, model: str) -> None:
    picture = {"url": f"data:image/png;base64,{PIXEL}"}
    pdf = {"filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBERi0xLjQK"}
    text = {"type": "text", "text": "what are they?"}
    alone = client.chat.completions.create(model=model, messages=says("what are they?"))
    for part in ({"type": "image_url", "image_url": picture}, {"type": "file", "file": pdf}):
        message: Any = {"role": "user", "content": [text, part]}
        answer = client.chat.completions.create(model=model, messages=[message])
        assert echo("what are they?") in (answer.choices[0].message.content or "")
        assert answer.usage is not None
        assert alone.usage is not None
        assert answer.usage.prompt_tokens > alone.usage.prompt_tokens


@pytest.mark.promise("N53")
def test_what_a_provider_cannot_do_is_refused_by_its_name(client: OpenAI) -> None:
    several = client.chat.completions.create(model=OPENAI_MODEL, messages=says("hi"), n=2)
    assert len(several.choices) == 2
    fields: dict[str, Any] = {"n": 2, "logprobs": True, "seed": 7, "service_tier": "flex"}
    for name, value in fields.items():
        with pytest.raises(openai.BadRequestError) as caught:
            client.chat.completions.create(
                model=ANTHROPIC_MODEL, messages=says("hi"), extra_body={name: value}
            )
        assert caught.value.param == name


def test_embeddings_are_the_same_in_either_encoding(client: OpenAI) -> None:
    texts = ["one", "two"]
    default = client.embeddings.create(model=EMBEDDING_MODEL, input=texts)
    floats = client.embeddings.create(model=EMBEDDING_MODEL, input=texts, encoding_format="float")
    assert len(default.data) == 2
    for one, other in zip(default.data, floats.data, strict=True):
        assert len(one.embedding) == 1536
        assert one.embedding == pytest.approx(other.embedding, abs=1e-6)
    assert default.usage.total_tokens > 0


def test_models_are_listed_and_retrieved(client: OpenAI) -> None:
    listed = {model.id: model for model in client.models.list()}
    assert listed.keys() >= {OPENAI_MODEL, ANTHROPIC_MODEL}
    for name in (OPENAI_MODEL, "gpt-4o-mini"):
        model = client.models.retrieve(name)
        assert model == listed[OPENAI_MODEL]
    assert model.model_extra is not None
    assert model.model_extra["pricing"]["unit"] == "usd_per_1k_tokens"


def test_every_failure_is_the_exception_that_the_sdk_has_for_it(
    gateway: Deployment, client: OpenAI
) -> None:
    create = client.chat.completions.create
    with pytest.raises(openai.BadRequestError) as bad:
        create(model=OPENAI_MODEL, messages=[])
    assert (bad.value.param, bad.value.type, bad.value.status_code) == (
        "messages",
        "bad_request",
        400,
    )
    with pytest.raises(openai.AuthenticationError):
        make_client(gateway, api_key="sk-op-wrong").models.list()
    with pytest.raises(openai.NotFoundError):
        create(model="gpt-nothing", messages=says("hi"))
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.retrieve(f"chatcmpl-{'0' * 32}")
    with pytest.raises(openai.UnprocessableEntityError):
        create(
            model=OPENAI_MODEL,
            messages=says("hi"),
            extra_body={"require_async": True, "deadline": "1s"},
        )
    with pytest.raises(openai.APIStatusError) as too_dear:
        create(model=OPENAI_MODEL, messages=says("hi"), max_tokens=10**12)
    assert (too_dear.value.status_code, too_dear.value.type) == (402, "insufficient_funds")
    gateway.simulator.turn(server_error=1)
    with pytest.raises(openai.InternalServerError) as upstream:
        create(model=OPENAI_MODEL, messages=says("hi"))
    assert (upstream.value.status_code, upstream.value.type) == (502, "upstream_error")


def test_a_job_that_failed_is_an_exception_that_is_not_retried(gateway: Deployment) -> None:
    gateway.simulator.turn(**BATCH_ERRORS)
    client = make_client(gateway, max_retries=5)
    created = client.chat.completions.create(
        model=OPENAI_MODEL, messages=says("hi"), extra_body=ASYNC
    )
    job_id = created.id.replace("chatcmpl-", "job_")
    job: Any = {"status": "queued"}
    end = time.monotonic() + DONE_SECONDS
    while job["status"] != "failed":
        job = client.get(f"/jobs/{job_id}?wait=20", cast_to=object)
        assert time.monotonic() < end, job
    began = time.monotonic()
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.retrieve(created.id)
    client.post(f"/jobs/{client_job(client)}/cancel", cast_to=object)
    cancelled = client.get("/jobs?status=cancelled&limit=1", cast_to=object)
    (newest,) = list_of(cancelled)
    # A conflict is retried by the SDK unless it is told otherwise.
    with pytest.raises(openai.ConflictError):
        client.chat.completions.retrieve(newest["completion_id"])
    assert time.monotonic() - began < 2.0


def client_job(client: OpenAI) -> str:
    """A job that has just been queued."""
    created = client.chat.completions.create(
        model=OPENAI_MODEL, messages=says("hi"), extra_body=ASYNC
    )
    return created.id.replace("chatcmpl-", "job_")


def list_of(page: Any) -> list[dict[str, Any]]:
    assert page["object"] == "list"
    data: list[dict[str, Any]] = page["data"]
    return data


def test_a_conflict_is_the_sdks_exception_and_is_waited_out_by_its_retries(
    gateway: Deployment, client: OpenAI
) -> None:
    gateway.simulator.turn(latency_ms=1_500)
    headers = {"Idempotency-Key": f"k-{time.time_ns()}"}

    async def race() -> tuple[ChatCompletion | BaseException, ...]:
        async with (
            make_async_client(gateway) as hasty,
            make_async_client(gateway, max_retries=3) as patient,
        ):

            async def ask(asker: AsyncOpenAI, delay_seconds: float) -> ChatCompletion:
                await asyncio.sleep(delay_seconds)
                return await asker.chat.completions.create(
                    model=OPENAI_MODEL, messages=says("race"), extra_headers=headers
                )

            return await asyncio.gather(
                ask(hasty, 0), ask(hasty, 0.5), ask(patient, 0.5), return_exceptions=True
            )

    first, hasty, patient = asyncio.run(race())
    assert isinstance(first, ChatCompletion)
    assert isinstance(hasty, openai.ConflictError)
    assert isinstance(patient, ChatCompletion)
    assert patient.to_dict() == first.to_dict()
    again = client.chat.completions.with_raw_response.create(
        model=OPENAI_MODEL, messages=says("race"), extra_headers=headers
    )
    assert again.headers["idempotent-replayed"] == "true"
    with pytest.raises(openai.UnprocessableEntityError):
        client.chat.completions.create(
            model=OPENAI_MODEL, messages=says("another"), extra_headers=headers
        )


def make_async_client(gateway: Deployment, **options: Any) -> AsyncOpenAI:
    usual: dict[str, Any] = {
        "api_key": gateway.accounts[0].api_key,
        "max_retries": 0,
        "timeout": 30,
    }
    return AsyncOpenAI(base_url=f"{gateway.base_url}/v1", **usual | options)


def test_the_asynchronous_client_does_the_same(gateway: Deployment) -> None:
    async def session() -> None:
        async with make_async_client(gateway) as client:
            answers = await asyncio.gather(
                *(
                    client.chat.completions.create(model=OPENAI_MODEL, messages=says(f"text {n}"))
                    for n in range(20)
                )
            )
            for number, answer in enumerate(answers):
                assert echo(f"text {number}") in (answer.choices[0].message.content or "")
            created = await client.chat.completions.create(
                model=OPENAI_MODEL, messages=says("hi"), extra_body=ASYNC
            )
            assert created.choices[0].message.content is None
            vectors = await client.embeddings.create(model=EMBEDDING_MODEL, input="hi")
            assert len(vectors.data[0].embedding) == 1536
            assert [model.id async for model in client.models.list()]

    asyncio.run(session())
