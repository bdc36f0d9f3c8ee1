"""A web process of one worker beside the running gateway's."""

from collections.abc import Iterator
from contextlib import contextmanager

import httpx

from local.processes import free_port
from tests.acceptance.deployment import START_SECONDS, Deployment, until


@contextmanager
def lone_web(gateway: Deployment) -> Iterator[str]:
    """Its address, once it answers; it has rung nobody and called no provider yet."""
    port = str(free_port())
    environ = {"PORT": port, "WEB_CONCURRENCY": "1"}
    name = gateway.processes.start("web", name="web-2", environ=environ)
    url = f"http://127.0.0.1:{port}"
    try:
        with httpx.Client(base_url=url, timeout=5, trust_env=False) as client:
            until(lambda: _is_up(client), START_SECONDS, "a second web process answers")
        yield url
    finally:
        gateway.processes.stop(name)


def _is_up(client: httpx.Client) -> bool:
    try:
        return client.get("/health").is_success
    except httpx.TransportError:
        return False
