import json
import re
import time
from datetime import UTC, datetime
from uuid import UUID

import pytest
from openai import InvalidWebhookSignatureError, OpenAI
from standardwebhooks import Webhook

from gateway.webhooks.bodies import body_of, job_data
from gateway.webhooks.events import JOB_EVENT_TYPES, InvalidWebhook, validate_webhook
from gateway.webhooks.signing import hint, new_secret, sign, signed_headers

VECTOR_SECRET = "whsec_YmF0Y2hlci10ZXN0LXNlY3JldC0wMTIzNDU2Nzg5YWI="
VECTOR_BODY = (
    b'{"id":"evt_000001","object":"event","created_at":1795305600,'
    b'"type":"batch.completed","data":{"id":"batch_000001"}}'
)
VECTOR_SIGNATURE = "v1,f3yxy1yFNgTQYSXM9z0PlxrWBOA+ea7qCbRNHB4maeE="

EVENT_ID = UUID("01900000-0000-7000-8000-000000000001")
JOB_ID = UUID("01900000-0000-7000-8000-000000000002")


def event_body(
    event_type: str = "job.completed", *, include_result: bool = False, result: bytes | None = None
) -> bytes:
    data = job_data(
        event_type,
        JOB_ID,
        custom_id="row-1",
        metadata={"team": "ä"},
        include_result=include_result,
        result=result,
    )
    return body_of(EVENT_ID, event_type, datetime(2026, 11, 22, 0, 0, 0, 900_000, tzinfo=UTC), data)


def headers_now(body: bytes, *secrets: str) -> dict[str, str]:
    """In lower case, as servers hand them on."""
    headers = signed_headers(secrets, "evt_1", int(time.time()), body)
    return {name.lower(): value for name, value in headers.items()}


def test_the_signature_is_that_of_the_test_vector() -> None:
    assert sign(VECTOR_SECRET, "wh_000001", 1795305600, VECTOR_BODY) == VECTOR_SIGNATURE


def test_standardwebhooks_verifies_what_we_sign_and_refuses_a_changed_body() -> None:
    secret, body = new_secret(), event_body()
    verifier = Webhook(secret)
    assert verifier.verify(body.decode(), headers_now(body, secret)) == json.loads(body)
    with pytest.raises(Exception, match="No matching signature"):
        verifier.verify(body.decode() + " ", headers_now(body, secret))


def test_the_openai_sdk_unwraps_what_we_sign_and_refuses_another_secret() -> None:
    secret, body = new_secret(), event_body()
    with OpenAI(api_key="sk-op-test", webhook_secret=secret) as client:
        event = client.webhooks.unwrap(body, headers_now(body, secret))
        assert event.id == f"evt_{EVENT_ID.hex}"
        with pytest.raises(InvalidWebhookSignatureError):
            client.webhooks.unwrap(body, headers_now(body, new_secret()))


def test_each_of_two_secrets_verifies_what_is_signed_with_both() -> None:
    old, new, body = new_secret(), new_secret(), event_body()
    headers = headers_now(body, new, old)
    assert len(headers["webhook-signature"].split(" ")) == 2
    for secret in (old, new):
        assert Webhook(secret).verify(body.decode(), headers) == json.loads(body)
        with OpenAI(api_key="sk-op-test", webhook_secret=secret) as client:
            assert client.webhooks.unwrap(body, headers).id == f"evt_{EVENT_ID.hex}"


def test_a_hint_shows_four_letters_of_a_secret() -> None:
    assert hint("whsec_" + "A" * 39 + "wxyz=") == "whsec_…wxyz"


def test_secrets_are_32_random_bytes_and_never_the_same() -> None:
    secrets = {new_secret() for _ in range(100)}
    assert len(secrets) == 100
    assert all(re.fullmatch(r"whsec_[A-Za-z0-9+/]{43}=", secret) for secret in secrets)


