"""The webhook routes, asked by OpenAI's SDK where it has them."""

import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import httpx2
import openai
import pytest
from openai import OpenAI
from standardwebhooks import Webhook

from gateway.net.guard import Dialler
from gateway.webhooks import endpoints
from gateway.webhooks.delivery import Courier
from gateway.webhooks.events import EventType
from gateway.webhooks.transport import GuardedTransport
from tests.integration.test_webhook_addresses import REFUSED_URLS
from tests.integration.web_world import ASYNC_BODY, CHAT, Customer, Web, error_of, make_web
from tests.integration.webhook_sink import Sink, answer
from web.state import EXTENSION

ENDPOINTS = "/v1/webhook_endpoints"
COMPLETED: Any = ["job.completed"]
NOBODY = "whe_" + "0" * 32


@pytest.fixture
def sink() -> Iterator[Sink]:
    made = Sink()
    yield made
    made.close()


@pytest.fixture
def client(web: Web, customer: Customer) -> Iterator[OpenAI]:
    transport = httpx2.WSGITransport(app=web.app)
    with OpenAI(
        base_url="http://gateway.example/v1",
        api_key=customer.api_key,
        max_retries=0,
        http_client=httpx2.Client(transport=transport),
    ) as made:
        yield made


def drain(web: Web) -> int:
    """What a worker's courier would deliver now; the attempts."""
    house = web.state.house
    courier = Courier(
        web.engine,
        house.webhook_vault.open,
        allow_private=True,
        transport=web.state.webhook_transport,
        threads=2,
    )
    try:
        return courier.drain()
    finally:
        courier.close()


def test_the_sdk_creates_reads_changes_lists_and_deletes_endpoints(client: OpenAI) -> None:
    made = client.webhooks.create(
        name="jobs", url="https://example.com/hook", event_types=COMPLETED
    )
    assert made.object == "webhook_endpoint"
    assert made.id.startswith("whe_")
    assert made.signing_secret.startswith("whsec_")
    assert made.signing_secret_hint == "whsec_…" + made.signing_secret.rstrip("=")[-4:]
    assert abs(made.created_at - time.time()) < 60
    assert made.updated_at == made.created_at

    read = client.webhooks.retrieve(made.id)
    assert (read.name, read.url, read.event_types) == ("jobs", made.url, COMPLETED)
    assert "signing_secret" not in (read.model_extra or {})

    wanted: Any = ["job.failed", "job.expired", "job.failed"]
    changed = client.webhooks.update(made.id, name="failures", event_types=wanted)
    assert (changed.name, changed.url) == ("failures", made.url)
    assert changed.event_types == ["job.failed", "job.expired"]

    others = [
        client.webhooks.create(name=f"{n}", url="https://example.com/", event_types=COMPLETED)
        for n in range(4)
    ]
    newest_first = [each.id for each in reversed([made, *others])]
    assert [each.id for each in client.webhooks.list(limit=2)] == newest_first
    page = client.webhooks.list(limit=3, after=newest_first[0])
    assert [each.id for each in page.data] == newest_first[1:4]
    assert page.has_more

    deleted = client.webhooks.delete(made.id)
    assert (deleted.id, deleted.deleted) == (made.id, True)
    assert deleted.object == "webhook_endpoint.deleted"
    with pytest.raises(openai.NotFoundError):
        client.webhooks.retrieve(made.id)


def test_the_event_types_are_those_that_exist(client: OpenAI) -> None:
    assert client.webhooks.event_types.list().data == [kind.value for kind in EventType]
    with pytest.raises(openai.BadRequestError) as refused:
        client.webhooks.create(
            name="n", url="https://example.com/", event_types=["safety.alert.created"]
        )
    assert refused.value.body is not None
    assert "event_types[0]" in str(refused.value.body)


