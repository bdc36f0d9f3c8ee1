import json
import logging
import random
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest
from openai import OpenAI
from sqlalchemy import select
from standardwebhooks import Webhook

from gateway.net.guard import Dialler
from gateway.webhooks.events import JobEvent, record
from gateway.webhooks.schedule import ATTEMPTS_MAX, DELAYS_SECONDS, wait_seconds
from gateway.webhooks.transport import GuardedTransport
from models import ids
from models.session import transaction
from models.states import DeliveryStatus
from models.webhooks import Event
from tests.integration.webhook_sink import answer
from tests.integration.webhook_world import RESULT, World, make_world


@pytest.fixture
def world(database_url: str) -> Iterator[World]:
    with make_world(database_url) as made:
        yield made


def test_an_event_arrives_once_signed_so_that_both_clients_verify_it(world: World) -> None:
    world.sink.scripts["/hook"] = [answer(200, b"thanks\n")]
    (job_id,) = world.happen(world.sink.url("/hook?token=t"), include_result=True)
    assert world.courier.drain() == 1
    assert world.courier.drain() == 0

    (received,) = world.sink.at("/hook")
    assert received.target == "/hook?token=t"
    assert received.headers["content-type"] == "application/json"
    told = Webhook(world.secret).verify(received.body.decode(), received.headers)
    with OpenAI(api_key="sk-op-test", webhook_secret=world.secret) as client:
        assert client.webhooks.unwrap(received.body, received.headers).id == told["id"]
    assert told["id"] == received.headers["webhook-id"]
    assert told["data"] == {
        "id": f"job_{job_id.hex}",
        "completion_id": f"chatcmpl-{job_id.hex}",
        "status": "completed",
        "custom_id": "row-1",
        "metadata": {"team": "blue"},
        "result": json.loads(RESULT),
    }
    (delivery,) = world.deliveries()
    assert (delivery.status, delivery.attempts) == (DeliveryStatus.DELIVERED, 1)
    assert delivery.finished_at is not None
    (attempt,) = world.attempts()
    assert (attempt.http_status, attempt.error, attempt.excerpt) == (200, None, "thanks ")


def test_a_failed_attempt_is_repeated_by_the_schedule_with_the_same_id_and_body(
    world: World,
) -> None:
    world.sink.scripts["/hook"] = [answer(500, b"oops"), answer(200)]
    world.happen(world.sink.url("/hook"))
    assert world.courier.drain() == 1
    (delivery,) = world.deliveries()
    assert (delivery.status, delivery.leased_until) == (DeliveryStatus.PENDING, None)
    assert 3.5 < delivery.due_in_seconds <= 5.5
    world.let_time_pass()
    assert world.courier.drain() == 1
    first, second = world.sink.at("/hook")
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    assert first.body == second.body
    assert [each.http_status for each in world.attempts()] == [500, 200]
    assert world.deliveries()[0].status == DeliveryStatus.DELIVERED


def test_after_the_last_of_ten_attempts_the_delivery_has_failed(world: World) -> None:
    world.sink.scripts["/hook"] = [answer(503)]
    world.happen(world.sink.url("/hook"))
    for number, planned in enumerate((*DELAYS_SECONDS[1:], None), start=1):
        assert world.courier.drain() == 1
        (delivery,) = world.deliveries()
        assert delivery.attempts == number
        if planned is not None:
            assert 0.9 * planned - 2 < delivery.due_in_seconds < 1.1 * planned
        world.let_time_pass()
    assert delivery.status == DeliveryStatus.FAILED
    assert world.courier.drain() == 0
    assert len(world.sink.at("/hook")) == ATTEMPTS_MAX == 10


@pytest.mark.parametrize(
    ("script", "due_in_seconds"),
    [
        (answer(429, retry_after="3600"), 3600),
        (answer(503, retry_after="1"), 5),
        (answer(503, retry_after="99999999"), 86400),
        (answer(302, location="/elsewhere"), 5),
        (answer(404), 5),
        (answer(101), 5),
    ],
)
def test_what_is_no_success_is_tried_again_and_retry_after_can_only_lengthen_the_wait(
    world: World, script: Any, due_in_seconds: int
) -> None:
    world.sink.scripts["/hook"] = [script]
    world.happen(world.sink.url("/hook"))
    assert world.courier.drain() == 1
    (delivery,) = world.deliveries()
    assert delivery.status == DeliveryStatus.PENDING
    assert 0.9 * due_in_seconds - 2 < delivery.due_in_seconds < 1.1 * due_in_seconds
    assert world.sink.at("/elsewhere") == []


def test_410_ends_the_delivery_at_once(world: World) -> None:
    world.sink.scripts["/hook"] = [answer(410)]
    world.happen(world.sink.url("/hook"))
    assert world.courier.drain() == 1
    (delivery,) = world.deliveries()
    assert delivery.status == DeliveryStatus.FAILED
    assert delivery.finished_at is not None


