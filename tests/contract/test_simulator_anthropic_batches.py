"""The simulator as the official Anthropic SDK sees it: message batches."""

from collections.abc import Iterator
from typing import Any

import anthropic
import httpx
import pytest
from anthropic import Anthropic

from tests.contract import simulator_process
from tests.contract.simulator_process import SimulatorProcess, echo, eventually, says

process = simulator_process.process
simulator = simulator_process.simulator

MODEL = "claude-haiku-4-5"


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


def requests(*texts: str, **more: Any) -> Any:
    params = {"model": MODEL, "max_tokens": 200, **more}
    return [
        {"custom_id": f"line-{number}", "params": params | {"messages": says(text)}}
        for number, text in enumerate(texts, start=1)
    ]


def ended(client: Anthropic, batch_id: str) -> Any:
    def final() -> Any:
        batch = client.messages.batches.retrieve(batch_id)
        return batch if batch.processing_status == "ended" else None

    return eventually(final)


def test_a_batch_answers_every_line_as_a_call_would(client: Anthropic) -> None:
    batch = client.messages.batches.create(requests=requests("a", "b"))
    assert (batch.processing_status, batch.request_counts.processing) == ("in_progress", 2)
    final = ended(client, batch.id)

    assert final.request_counts.model_dump() == {
        "processing": 0,
        "succeeded": 2,
        "errored": 0,
        "canceled": 0,
        "expired": 0,
    }
    results: Any = {
        line.custom_id: line.result for line in client.messages.batches.results(batch.id)
    }
    assert results.keys() == {"line-1", "line-2"}
    message, called = results["line-2"].message, ask(client, "b")
    assert message.content == called.content
    assert message.usage.service_tier == "batch"
    assert message.usage.model_copy(update={"service_tier": "standard"}) == called.usage
    assert final.results_url.endswith(f"/v1/messages/batches/{batch.id}/results")


def test_counters_stay_zero_until_all_of_a_batch_has_ended(
    client: Anthropic, simulator: SimulatorProcess
) -> None:
    simulator.turn(batch_seconds=0.6)
    batch = client.messages.batches.create(requests=requests(*"abcdefghijkl"))

    eventually(lambda: simulator.batches()[0]["completed"] > 0)
    running = client.messages.batches.retrieve(batch.id)
    assert running.processing_status == "in_progress"
    assert (running.request_counts.processing, running.request_counts.succeeded) == (12, 0)
    assert running.results_url is None
    assert ended(client, batch.id).request_counts.succeeded == 12


def test_bad_params_fail_their_line_only(client: Anthropic) -> None:
    bad = [
        {
            "custom_id": "none",
            "params": {"model": "claude-nil", "max_tokens": 5, "messages": says("x")},
        },
        {"custom_id": "hot", "params": requests("x", temperature=1.0)[0]["params"]},
        {"custom_id": "streams", "params": requests("x", stream=True)[0]["params"]},
        {"custom_id": "endless", "params": {"model": MODEL, "messages": says("x")}},
    ]
    batch = client.messages.batches.create(requests=requests("fine") + bad)

    assert ended(client, batch.id).request_counts.errored == 4
    results: Any = {
        line.custom_id: line.result for line in client.messages.batches.results(batch.id)
    }
    assert results["line-1"].type == "succeeded"
    assert results["none"].error.error.type == "not_found_error"
    kinds = {results[name].error.error.type for name in ("hot", "streams", "endless")}
    assert kinds == {"invalid_request_error"}


@pytest.mark.parametrize(
    ("items", "words"),
    [
        (requests("a") * 2, "requests.1.custom_id"),
        ([requests("a")[0] | {"custom_id": "x" * 65}], "at most 64 characters"),
        ([requests("a")[0] | {"custom_id": "a b"}], "should match pattern"),
        ([{"custom_id": "a"}], "requests.0.params"),
        ([], "at least 1 item"),
    ],
)
def test_bad_ids_fail_the_creation(client: Anthropic, items: Any, words: str) -> None:
    with pytest.raises(anthropic.BadRequestError, match=words):
        client.messages.batches.create(requests=items)
    assert list(client.messages.batches.list()) == []


@pytest.mark.parametrize(
    "body",
    [
        "",
        "[]",
        '{"requests":[}',
        '{"requests":[{"custom_id":"a","params":{}},]}',
        '{"requests":[{"custom_id":"a","params":{}}',
        '{"requests":[{"custom_id":"a","params":{}}]',
        '{"requests":[{"custom_id":"a","params":{}}]} x',
        '{"requests":[{"custom_id":"a","params":{"x":NaN}}]}',
        '{"requests":[{"custom_id":"a","params":{"x":"\\ud800"}}]}',
    ],
)
def test_a_broken_body_makes_no_batch(simulator: SimulatorProcess, body: str) -> None:
    headers = {"x-api-key": "k", "anthropic-version": "2026-10-21"}
    answer = httpx.post(f"{simulator.url}/v1/messages/batches", content=body, headers=headers)

    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert simulator.batches() == []


def test_a_large_body_is_taken_in_piece_by_piece(client: Anthropic) -> None:
    texts = [f"{number}é\n" + "\\\"'{[" * 4000 for number in range(150)]
    batch = client.messages.batches.create(requests=requests(*texts))
    final = ended(client, batch.id)

    assert final.request_counts.succeeded == 150
    results: Any = {
        line.custom_id: line.result for line in client.messages.batches.results(batch.id)
    }
    for number, text in enumerate(texts, start=1):
        assert results[f"line-{number}"].message.content[0].text.startswith(echo(text))


def test_a_cancelled_batch_keeps_what_is_done(
    client: Anthropic, simulator: SimulatorProcess
) -> None:
    simulator.turn(batch_seconds=4)
    batch = client.messages.batches.create(requests=requests(*["x"] * 100))
    eventually(lambda: simulator.batches()[0]["completed"] > 0)

    cancelled = client.messages.batches.cancel(batch.id)
    assert cancelled.processing_status == "canceling"
    assert cancelled.cancel_initiated_at is not None
    counts = ended(client, batch.id).request_counts

    assert counts.succeeded > 0
    assert counts.canceled == 100 - counts.succeeded
    kinds = [line.result.type for line in client.messages.batches.results(batch.id)]
    assert kinds.count("canceled") == counts.canceled
    with pytest.raises(anthropic.BadRequestError):
        client.messages.batches.cancel(batch.id)


def test_batches_are_listed_newest_first_both_ways(client: Anthropic) -> None:
    made = [client.messages.batches.create(requests=requests(text)).id for text in "abcd"]

    assert [batch.id for batch in client.messages.batches.list(limit=3)] == made[::-1]
    after = client.messages.batches.list(limit=2, after_id=made[3])
    assert ([batch.id for batch in after.data], after.has_more) == ([made[2], made[1]], True)
    before = client.messages.batches.list(limit=2, before_id=made[0])
    assert ([batch.id for batch in before.data], before.has_more) == ([made[2], made[1]], True)


def test_a_batch_can_be_deleted_once_it_has_ended(
    client: Anthropic, simulator: SimulatorProcess
) -> None:
    simulator.turn(batch_seconds=0.3)
    batch = client.messages.batches.create(requests=requests("a"))
    with pytest.raises(anthropic.BadRequestError):
        client.messages.batches.delete(batch.id)

    ended(client, batch.id)
    assert client.messages.batches.delete(batch.id).type == "message_batch_deleted"
    with pytest.raises(anthropic.NotFoundError):
        client.messages.batches.retrieve(batch.id)