def test_an_event_reaches_an_endpoint_signed_with_its_secret_and_after_a_rotation_with_both(
    web: Web, customer: Customer, client: OpenAI, sink: Sink
) -> None:
    made = client.webhooks.create(
        name="n",
        url=sink.url("/hook"),
        event_types=COMPLETED,
        extra_body={"include_result": True},
    )
    sink.scripts["/hook"] = [answer(500), answer(200)]
    web.end(web.submit(customer))
    assert drain(web) == 1
    rotated = client.webhooks.rotate_secret(made.id, keep_old_secret_active_for_24_hours=True)
    assert rotated.signing_secret != made.signing_secret
    listed = web.client(customer).get(f"{ENDPOINTS}/{made.id}/deliveries").get_json()["data"]
    resent = web.client(customer).post(f"/v1/webhook_deliveries/{listed[0]['id']}/resend")
    assert resent.status_code == 200
    assert drain(web) == 1
    first, second = sink.at("/hook")
    assert Webhook(made.signing_secret).verify(first.body.decode(), first.headers)
    for secret in (made.signing_secret, rotated.signing_secret):
        told = Webhook(secret).verify(second.body.decode(), second.headers)
        event = client.webhooks.unwrap(second.body, second.headers, secret=secret)
        assert event.id == told["id"] == first.headers["webhook-id"]
        assert told["data"]["result"]["object"] == "chat.completion"
    assert client.webhooks.rotate_secret(made.id).signing_secret != rotated.signing_secret
    assert web.client(customer).post(f"{ENDPOINTS}/{made.id}/rotate_secret").status_code == 200


def test_deliveries_show_their_attempts_and_can_be_sent_again(
    web: Web, customer: Customer, client: OpenAI, sink: Sink
) -> None:
    made = client.webhooks.create(name="n", url=sink.url("/hook"), event_types=COMPLETED)
    sink.scripts["/hook"] = [answer(500, b"oops\n"), answer(200, b"thanks")]
    for _ in range(2):
        web.end(web.submit(customer))
    assert drain(web) == 2
    http = web.client(customer)
    path = f"{ENDPOINTS}/{made.id}/deliveries"
    newest, oldest = http.get(path).get_json()["data"]
    by_status = {each["status"]: each for each in (newest, oldest)}
    failed, delivered = by_status["pending"], by_status["delivered"]
    assert failed["id"].startswith("dlv_")
    assert failed["event_id"].startswith("evt_")
    assert (failed["object"], failed["event_type"]) == ("webhook_delivery", "job.completed")
    assert (failed["webhook_endpoint_id"], failed["url"]) == (made.id, sink.url("/hook"))
    assert failed["next_attempt_at"] > failed["created_at"]
    assert (delivered["next_attempt_at"], failed["finished_at"]) == (None, None)
    (attempt,) = failed["attempts"]
    assert (attempt["number"], attempt["status_code"]) == (1, 500)
    assert (attempt["error"], attempt["response_excerpt"]) == (None, "oops ")
    assert http.get(f"{path}?status=delivered").get_json()["data"] == [delivered]
    page = http.get(f"{path}?limit=1").get_json()
    assert (page["data"], page["has_more"], page["last_id"]) == ([newest], True, newest["id"])
    assert http.get(f"{path}?limit=1&after={newest['id']}").get_json()["data"] == [oldest]

    resent = http.post(f"/v1/webhook_deliveries/{delivered['id']}/resend").get_json()
    assert (resent["id"], resent["status"]) == (delivered["id"], "pending")
    assert drain(web) == 1
    (again,) = http.get(f"{path}?status=delivered").get_json()["data"]
    assert [each["number"] for each in again["attempts"]] == [1, 2]


def test_an_endpoint_is_turned_off_and_on_and_recovers_what_it_missed(
    web: Web, customer: Customer, client: OpenAI, sink: Sink
) -> None:
    made = client.webhooks.create(name="n", url=sink.url("/hook"), event_types=COMPLETED)
    http = web.client(customer)
    since = datetime.now(UTC).isoformat()
    off = http.post(f"{ENDPOINTS}/{made.id}", json={"enabled": False}).get_json()
    assert (off["enabled"], off["disabled_reason"]) == (False, "request")
    assert off["disabled_at"] is not None
    web.end(web.submit(customer))
    assert drain(web) == 0
    (missed,) = http.get(f"{ENDPOINTS}/{made.id}/deliveries").get_json()["data"]
    assert (missed["status"], missed["attempts"]) == ("failed", [])
    recover = f"{ENDPOINTS}/{made.id}/recover"
    for path in (f"/v1/webhook_deliveries/{missed['id']}/resend", recover):
        error_of(http.post(path, json={"since": since}))
        assert http.post(path, json={"since": since}).status_code == 409
    on = http.post(f"{ENDPOINTS}/{made.id}", json={"enabled": True}).get_json()
    assert (on["enabled"], on["disabled_at"], on["disabled_reason"]) == (True, None, None)
    assert http.post(recover, json={"since": since}).get_json() == {
        "object": "webhook_endpoint.recovery",
        "webhook_endpoint_id": made.id,
        "recovered": 1,
        "has_more": False,
    }
    assert drain(web) == 1
    assert len(sink.at("/hook")) == 1


