"""The simulator as the official OpenAI SDK sees it: files and batches."""

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai import OpenAI

from tests.contract import simulator_process
from tests.contract.simulator_process import SimulatorProcess, chat_lines, eventually, says

process = simulator_process.process
simulator = simulator_process.simulator


@pytest.fixture(scope="module")
def sdk(process: SimulatorProcess) -> Iterator[OpenAI]:
    with OpenAI(api_key="sk-sim", base_url=process.openai_url, timeout=10) as made:
        yield made


@pytest.fixture
def client(sdk: OpenAI, simulator: SimulatorProcess) -> OpenAI:
    return sdk.with_options(base_url=simulator.openai_url)


def run_batch(client: OpenAI, lines: bytes) -> Any:
    file = client.files.create(file=("in.jsonl", lines), purpose="batch")
    batch = client.batches.create(
        input_file_id=file.id,
        endpoint="/v1/chat/completions",
        completion_window="24h",
        metadata={"job": "j1"},
    )
    ended = ("completed", "failed", "expired", "cancelled")

    def final() -> Any:
        seen = client.batches.retrieve(batch.id)
        return seen if seen.status in ended else None

    return eventually(final)


def test_files_can_be_listed_read_and_deleted(client: OpenAI) -> None:
    files = [
        client.files.create(file=(f"{name}.jsonl", b"{}\n"), purpose="batch") for name in "abc"
    ]

    assert [file.id for file in client.files.list(limit=2)] == [file.id for file in files[::-1]]
    assert [file.filename for file in client.files.list(order="asc")] == [
        "a.jsonl",
        "b.jsonl",
        "c.jsonl",
    ]
    assert list(client.files.list(purpose="vision")) == []
    assert client.files.content(files[0].id).read() == b"{}\n"
    assert files[0].expires_at == files[0].created_at + 30 * 86_400
    assert client.files.delete(files[0].id).deleted
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(files[0].id)


def test_files_and_batches_of_another_key_are_not_found(
    client: OpenAI, simulator: SimulatorProcess
) -> None:
    batch = run_batch(client, chat_lines(["a"]))
    with OpenAI(api_key="sk-other", base_url=simulator.openai_url) as other:
        with pytest.raises(openai.NotFoundError):
            other.batches.retrieve(batch.id)
        with pytest.raises(openai.NotFoundError):
            other.files.content(batch.output_file_id)
        assert list(other.batches.list()) == []
        assert list(other.files.list()) == []


def test_a_batch_answers_every_line_as_a_call_would(client: OpenAI) -> None:
    batch = run_batch(client, chat_lines(["a", "b"]))

    assert (batch.status, batch.metadata, batch.errors) == ("completed", {"job": "j1"}, None)
    assert (batch.request_counts.total, batch.request_counts.completed) == (2, 2)
    assert batch.created_at <= batch.in_progress_at <= batch.finalizing_at <= batch.completed_at
    assert batch.error_file_id is None
    lines = client.files.content(batch.output_file_id).text.splitlines()
    records = {record["custom_id"]: record for record in map(json.loads, lines)}
    assert records.keys() == {"line-1", "line-2"}
    called = client.chat.completions.create(model="gpt-4o-mini", messages=says("b"))
    response = records["line-2"]["response"]
    assert response["status_code"] == 200
    assert response["body"]["choices"] == called.model_dump(exclude_unset=True)["choices"]
    assert called.usage is not None
    assert response["body"]["usage"] == called.usage.model_dump(exclude_unset=True)
    used = [record["response"]["body"]["usage"]["total_tokens"] for record in records.values()]
    assert batch.usage.total_tokens == sum(used)


def test_a_batch_of_embeddings_runs(client: OpenAI) -> None:
    body = {"model": "text-embedding-3-small", "input": "a", "dimensions": 8}
    line = {"custom_id": "e", "method": "POST", "url": "/v1/embeddings", "body": body}
    file = client.files.create(file=("e.jsonl", json.dumps(line).encode()), purpose="batch")
    batch = client.batches.create(
        input_file_id=file.id, endpoint="/v1/embeddings", completion_window="24h"
    )

    output = eventually(lambda: client.batches.retrieve(batch.id).output_file_id)
    (record,) = map(json.loads, client.files.content(output).text.splitlines())
    assert len(record["response"]["body"]["data"][0]["embedding"]) == 8


def test_a_refused_line_lies_in_the_error_file_with_a_null_error(client: OpenAI) -> None:
    lines = chat_lines(["a", "b"]) + chat_lines(["c"]).replace(b"line-1", b"bad").replace(
        b'"messages"', b'"temperature": 3, "messages"'
    )
    batch = run_batch(client, lines)

    assert (batch.status, batch.request_counts.failed) == ("completed", 1)
    (record,) = map(json.loads, client.files.content(batch.error_file_id).text.splitlines())
    assert (record["custom_id"], record["error"]) == ("bad", None)
    assert record["response"]["status_code"] == 400
    assert record["response"]["body"]["error"]["param"] == "temperature"