@pytest.mark.parametrize("secret", ["", "YmF0Y2g=", "whsec_not base64", "whsec_YmF0Y2g"])
def test_what_is_no_secret_of_ours_is_refused_without_being_quoted(secret: str) -> None:
    with pytest.raises(ValueError, match="a signing secret") as refused:
        sign(secret, "evt_1", 0, b"")
    assert not secret or secret not in str(refused.value)
    assert refused.value.__cause__ is None


def test_the_body_is_thin_and_names_the_job_and_its_completion() -> None:
    assert json.loads(event_body("job.escalated", include_result=True)) == {
        "id": f"evt_{EVENT_ID.hex}",
        "object": "event",
        "type": "job.escalated",
        "created_at": 1795305600,
        "data": {
            "id": f"job_{JOB_ID.hex}",
            "completion_id": f"chatcmpl-{JOB_ID.hex}",
            "status": "in_progress",
            "custom_id": "row-1",
            "metadata": {"team": "ä"},
        },
    }


def test_a_result_goes_out_byte_for_byte_and_a_missing_one_is_named_as_omitted() -> None:
    stored = b'{"id": "chatcmpl-1", "note": "\\u0000 \\ud800", "cost": 1.10}'
    assert b'"result":' + stored in event_body(include_result=True, result=stored)
    omitted = json.loads(event_body(include_result=True))["data"]
    assert omitted["result_omitted"] is True
    assert "result" not in omitted


def test_a_failed_job_sends_its_error_in_place_of_a_result() -> None:
    body = event_body("job.failed", include_result=True, result=b'{"type":"upstream_error"}')
    data = json.loads(body)["data"]
    assert data["status"] == "failed"
    assert data["error"] == {"type": "upstream_error"}
    assert "result" not in data
    assert "result_omitted" not in data


def test_a_valid_webhook_is_stored_as_given_with_its_event_types_once_each() -> None:
    given = {
        "url": "https://example.com/hook",
        "events": ["job.failed", *JOB_EVENT_TYPES],
        "include_result": True,
    }
    stored = validate_webhook(given, allow_private=False)
    assert stored == {
        **given,
        "events": ["job.failed", *(t for t in JOB_EVENT_TYPES if "fail" not in t)],
    }
    bare = {"url": "http://127.0.0.1:9000/"}
    assert validate_webhook(bare, allow_private=True) == bare


def test_the_id_of_an_endpoint_is_a_webhook_too() -> None:
    given = f"whe_{JOB_ID.hex}"
    assert validate_webhook(given, allow_private=False) == {"endpoint": JOB_ID.hex}


@pytest.mark.parametrize(
    ("value", "param"),
    [
        (None, "webhook"),
        ("https://example.com/", "webhook"),
        ("whe_1", "webhook"),
        (f"job_{JOB_ID.hex}", "webhook"),
        ({"endpoint": JOB_ID.hex}, "webhook.endpoint"),
        ([], "webhook"),
        ({}, "webhook.url"),
        ({"url": None}, "webhook.url"),
        ({"url": 7}, "webhook.url"),
        ({"url": ""}, "webhook.url"),
        ({"url": "http://example.com/"}, "webhook.url"),
        ({"url": "https://169.254.169.254/"}, "webhook.url"),
        ({"url": "https://example.com/", "secret": "x"}, "webhook.secret"),
        ({"url": "https://example.com/", "events": None}, "webhook.events"),
        ({"url": "https://example.com/", "events": []}, "webhook.events"),
        ({"url": "https://example.com/", "events": "job.failed"}, "webhook.events"),
        ({"url": "https://example.com/", "events": ["job.done"]}, "webhook.events"),
        (
            {"url": "https://example.com/", "events": ["webhook_endpoint.disabled"]},
            "webhook.events",
        ),
        ({"url": "https://example.com/", "events": [{}]}, "webhook.events"),
        ({"url": "https://example.com/", "include_result": 1}, "webhook.include_result"),
    ],
)
def test_a_webhook_that_is_not_valid_names_the_field_at_fault(value: object, param: str) -> None:
    with pytest.raises(InvalidWebhook) as refused:
        validate_webhook(value, allow_private=False)
    assert refused.value.param == param