@pytest.mark.parametrize("status", [200, 404])
def test_a_test_sends_a_signed_sample_and_tells_the_status(
    client: OpenAI, sink: Sink, status: int
) -> None:
    sink.scripts["/hook"] = [answer(status)]
    made = client.webhooks.create(name="n", url=sink.url("/hook"), event_types=COMPLETED)
    for kind in EventType:
        sample: Any = kind.value
        tested = client.webhooks.test(made.id, event_type=sample)
        assert (tested.status_code, tested.success) == (status, True)
        assert (tested.event_type, tested.webhook_endpoint_id) == (kind, made.id)
        received = sink.at("/hook")[-1]
        told = Webhook(made.signing_secret).verify(received.body.decode(), received.headers)
        assert told["type"] == kind
    assert client.webhooks.retrieve(made.id).updated_at == made.updated_at


def test_a_test_that_reaches_nobody_is_an_error_that_no_sdk_repeats(client: OpenAI) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
    made = client.webhooks.create(name="n", url=url, event_types=COMPLETED)
    sample: Any = "job.completed"
    with pytest.raises(openai.InternalServerError) as failed:
        client.webhooks.test(made.id, event_type=sample)
    assert failed.value.status_code == 502
    assert failed.value.response.headers["x-should-retry"] == "false"


def test_a_job_may_name_an_endpoint_of_its_account_and_no_other(
    web: Web, customer: Customer, client: OpenAI, sink: Sink
) -> None:
    failures: Any = ["job.failed"]
    mine = client.webhooks.create(name="n", url=sink.url("/mine"), event_types=failures)
    theirs = web.client(web.customer()).post(
        ENDPOINTS, json={"name": "n", "url": sink.url("/theirs"), "event_types": COMPLETED}
    )
    http = web.client(customer)
    for name in (theirs.get_json()["id"], NOBODY):
        headers = {"Idempotency-Key": "once"}
        refused = http.post(CHAT, json={**ASYNC_BODY, "webhook": name}, headers=headers)
        assert refused.status_code == 400
        assert error_of(refused)["param"] == "webhook"
    assert web.count("jobs") == web.count("holds") == web.count("idempotency_keys") == 0
    web.end(web.submit(customer, webhook=mine.id))
    assert drain(web) == 1
    assert (len(sink.at("/mine")), len(sink.at("/theirs"))) == (1, 0)
    web.assert_books_are_clean()


def test_a_call_that_is_repeated_is_answered_as_before_though_its_endpoint_is_gone(
    web: Web, customer: Customer, client: OpenAI
) -> None:
    made = client.webhooks.create(name="n", url="https://example.com/", event_types=COMPLETED)
    asked = {**ASYNC_BODY, "webhook": made.id}
    http, headers = web.client(customer), {"Idempotency-Key": "once"}
    first = http.post(CHAT, json=asked, headers=headers)
    client.webhooks.delete(made.id)
    again = http.post(CHAT, json=asked, headers=headers)
    assert (first.status_code, again.status_code) == (202, 202)
    assert again.headers["Idempotent-Replayed"] == "true"
    assert first.data == again.data


def test_an_account_has_fifty_endpoints_at_most(web: Web, customer: Customer) -> None:
    http = web.client(customer)
    body = {"name": "n", "url": "https://example.com/", "event_types": COMPLETED}
    for _ in range(endpoints.ENDPOINTS_MAX):
        assert http.post(ENDPOINTS, json=body).status_code == 200
    assert error_of(http.post(ENDPOINTS, json=body))["type"] == "bad_request"
    assert web.client(web.customer()).post(ENDPOINTS, json=body).status_code == 200


