"""The doorbell may hang; a web process may not."""

import os
import signal
import time

import httpx

from tests.acceptance.deployment import Deployment
from tests.contract.lone_web import lone_web

CALL = {
    "model": "gpt-4o-mini",
    "messages": [{"role": "user", "content": "a private matter"}],
    "prefer_async": True,
}
RING_SECONDS = 1.0
"""Longer than it takes until an accepted call rings."""


def test_a_web_process_whose_first_rings_hang_goes_on_answering(gateway: Deployment) -> None:
    redis_pid = gateway.redis.pid
    assert redis_pid is not None
    headers = {"Authorization": f"Bearer {gateway.accounts[0].api_key}"}
    with (
        lone_web(gateway) as url,
        httpx.Client(base_url=url, headers=headers, timeout=5, trust_env=False) as client,
    ):
        os.kill(redis_pid, signal.SIGSTOP)
        try:
            for _ in range(2):
                assert client.post("/v1/chat/completions", json=CALL).status_code == 202
                time.sleep(RING_SECONDS)
            assert client.get("/health", timeout=2).status_code == 200
        finally:
            os.kill(redis_pid, signal.SIGCONT)