def test_a_huge_answer_is_a_success_of_which_512_bytes_are_kept(world: World) -> None:
    world.sink.scripts["/hook"] = [answer(200, b"\x00\xff" + b"x" * 50_000_000)]
    world.happen(world.sink.url("/hook"))
    assert world.courier.drain() == 1
    assert world.deliveries()[0].status == DeliveryStatus.DELIVERED
    assert world.attempts()[0].excerpt == " �" + "x" * 510


def test_a_server_that_drips_or_hangs_is_a_failure_at_the_deadline(world: World) -> None:
    def drip(handler: BaseHTTPRequestHandler) -> None:
        for byte in b"HTTP/1.1 200 OK\r\nX-Very-Slow: yes" * 3:
            handler.wfile.write(bytes([byte]))
            time.sleep(0.02)

    world.sink.scripts |= {"/drip": [drip], "/hang": [world.sink.hang]}
    world.happen(world.sink.url("/drip"), world.sink.url("/hang"))
    started = time.monotonic()
    assert world.make_courier(timeout_seconds=0.3).drain() == 2
    assert time.monotonic() - started < 3.0
    assert {each.error for each in world.attempts()} == {"timed out"}
    assert {each.status for each in world.deliveries()} == {DeliveryStatus.PENDING}


def test_a_refused_name_is_tried_again_and_a_refused_url_is_not_and_neither_is_dialled(
    world: World,
) -> None:
    def never(*_arguments: object) -> Any:
        raise AssertionError("a refused address was dialled")

    dialler = Dialler(False, lambda _host, _port: ["10.0.0.7"], never)
    courier = world.make_courier(allow_private=False, transport=GuardedTransport(dialler))
    world.happen("https://inside.example/", "http://plain.example/", "https://127.1/")
    assert courier.drain() == 3
    statuses = {each.url: each.status for each in world.deliveries()}
    assert statuses == {
        "https://inside.example/": DeliveryStatus.PENDING,
        "http://plain.example/": DeliveryStatus.FAILED,
        "https://127.1/": DeliveryStatus.FAILED,
    }
    assert all(each.error.startswith("refused: ") for each in world.attempts())


def test_the_log_names_the_delivery_and_neither_query_nor_body_nor_secret(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    world.happen(world.sink.url("/hook?token=hidden"), include_result=True)
    assert world.courier.drain() == 1
    (line,) = [each for each in caplog.records if each.getMessage() == "webhook attempt"]
    (delivery,) = world.deliveries()
    assert vars(line)["delivery_id"] == f"dlv_{delivery.id.hex}"
    assert vars(line)["http_status"] == 204
    logged = " ".join(str(vars(each)) for each in caplog.records)
    for secret in ("hidden", "chatcmpl-1", "row-1", world.secret):
        assert secret not in logged


def test_a_result_over_256_kib_is_omitted(world: World) -> None:
    longest = b'"' + b"x" * (256 * 1024 - 2) + b'"'
    world.happen(world.sink.url("/fits"), result=longest, include_result=True)
    world.happen(world.sink.url("/not"), result=longest + b" ", include_result=True)
    assert world.courier.drain() == 2
    assert json.loads(world.sink.at("/fits")[0].body)["data"]["result"] == json.loads(longest)
    omitted = json.loads(world.sink.at("/not")[0].body)["data"]
    assert omitted["result_omitted"] is True
    assert "result" not in omitted


def test_only_the_events_that_were_asked_for_are_recorded(world: World) -> None:
    hook = {"url": "https://example.com/", "events": ["job.failed"]}
    happened = [
        JobEvent(world.account, ids.new(), "job.completed", hook),
        JobEvent(world.account, ids.new(), "job.failed", hook),
        JobEvent(world.account, ids.new(), "job.failed", None),
        JobEvent(world.account, ids.new(), "job.escalated", {"url": "https://example.com/"}),
    ]
    with transaction(world.engine) as session:
        assert record(session, []) == 0
        assert record(session, happened) == 2
    with world.engine.connect() as connection:
        types = connection.scalars(select(Event.type).order_by(Event.type)).all()
    assert types == ["job.escalated", "job.failed"]
    assert {each.attempts for each in world.deliveries()} == {0}


def test_the_schedule_spans_76_hours_whatever_its_jitter_which_stays_within_ten_per_cent() -> None:
    assert sum(DELAYS_SECONDS) == 272_105
    rng = random.Random(1)
    for attempt in range(1, ATTEMPTS_MAX):
        waits = [wait_seconds(attempt, retry_after_seconds=None, rng=rng) for _ in range(200)]
        shares = [wait / DELAYS_SECONDS[attempt] for wait in waits if wait is not None]
        assert len(shares) == 200
        assert 1.01 <= min(shares) < 1.02
        assert 1.09 < max(shares) <= 1.1
    assert sum(DELAYS_SECONDS) * 1.01 > 76 * 3600
    assert wait_seconds(ATTEMPTS_MAX, retry_after_seconds=9.0, rng=rng) is None
