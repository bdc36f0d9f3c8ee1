"""Webhook endpoints of the running gateway, through the official OpenAI SDK."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler
from typing import Any

import httpx
import pytest
from openai import OpenAI
from standardwebhooks import Webhook

from tests.acceptance.deployment import Deployment
from tests.integration.webhook_sink import Sink, answer

COMPLETED: Any = ["job.completed"]
SAMPLE: Any = "job.completed"
SLOW_SECONDS = 2.0


@pytest.fixture
def sink() -> Iterator[Sink]:
    made = Sink()
    yield made
    made.close()


@pytest.fixture
def client(gateway: Deployment) -> Iterator[OpenAI]:
    base_url, api_key = f"{gateway.base_url}/v1", gateway.accounts[0].api_key
    with OpenAI(base_url=base_url, api_key=api_key, max_retries=0, timeout=30) as made:
        yield made


def test_a_job_is_told_to_an_endpoint_that_subscribed(client: OpenAI, sink: Sink) -> None:
    made = client.webhooks.create(name="n", url=sink.url("/hook"), event_types=COMPLETED)
    accepted = client.chat.completions.create(
        model="openai/gpt-4o-mini",
        messages=[{"role": "user", "content": "good night"}],
        extra_body={"prefer_async": True},
    )
    ends_at = time.monotonic() + 40
    while not sink.at("/hook"):
        assert time.monotonic() < ends_at, "nobody was told"
        time.sleep(0.1)
    client.webhooks.delete(made.id)
    received = sink.at("/hook")[0]
    told = Webhook(made.signing_secret).verify(received.body.decode(), received.headers)
    assert told["data"]["completion_id"] == accepted.id
    event = client.webhooks.unwrap(received.body, received.headers, secret=made.signing_secret)
    assert event.id == received.headers["webhook-id"]


def test_a_test_of_a_slow_endpoint_holds_up_nobody_else(
    gateway: Deployment, client: OpenAI, sink: Sink
) -> None:
    def slowly(handler: BaseHTTPRequestHandler) -> None:
        time.sleep(SLOW_SECONDS)
        answer(204)(handler)

    sink.scripts["/hook"] = [slowly]
    # By name, so that it is looked up too.
    url = sink.url("/hook").replace("127.0.0.1", "localhost")
    made = client.webhooks.create(name="n", url=url, event_types=COMPLETED)
    with ThreadPoolExecutor(4) as threads:
        tests = [threads.submit(client.webhooks.test, made.id, event_type=SAMPLE) for _ in range(4)]
        slowest, asked = 0.0, 0
        while not all(test.done() for test in tests):
            began = time.monotonic()
            assert httpx.get(f"{gateway.base_url}/health", timeout=10).status_code == 200
            slowest, asked = max(slowest, time.monotonic() - began), asked + 1
            time.sleep(0.02)
        assert {test.result().status_code for test in tests} == {204}
    client.webhooks.delete(made.id)
    assert asked > 5
    assert slowest < SLOW_SECONDS / 2
