"""Bodies and headers that are made to hurt: refused each, with nothing kept of them."""

import gzip
import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import httpx
import psutil
import pytest

from tests.acceptance.deployment import Deployment

CHAT = "/v1/chat/completions"
LIMIT_BYTES = 8_000_000
ROUNDS = 6
GROWTH_BYTES_MOST = 60_000_000
"""Two processes may each keep the room that one body took; six rounds of leaking would be more."""


def chat(content: str) -> bytes:
    """A call whose only message is this JSON text."""
    start, end = json.dumps(
        {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "~"}]}
    ).split('"~"')
    return (start + content + end).encode()


def nested(depth: int) -> bytes:
    return b'{"model":"gpt-4o-mini","messages":' + b"[" * depth + b"]" * depth + b"}"


HOSTILE: list[tuple[bytes, dict[str, str], int]] = [
    (chat('"' + "x" * (LIMIT_BYTES + 1) + '"'), {}, 413),
    (nested(65), {}, 400),
    (nested(200_000), {}, 400),
    (b"[" * LIMIT_BYTES, {}, 400),
    (b'{"a":' * 400_000, {}, 400),
    (b'{"model":"m","messages":[' + b"{}," * 600_000 + b"{}]}", {}, 400),
    (chat("1" * 1_000_000), {}, 400),
    (chat("1e999999"), {}, 400),
    (gzip.compress(b" " * 50_000_000), {"Content-Encoding": "gzip"}, 400),
    (gzip.compress(b" " * 50_000_000), {}, 400),
    (b"x", {"Content-Encoding": "br"}, 400),
]


@pytest.fixture
def client(gateway: Deployment) -> Iterator[httpx.Client]:
    with gateway.client(gateway.accounts[0].api_key) as made:
        yield made


def web_bytes(gateway: Deployment) -> int:
    """The memory of all web processes."""
    web = psutil.Process(gateway.processes.pid("web"))
    return sum(each.memory_info().rss for each in (web, *web.children(recursive=True)))


def test_hostile_bodies_are_refused_and_leave_no_memory_behind(
    gateway: Deployment, client: httpx.Client
) -> None:
    def all_of_them() -> None:
        for number, (body, headers, status) in enumerate(HOSTILE):
            answer = client.post(
                CHAT, content=body, headers={"Content-Type": "application/json", **headers}
            )
            assert answer.status_code == status, (number, answer.text[:200])
            assert answer.json()["error"]["code"] == status

    for _ in range(2):
        all_of_them()
    before = web_bytes(gateway)
    for _ in range(ROUNDS):
        all_of_them()
    assert web_bytes(gateway) - before < GROWTH_BYTES_MOST


@pytest.mark.parametrize(
    "content",
    [
        b'"\xff\xfe"',
        b'"\xc0\xaf"',
        b'"\xed\xa0\x80"',
        b'"\xf4\x90\x80\x80"',
        b'"\\ud800"',
        b'"\\udc00\\ud800"',
        b'"\\u12"',
        b'"\x00"',
        b'"a\nb"',
        '"ab"'.encode("utf-16"),
    ],
    ids=range(10),
)
@pytest.mark.parametrize("fields", [b"", b',"prefer_async":true'])
def test_text_that_is_no_unicode_is_a_bad_request(
    client: httpx.Client, content: bytes, fields: bytes
) -> None:
    body = chat("null").replace(b"null", content)[:-1] + fields + b"}"
    answer = client.post(CHAT, content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "bad_request"


@pytest.mark.parametrize(
    "path",
    ["/v1/jobs/%ff", "/v1/jobs/%00", "/v1/models/%ed%a0%80", "/v1/jobs?metadata[%ff]=%ff", "/%ff"],
)
def test_a_path_that_is_no_unicode_is_no_fault_of_ours(client: httpx.Client, path: str) -> None:
    assert client.get(path).status_code in (200, 400, 404)


@pytest.mark.parametrize("evil", ["a\r\nX-Evil: 1", "a%0d%0aX-Evil: 1", "a\\r\\nX-Evil: 1"])
def test_nothing_that_a_caller_says_becomes_a_header(client: httpx.Client, evil: str) -> None:
    fields: dict[str, Any] = {
        "model": "gpt-4o-mini",
        "messages": [{"role": "user", "content": "hi"}],
        "prefer_async": True,
        "custom_id": evil,
        "metadata": {"k": evil},
    }
    answers = [
        client.post(CHAT, json=fields),
        client.post(CHAT, json={**fields, "model": evil}),
        client.get("/v1/models/x", params={"x": evil}),
        client.get(f"/v1/models/{quote(evil)}"),
        client.post(CHAT, json=fields, headers={"Prefer": f"respond-async; {evil[-9:].strip()}"}),
    ]
    for answer in answers:
        assert answer.status_code in (202, 400, 404)
        assert "x-evil" not in answer.headers
