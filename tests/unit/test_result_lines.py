"""Result lines of both providers and the usage in them, from hand-written wire text."""

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.catalogue.usage import Usage
from gateway.providers import anthropic_batches, openai_batches
from gateway.providers.dialect import Broken, LineOutcome, LineResult
from gateway.providers.usage import openai_usage

Json = dict[str, Any]
COMPLETION: Json = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "model": "gpt-6-luna-2026-08-01",
    "choices": [
        {"index": 0, "finish_reason": "stop", "message": {"content": "h\u00e9 \U0001f600"}}
    ],
    "usage": {"prompt_tokens": 12, "completion_tokens": 3, "total_tokens": 15},
    "service_tier": "default",
    "some_new_field": [1],
}
EMBEDDING: Json = {
    "object": "list",
    "model": "text-embedding-3-small",
    "data": [{"object": "embedding", "index": 0, "embedding": "AACAPg=="}],
    "usage": {"prompt_tokens": 5, "total_tokens": 5},
}


def openai_line(status: int | None, body: Any, error: Any = None, custom_id: Any = "r-1") -> bytes:
    response = None if status is None else {"status_code": status, "request_id": "x", "body": body}
    return orjson.dumps(
        {"id": "batch_req_1", "custom_id": custom_id, "response": response, "error": error}
    )


def anthropic_line(result: Json) -> bytes:
    return orjson.dumps({"custom_id": "r-1", "result": result})


def read_anthropic(line: bytes) -> LineResult:
    return anthropic_batches.read_line(line, created=1_790_000_000)


# OpenAI's lines.


def test_an_openai_success_keeps_the_body_as_it_came() -> None:
    line = openai_batches.read_line(openai_line(200, COMPLETION))
    assert line.outcome is LineOutcome.SUCCEEDED
    assert (line.custom_id, line.body, line.service_tier) == ("r-1", COMPLETION, "default")
    assert line.usage == Usage(input_uncached=12, output=3)


def test_an_embedding_is_a_success_without_output() -> None:
    line = openai_batches.read_line(openai_line(200, EMBEDDING))
    assert line.outcome is LineOutcome.SUCCEEDED
    assert line.usage == Usage(input_uncached=5)


def test_a_success_without_usage_has_none_rather_than_zero() -> None:
    body = {name: value for name, value in COMPLETION.items() if name != "usage"}
    line = openai_batches.read_line(openai_line(200, body))
    assert (line.outcome, line.usage) == (LineOutcome.SUCCEEDED, None)


REJECTION = {"error": {"message": "too large", "type": "invalid_request_error", "code": None}}


@pytest.mark.parametrize("status", [400, 403, 404, 413, 422])
def test_a_body_that_openai_refused_is_rejected_though_the_lines_error_is_null(
    status: int,
) -> None:
    line = openai_batches.read_line(openai_line(status, REJECTION))
    assert (line.outcome, line.status, line.error) == (LineOutcome.REJECTED, status, "too large")
    assert line.body is None


@pytest.mark.parametrize("status", [401, 408, 409, 429, 500, 503, 529])
def test_what_openai_could_not_do_just_then_is_retryable(status: int) -> None:
    assert openai_batches.read_line(openai_line(status, {})).outcome is LineOutcome.RETRYABLE


@pytest.mark.parametrize(
    ("code", "outcome"),
    [
        ("batch_expired", LineOutcome.EXPIRED),
        ("batch_cancelled", LineOutcome.CANCELLED),
        ("request_timeout", LineOutcome.RETRYABLE),
        ("something_new", LineOutcome.RETRYABLE),
    ],
)
def test_a_line_that_never_ran_tells_why(code: str, outcome: LineOutcome) -> None:
    error = {"code": code, "message": "org-Ab12Cd34 ran out of time"}
    line = openai_batches.read_line(openai_line(None, None, error))
    assert (line.outcome, line.status, line.error) == (outcome, None, "[id] ran out of time")


def test_an_error_in_the_body_of_a_200_is_no_success() -> None:
    assert openai_batches.read_line(openai_line(200, REJECTION)).outcome is LineOutcome.REJECTED
    failure = {"error": {"message": "oops", "type": "server_error"}}
    assert openai_batches.read_line(openai_line(200, failure)).outcome is LineOutcome.RETRYABLE


GOOD_LINE = openai_line(200, COMPLETION)
UNREADABLE = [
    b"",
    b"\n",
    b"null",
    b"[]",
    b"{}",
    GOOD_LINE[:-20],
    b"\xef\xbb\xbf" + GOOD_LINE,
    GOOD_LINE.replace(b"stop", b"st\0op"),
    GOOD_LINE.replace(b"stop", rb"\ud800"),
    GOOD_LINE.replace(b"stop", b"\xff\xfe"),
    GOOD_LINE.replace(b"r-1", rb"r\u0000"),
    b"[" * 100_000,
    openai_line(200, COMPLETION, custom_id=None),
    openai_line(200, COMPLETION, custom_id=""),
    openai_line(200, COMPLETION, custom_id=7),
    openai_line(None, None),
    openai_line(200, None),
    openai_line(200, {"choices": []}),
    openai_line(200, {"choices": [{"index": 0}]}),
    openai_line(200, {"data": [{"embedding": None}]}),
    anthropic_line({"type": "something_new"}),
    anthropic_line({"type": "succeeded"}),
]