def test_lines_of_an_unknown_model_are_refused_one_by_one(client: OpenAI) -> None:
    batch = run_batch(client, chat_lines(["a", "b"], model="gpt-nil"))

    assert (batch.status, batch.output_file_id) == ("completed", None)
    records = map(json.loads, client.files.content(batch.error_file_id).text.splitlines())
    assert [record["response"]["status_code"] for record in records] == [404, 404]


@pytest.mark.parametrize(
    ("lines", "code", "line"),
    [
        (chat_lines(["a"]) + b"{nonsense\n", "invalid_json_line", 2),
        (chat_lines(["a"]) + b"\n", "invalid_json_line", 2),
        (b"\xef\xbb\xbf" + chat_lines(["a"]), "invalid_json_line", 1),
        (chat_lines(["a"]) * 2, "duplicate_custom_id", 2),
        (chat_lines(["a"]).replace(b"/v1/chat/completions", b"/v1/embeddings"), "url_mismatch", 1),
        (
            chat_lines(["a"]) + chat_lines(["b"], "gpt-4o").replace(b"line-1", b"line-2"),
            "model_mismatch",
            2,
        ),
        (chat_lines(["a"]).replace(b'"POST"', b'"GET"'), "invalid_request", 1),
        (chat_lines(["a"]).replace(b"custom_id", b"id"), "missing_required_parameter", 1),
        (b"", "empty_file", None),
    ],
)
def test_one_bad_line_fails_the_whole_batch(
    client: OpenAI, lines: bytes, code: str, line: int | None
) -> None:
    batch = run_batch(client, lines)

    assert (batch.status, batch.output_file_id, batch.error_file_id) == ("failed", None, None)
    assert [(error.code, error.line) for error in batch.errors.data] == [(code, line)]
    assert batch.failed_at is not None


def test_a_batch_takes_fifty_thousand_lines_and_no_more(client: OpenAI) -> None:
    batch = run_batch(client, chat_lines(["a"] * 50_001))

    assert [error.code for error in batch.errors.data] == ["too_many_tasks"]


def test_batches_are_listed_newest_first_in_pages(client: OpenAI) -> None:
    made = [run_batch(client, chat_lines([text])).id for text in "abc"]

    first = client.batches.list(limit=2)
    assert [batch.id for batch in first.data] == [made[2], made[1]]
    assert first.has_more
    assert [batch.id for batch in client.batches.list(limit=2)] == made[::-1]
    assert [batch.id for batch in client.batches.list(after=made[1])] == [made[0]]


def test_a_cancelled_batch_keeps_what_is_done(client: OpenAI, simulator: SimulatorProcess) -> None:
    simulator.turn(batch_seconds=4)
    file = client.files.create(file=("in.jsonl", chat_lines(["x"] * 100)), purpose="batch")
    batch = client.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
    )

    def done() -> int:
        counts = client.batches.retrieve(batch.id).request_counts
        return counts.completed if counts else 0

    eventually(done)
    assert client.batches.cancel(batch.id).status == "cancelling"
    eventually(lambda: client.batches.retrieve(batch.id).status == "cancelled")
    ended = client.batches.retrieve(batch.id)

    assert ended.output_file_id is not None
    assert ended.error_file_id is not None
    finished = client.files.content(ended.output_file_id).text.splitlines()
    left = [json.loads(x) for x in client.files.content(ended.error_file_id).text.splitlines()]
    assert len(finished) + len(left) == 100
    assert {record["error"]["code"] for record in left} == {"batch_cancelled"}
    assert ended.cancelling_at is not None
    assert ended.cancelled_at is not None
    with pytest.raises(openai.ConflictError):
        client.with_options(max_retries=0).batches.cancel(batch.id)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"endpoint": "/v1/nothing"}, "Invalid value"),
        ({"completion_window": "1h"}, "completion_window"),
        ({"input_file_id": "file-none"}, "Cannot find file file-none"),
        ({"metadata": {str(number): "x" for number in range(17)}}, "metadata"),
        ({"metadata": {"name": "x" * 513}}, "metadata"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 1}}, "output_expires_after"),
    ],
)
def test_a_batch_with_a_wrong_field_is_not_created(
    client: OpenAI, changes: dict[str, Any], words: str
) -> None:
    file = client.files.create(file=("in.jsonl", chat_lines(["a"])), purpose="batch")
    body: dict[str, Any] = {
        "input_file_id": file.id,
        "endpoint": "/v1/chat/completions",
        "completion_window": "24h",
    }
    with pytest.raises(openai.BadRequestError, match=words):
        client.batches.create(**body | changes)
    assert list(client.batches.list()) == []


def test_a_batch_input_must_be_called_jsonl(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match=r"Must be \.jsonl"):
        client.files.create(file=("in.txt", b"{}"), purpose="batch")
