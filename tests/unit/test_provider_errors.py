"""From answers and broken exchanges to the error tree: the table, and what is kept from callers."""

import json
from typing import Any

import httpx
import pytest

from gateway.providers.dialect import (
    Ambiguous,
    Broken,
    ProviderError,
    Rejected,
    Unauthorized,
    Unavailable,
)
from gateway.providers.errors import Act, error_fields, from_status, from_transport, unreadable
from gateway.providers.scrub import scrub

NOW = 1_795_305_600.0
KEY = "sk-house-0123456789"
EVERY_ACT = tuple(Act)
TRACELESS = (Act.CALL, Act.SAFE)


def refusal(
    act: Act, status: int, error: Any = None, headers: dict[str, str] | None = None
) -> ProviderError:
    body = {"error": {"message": "no", "type": "x", "param": None, "code": None} | (error or {})}
    response = httpx.Response(status, json=body, headers=headers)
    return from_status("openai", act, response, KEY, NOW)


@pytest.mark.parametrize("act", EVERY_ACT)
@pytest.mark.parametrize("status", [400, 404, 405, 410, 413, 415, 422])
def test_what_the_caller_did_wrong_is_rejected_whatever_it_was_for(act: Act, status: int) -> None:
    error = refusal(act, status, {"message": "max_tokens is too large", "param": "max_tokens"})
    assert type(error) is Rejected
    assert (error.status, error.message, error.param) == (
        status,
        "max_tokens is too large",
        "max_tokens",
    )


@pytest.mark.parametrize("act", EVERY_ACT)
@pytest.mark.parametrize("status", [401, 402, 403])
def test_a_key_that_is_not_accepted_is_unauthorized(act: Act, status: int) -> None:
    assert type(refusal(act, status)) is Unauthorized


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (429, {"code": "insufficient_quota"}),
        (429, {"type": "insufficient_quota"}),
        (400, {"code": "billing_hard_limit_reached"}),
        (429, {"details": {"error_code": "enforced_spend_limit_reached"}}),
        (400, {"message": "Your credit balance is too low to access the API."}),
    ],
)
@pytest.mark.parametrize("act", EVERY_ACT)
def test_an_empty_account_is_unauthorized_whatever_the_status(
    act: Act, status: int, error: dict[str, Any]
) -> None:
    assert type(refusal(act, status, error)) is Unauthorized


@pytest.mark.parametrize("act", EVERY_ACT)
@pytest.mark.parametrize("status", [302, 408, 409, 425, 429])
def test_what_was_refused_for_now_is_unavailable_and_says_when(act: Act, status: int) -> None:
    error = refusal(act, status, {"code": "rate_limit_exceeded"}, {"Retry-After": "7"})
    assert type(error) is Unavailable
    assert error.retry_after_seconds == 7.0
    assert error.code == "rate_limit_exceeded"


def test_a_ramp_limit_is_no_spend_limit() -> None:
    assert type(refusal(Act.CALL, 429, {"details": {"error_code": "ramp_limit_exceeded"}})) is (
        Unavailable
    )


@pytest.mark.parametrize("status", [500, 502, 503, 504, 529])
def test_a_server_error_is_ambiguous_where_it_may_have_left_something(status: int) -> None:
    for act in TRACELESS:
        error = refusal(act, status, headers={"retry-after-ms": "1500"})
        assert type(error) is Unavailable
        assert error.retry_after_seconds == 1.5
    assert type(refusal(Act.CREATE, status)) is Ambiguous
    assert type(refusal(Act.UPLOAD, status)) is Ambiguous


def test_a_file_that_is_not_visible_yet_is_unavailable_to_a_creation_only() -> None:
    message = "Cannot find file file-Ab12cd34, or project proj_x1y2 does not have access to it."
    error = refusal(Act.CREATE, 400, {"message": message})
    assert type(error) is Unavailable
    assert error.message == "Cannot find file [id], or project [id] does not have access to it."
    assert type(refusal(Act.CALL, 400, {"message": message})) is Rejected


NEVER_CONNECTED = [httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout]
BROKEN_LATER: list[tuple[type[Exception], str]] = [
    (httpx.ReadTimeout, "timeout"),
    (httpx.WriteTimeout, "timeout"),
    (httpx.ReadError, "connection"),
    (httpx.WriteError, "connection"),
    (httpx.RemoteProtocolError, "connection"),
    (httpx.LocalProtocolError, "connection"),
    (httpx.DecodingError, "connection"),
]


@pytest.mark.parametrize("act", EVERY_ACT)
@pytest.mark.parametrize("failure", NEVER_CONNECTED)
def test_a_connection_that_was_never_made_is_unavailable(
    act: Act, failure: type[Exception]
) -> None:
    error = from_transport("openai", act, failure("x"))
    assert type(error) is Unavailable
    assert error.code == "connection"