VALID = {"name": "n", "url": "https://example.com/", "event_types": COMPLETED}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"name": None}, "name"),
        ({"name": ""}, "name"),
        ({"name": "a\x00b"}, "name"),
        ({"url": 7}, "url"),
        ({"url": "example.com"}, "url"),
        ({"url": "https://example.com/" + "x" * 3000}, "url"),
        ({"event_types": []}, "event_types"),
        ({"event_types": "job.completed"}, "event_types"),
        ({"event_types": ["job.completed", "job.done"]}, "event_types[1]"),
        ({"event_types": [{}]}, "event_types[0]"),
        ({"include_result": 1}, "include_result"),
        ({"secret": "whsec_mine"}, "secret"),
    ],
)
def test_a_wrong_field_is_named_by_creation_and_by_change(
    web: Web, customer: Customer, fields: dict[str, Any], param: str
) -> None:
    http = web.client(customer)
    refused = http.post(ENDPOINTS, json={**VALID, **fields})
    assert (refused.status_code, error_of(refused)["param"]) == (400, param)
    made = http.post(ENDPOINTS, json=VALID).get_json()
    changed = http.post(f"{ENDPOINTS}/{made['id']}", json=fields)
    assert (changed.status_code, error_of(changed)["param"]) == (400, param)
    assert made["url"] == http.get(f"{ENDPOINTS}/{made['id']}").get_json()["url"]


def test_wrong_parameters_are_named(web: Web, customer: Customer) -> None:
    http = web.client(customer)
    made = http.post(ENDPOINTS, json=VALID).get_json()["id"]
    deliveries = f"{ENDPOINTS}/{made}/deliveries"
    for path, param in (
        (f"{ENDPOINTS}?limit=101", "limit"),
        (f"{ENDPOINTS}?after=x", "after"),
        (f"{deliveries}?status=lost", "status"),
        (f"{deliveries}?after={made}", "after"),
    ):
        refused = http.get(path)
        assert (refused.status_code, error_of(refused)["param"]) == (400, param)
    for path in (f"{ENDPOINTS}?after={NOBODY}", f"{deliveries}?after=dlv_{'0' * 32}"):
        assert http.get(path).status_code == 404
    for since in ("yesterday", "2026-01-01T00:00:00", None, "2999-01-01T00:00:00Z"):
        refused = http.post(f"{ENDPOINTS}/{made}/recover", json={"since": since})
        assert (refused.status_code, error_of(refused)["param"]) == (400, "since")
    for long_ago in (0, "0001-01-01T00:00:00Z", "2026-01-01T00:00:00+02:00"):
        recovered = http.post(f"{ENDPOINTS}/{made}/recover", json={"since": long_ago})
        assert recovered.status_code == 200


def test_neither_an_endpoint_nor_a_call_may_name_any_address_of_the_corpus(
    database_url: str, redis_url: str
) -> None:
    with make_web(database_url, redis_url, None, webhook_allow_private=False) as strict:
        http = strict.client(strict.customer())
        made = http.post(ENDPOINTS, json=VALID).get_json()["id"]
        for url in REFUSED_URLS:
            if not url.isascii() and "\udc80" in url:
                continue  # no JSON can say it
            refused = (
                http.post(ENDPOINTS, json={**VALID, "url": url}),
                http.post(f"{ENDPOINTS}/{made}", json={"url": url}),
                http.post(CHAT, json={**ASYNC_BODY, "webhook": {"url": url}}),
            )
            assert [each.status_code for each in refused] == [400] * 3, url
            assert [error_of(each)["param"] for each in refused] == ["url", "url", "webhook.url"]
        assert strict.count("webhook_endpoints") == 1


def test_a_test_dials_nothing_where_the_name_leads_inside(
    database_url: str, redis_url: str
) -> None:
    dialled: list[str] = []

    def connector(address: str, _port: int, _timeout_seconds: float) -> socket.socket:
        dialled.append(address)
        raise ConnectionRefusedError("nobody listens")

    def resolver(_host: str, _port: int) -> Sequence[str]:
        return ["93.184.215.14", "169.254.169.254"]

    with make_web(database_url, redis_url, None, webhook_allow_private=False) as strict:
        guarded = GuardedTransport(Dialler(False, resolver, connector))
        strict.app.extensions[EXTENSION] = replace(strict.state, webhook_transport=guarded)
        http = strict.client(strict.customer())
        made = http.post(ENDPOINTS, json=VALID).get_json()["id"]
        refused = http.post(f"{ENDPOINTS}/{made}/test", json={"event_type": "job.completed"})
        assert refused.status_code == 502
        assert "not public" in error_of(refused)["message"]
    assert dialled == []
