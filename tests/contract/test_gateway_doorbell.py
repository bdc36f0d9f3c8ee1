"""The doorbell may hang; a web process may not."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx

from local.processes import free_port
from tests.acceptance.deployment import START_SECONDS, Deployment, until

CALL = {
    "model": "gpt-4o-mini",
    "messages": [{"role": "user", "content": "a private matter"}],
    "prefer_async": True,
}
RING_SECONDS = 1.0
"""Longer than it takes until an accepted call rings."""


@contextmanager
def fresh_web(gateway: Deployment) -> Iterator[httpx.Client]:
    """A web process of one worker that has not rung yet."""
    port = str(free_port())
    environ = {"PORT": port, "WEB_CONCURRENCY": "1"}
    name = gateway.processes.start("web", name="web-2", environ=environ)
    headers = {"Authorization": f"Bearer {gateway.accounts[0].api_key}"}
    url = f"http://127.0.0.1:{port}"
    try:
        with httpx.Client(base_url=url, headers=headers, timeout=5, trust_env=False) as client:
            until(lambda: _is_up(client), START_SECONDS, "a second web process answers")
            yield client
    finally:
        gateway.processes.stop(name)


def _is_up(client: httpx.Client) -> bool:
    try:
        return client.get("/health").is_success
    except httpx.TransportError:
        return False


def test_a_web_process_whose_first_rings_hang_goes_on_answering(gateway: Deployment) -> None:
    redis_pid = gateway.redis.pid
    assert redis_pid is not None
    with fresh_web(gateway) as client:
        os.kill(redis_pid, signal.SIGSTOP)
        try:
            for _ in range(2):
                assert client.post("/v1/chat/completions", json=CALL).status_code == 202
                time.sleep(RING_SECONDS)
            assert client.get("/health", timeout=2).status_code == 200
        finally:
            os.kill(redis_pid, signal.SIGCONT)