@pytest.mark.parametrize("line", UNREADABLE)
def test_an_unreadable_line_is_broken(line: bytes) -> None:
    with pytest.raises(Broken):
        openai_batches.read_line(line)
    with pytest.raises(Broken):
        read_anthropic(line)


def test_a_nul_that_a_model_wrote_is_part_of_its_answer() -> None:
    line = openai_batches.read_line(GOOD_LINE.replace(b"stop", rb"\u0000"))
    assert line.body is not None
    assert line.body["choices"][0]["finish_reason"] == "\0"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 999) | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2)
    ),
    max_leaves=4,
)


@given(response=json_values, error=json_values, status=json_values, body=json_values)
def test_no_line_of_json_does_worse_than_broken(
    response: Any, error: Any, status: Any, body: Any
) -> None:
    for given_response in (response, {"status_code": status, "body": body}):
        line = {"custom_id": "r", "response": given_response, "error": error, "result": body}
        for read in (openai_batches.read_line, read_anthropic):
            try:
                custom_id = read(orjson.dumps(line)).custom_id
            except Broken:
                continue
            assert custom_id == "r"


# Anthropic's lines.


def test_an_anthropic_success_is_translated() -> None:
    message = {
        "id": "msg_1",
        "model": "claude-haiku-5-5",
        "content": [{"type": "text", "text": "hi"}],
        "stop_reason": "end_turn",
        "usage": {"input_tokens": 9, "output_tokens": 2, "service_tier": "batch"},
    }
    line = read_anthropic(anthropic_line({"type": "succeeded", "message": message}))
    assert line.outcome is LineOutcome.SUCCEEDED
    assert line.body is not None
    assert line.body["choices"][0]["message"]["content"] == "hi"
    assert line.body["created"] == 1_790_000_000
    assert (line.usage, line.service_tier) == (Usage(input_uncached=9, output=2), "batch")


@pytest.mark.parametrize(
    ("kind", "outcome", "status"),
    [
        ("invalid_request_error", LineOutcome.REJECTED, 400),
        ("not_found_error", LineOutcome.REJECTED, 404),
        ("request_too_large", LineOutcome.REJECTED, 413),
        ("permission_error", LineOutcome.REJECTED, 403),
        ("rate_limit_error", LineOutcome.RETRYABLE, 429),
        ("overloaded_error", LineOutcome.RETRYABLE, 529),
        ("api_error", LineOutcome.RETRYABLE, 500),
        ("authentication_error", LineOutcome.RETRYABLE, 401),
        ("something_new", LineOutcome.RETRYABLE, None),
    ],
)
def test_an_errored_line_is_judged_by_its_type(
    kind: str, outcome: LineOutcome, status: int | None
) -> None:
    error = {"type": "error", "request_id": "req_1", "error": {"type": kind, "message": "why"}}
    line = read_anthropic(anthropic_line({"type": "errored", "error": error}))
    assert (line.outcome, line.status, line.error) == (outcome, status, "why")


def test_our_empty_account_is_not_the_bodys_fault() -> None:
    error = {"type": "invalid_request_error", "message": "Your credit balance is too low."}
    line = anthropic_line({"type": "errored", "error": {"type": "error", "error": error}})
    assert read_anthropic(line).outcome is LineOutcome.RETRYABLE


@pytest.mark.parametrize(
    ("kind", "outcome"), [("canceled", LineOutcome.CANCELLED), ("expired", LineOutcome.EXPIRED)]
)
def test_a_line_that_anthropic_did_not_run_tells_why(kind: str, outcome: LineOutcome) -> None:
    line = read_anthropic(anthropic_line({"type": kind}))
    assert line.outcome is outcome
    assert line.error


# OpenAI's usage.


def chat_usage(**fields: Any) -> Usage | None:
    usage = {"prompt_tokens": 120, "completion_tokens": 30, **fields}
    return openai_usage({"choices": [], "usage": usage})


def test_parts_of_the_prompt_are_subtracted_from_it() -> None:
    details = {
        "cached_tokens": 64,
        "cache_write_tokens": 36,
        "cache_write_tokens_details": {"ttl_30m_tokens": 6, "ttl_12h_tokens": 10},
    }
    usage = chat_usage(
        prompt_tokens_details=details, completion_tokens_details={"reasoning_tokens": 10}
    )
    # What the details leave out of the 36 was written for the short time.
    assert usage == Usage(20, 64, 26, 10, 30, 10)
    assert usage.input_total == 120


def test_absent_details_are_zero() -> None:
    assert chat_usage(prompt_tokens_details=None) == Usage(input_uncached=120, output=30)


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt_tokens": None},
        {"prompt_tokens": -120},
        {"prompt_tokens": 1.5},
        {"prompt_tokens": True},
        {"completion_tokens": None},
        {"completion_tokens": -1},
        {"prompt_tokens_details": {"cached_tokens": 121}},
        {"prompt_tokens_details": {"cached_tokens": -1}},
        {"prompt_tokens_details": {"cached_tokens": 100, "cache_write_tokens": 21}},
        {
            "prompt_tokens_details": {
                "cache_write_tokens": 1,
                "cache_write_tokens_details": {"ttl_12h_tokens": 2},
            }
        },
        {"completion_tokens_details": {"reasoning_tokens": 31}},
    ],
)
def test_a_usage_that_cannot_be_true_is_none(fields: Json) -> None:
    assert chat_usage(**fields) is None


def test_a_usage_that_is_no_object_is_none() -> None:
    assert openai_usage({"usage": [1]}) is None
    assert openai_usage({}) is None