@pytest.mark.parametrize(("failure", "code"), BROKEN_LATER)
def test_an_exchange_that_broke_is_ambiguous_where_it_may_have_left_something(
    failure: type[Exception], code: str
) -> None:
    for act in EVERY_ACT:
        error = from_transport("openai", act, failure(f"header {KEY}"))
        assert type(error) is (Unavailable if act in TRACELESS else Ambiguous)
        assert error.code == code
        assert KEY not in error.message


def test_an_unreadable_success_is_ambiguous_where_it_left_something() -> None:
    kinds = [type(unreadable("openai", act)) for act in (*TRACELESS, Act.UPLOAD, Act.CREATE)]
    assert kinds == [Broken, Broken, Ambiguous, Ambiguous]


@pytest.mark.parametrize(
    "content",
    [b"", b"<html>Bad gateway</html>", b"[1]", b'{"error":null}', b'{"error":{"message":5}}'],
)
def test_a_body_that_says_nothing_becomes_a_plain_sentence(content: bytes) -> None:
    error = from_status("openai", Act.CALL, httpx.Response(400, content=content), KEY, NOW)
    assert error.message == "openai answered with status 400"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"object": "error", "message": "Invalid model", "code": "1500"}, "Invalid model"),
        (
            {"detail": [{"loc": ["body", "stop"], "msg": "Extra inputs are not permitted"}]},
            "stop: Extra inputs are not permitted",
        ),
        ({"message": {"detail": [{"loc": ["body", "n"], "msg": "too many"}]}}, "n: too many"),
        ({"message": [{"msg": "too many"}]}, "too many"),
        ({"detail": "Unauthorized"}, "Unauthorized"),
        ([{"error": {"code": 400, "message": "Bad argument"}}], "Bad argument"),
        ({"detail": [5]}, "mistral answered with status 422"),
        ([], "mistral answered with status 422"),
    ],
)
def test_a_message_is_found_in_whatever_frame_it_comes(body: Any, message: str) -> None:
    response = httpx.Response(422, json=body)
    error = from_status("mistral", Act.CALL, response, KEY, NOW)
    assert (type(error), error.message) == (Rejected, message)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        ({"type": "overloaded_error"}, 529),
        ({"type": "server_error", "code": None}, 500),
        ({"type": "tokens", "code": "rate_limit_exceeded"}, 429),
        ({"code": 503, "status": "UNAVAILABLE"}, 503),
        ({"type": "invalid_request_error", "status_code": 413}, 413),
        ({"code": 7}, None),
        ({"type": "something_new"}, None),
        ("down", None),
    ],
)
def test_an_error_object_tells_the_status_that_it_would_have_come_with(
    error: Any, status: int | None
) -> None:
    assert error_fields({"error": error}).status == status


def test_a_bare_message_is_understood() -> None:
    response = httpx.Response(422, json={"error": "model is loading"})
    assert from_status("groq", Act.CALL, response, KEY, NOW).message == "model is loading"


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        (
            "Incorrect API key provided: sk-house*******6789. You can find your API key at …",
            "Incorrect API key provided: [key] You can find your API key at …",
        ),
        ("Incorrect API key provided: abc***xyz.", "Incorrect API key provided: [key]."),
        (f"Bad key '{KEY}'", "Bad key '[key]'"),
        (
            "Rate limit reached for gpt-4o-mini in organization org-Ab12Cd34 on tokens per min",
            "Rate limit reached for gpt-4o-mini in organization [id] on tokens per min",
        ),
        ("Project proj_AbC123 has no access", "Project [id] has no access"),
        (
            "Include the request ID req_0123abcd in your message",
            "Include the request ID [id] in your message",
        ),
        ("request 123e4567-e89b-12d3-a456-426614174000 failed", "request [id] failed"),
        ("see msgbatch_01Ab and batch_6a66ff and wrkspc_01Xy", "see [id] and [id] and [id]"),
        ("batch_expired: a file-based batch of gpt-6-luna", None),
        ("The model `gpt-4o-2024-08-06` does not exist", None),
    ],
)
def test_keys_and_ids_are_taken_out_and_the_rest_is_left(message: str, shown: str | None) -> None:
    assert scrub(message, KEY) == (message if shown is None else shown)


def test_a_long_message_is_cut_quickly() -> None:
    assert len(scrub("a" * 1_000_000)) == 1_000


def test_no_key_or_id_survives_in_an_error_of_any_kind() -> None:
    message = f"key {KEY} of org-Ab12Cd34"
    for act in EVERY_ACT:
        for status in (400, 401, 429, 500):
            error = refusal(act, status, {"message": message})
            assert error.message == "key [key] of [id]"
            assert KEY not in json.dumps([str(error), error.code])
