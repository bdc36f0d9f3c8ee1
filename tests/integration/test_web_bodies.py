"""Hostile and broken input: 400 where it is refused, never 5xx, and nothing breaks."""

import copy
import gzip
import io
import json
import random
import string
from collections.abc import Iterator
from typing import Any

import orjson
import pytest
from werkzeug.test import TestResponse

from tests.contract.simulator_process import SimulatorProcess
from tests.integration.web_world import (
    ASYNC_BODY,
    CHAT,
    CHAT_BODY,
    EMBEDDING_BODY,
    EMBEDDINGS,
    Customer,
    Web,
    error_of,
)

SEED = 20260301
REMOVED = object()
Path = tuple[str | int, ...]

RICH_BODY: dict[str, Any] = {
    "model": "openai/gpt-4o-mini",
    "messages": [
        {"role": "system", "content": "be brief", "name": "boss"},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "what is this?"},
                {
                    "type": "image_url",
                    "image_url": {"url": "data:image/png;base64,iVBORw0KGgo=", "detail": "low"},
                },
            ],
        },
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {
                    "id": "call_1",
                    "type": "function",
                    "function": {"name": "look", "arguments": '{"at":"it"}'},
                }
            ],
        },
        {"role": "tool", "content": "a dot", "tool_call_id": "call_1"},
        {"role": "user", "content": "and now?"},
    ],
    "tools": [
        {
            "type": "function",
            "function": {
                "name": "look",
                "description": "looks",
                "parameters": {"type": "object", "properties": {"at": {"type": "string"}}},
            },
        }
    ],
    "tool_choice": "auto",
    "response_format": {
        "type": "json_schema",
        "json_schema": {"name": "x", "schema": {"type": "object", "properties": {}}},
    },
    "temperature": 0.5,
    "top_p": 1,
    "n": 1,
    "stop": ["END"],
    "max_tokens": 10,
    "presence_penalty": 0,
    "frequency_penalty": 0,
    "logit_bias": {"50256": -100},
    "user": "u-1",
    "seed": 7,
}
ANTHROPIC_FIELDS = ("model", "messages", "tools", "tool_choice", "stop", "max_tokens", "user")
OUR_FIELDS: dict[str, Any] = {
    "prefer_async": True,
    "require_async": False,
    "deadline": "6h",
    "custom_id": "row-1",
    "metadata": {"team": "blue"},
    "webhook": {"url": "https://example.com/h", "events": ["job.completed"]},
}
NASTY: tuple[Any, ...] = (
    REMOVED,
    None,
    True,
    "",
    "\x00",
    "a\x00b",
    "\u202e\u2066",
    "\U0010ffff",
    "x" * 5000,
    -1,
    2**31,
    2**63,
    -(2**63),
    2**64 - 1,
    10**40,
    1e308,
    5e-324,
    [],
    {},
    [None],
    [[[[]]]],
    {"\x00": "\x00"},
    {"": {"": ""}},
)


@pytest.fixture(scope="module")
def web(web_process: Web) -> Iterator[Web]:
    """A web process for the whole module: nothing here minds what the others left."""
    web_process.renew()
    yield web_process
    web_process.close()


@pytest.fixture
def customer(web: Web) -> Customer:
    return web.customer(credit_usd=1_000_000)


def leaves(value: Any, path: Path = ()) -> Iterator[Path]:
    """Every place in a body, containers included."""
    if path:
        yield path
    steps: list[Any] = list(value) if isinstance(value, dict) else []
    if isinstance(value, list):
        steps = list(range(len(value)))
    for step in steps:
        yield from leaves(value[step], (*path, step))


def changed(body: dict[str, Any], path: Path, value: object) -> dict[str, Any]:
    """A copy of the body with another value in one place."""
    copied = copy.deepcopy(body)
    parent: Any = copied
    for step in path[:-1]:
        parent = parent[step]
    if value is REMOVED:
        del parent[path[-1]]
    else:
        parent[path[-1]] = value
    return copied


def assert_answered(response: TestResponse) -> None:
    """An answer, or a refusal that is the caller's fault."""
    assert response.status_code < 500, response.text
    if response.status_code >= 400:
        error_of(response)


def encode(body: object) -> bytes:
    """JSON with integers of any length."""
    return json.dumps(body).encode()


def test_no_value_in_any_place_of_an_asynchronous_call_is_a_fault_of_ours(
    web: Web, customer: Customer
) -> None:
    client = web.client(customer)
    body = {**RICH_BODY, **OUR_FIELDS}
    accepted = client.post(CHAT, json=body)
    assert accepted.status_code == 202, accepted.text
    statuses = set()
    dice = random.Random(SEED)
    for path in leaves(body):
        ours = path[0] in OUR_FIELDS
        for value in NASTY if ours else dice.sample(NASTY, 6):
            response = client.post(CHAT, data=encode(changed(body, path, value)))
            assert_answered(response)
            statuses.add(response.status_code)
    assert {202, 400} <= statuses
    web.assert_books_are_clean()


@pytest.mark.parametrize("model", ["openai/gpt-4o-mini", "anthropic/claude-haiku-5-5"])
def test_no_value_in_any_place_of_an_ordinary_call_is_a_fault_of_ours(
    web: Web, customer: Customer, provider: SimulatorProcess, model: str
) -> None:
    assert provider.meter() == []
    client = web.client(customer)
    dice = random.Random(SEED)
    body = {**RICH_BODY, "model": model}
    if model.startswith("anthropic"):
        # No picture that is none, and none of what Anthropic's wire has no word for.
        body = changed(body, ("messages", 1, "content", 1), REMOVED)
        body = {name: value for name, value in body.items() if name in ANTHROPIC_FIELDS}
    answered = client.post(CHAT, json=body)
    assert answered.status_code == 200, answered.text
    for path in leaves(body):
        for value in dice.sample(NASTY, 4):
            assert_answered(client.post(CHAT, data=encode(changed(body, path, value))))
    web.assert_books_are_clean()


def test_no_value_in_any_place_of_an_embeddings_call_is_a_fault_of_ours(
    web: Web, customer: Customer, provider: SimulatorProcess
) -> None:
    assert provider.meter() == []
    client = web.client(customer)
    body = {**EMBEDDING_BODY, "input": ["a", "b"], "dimensions": 8, "encoding_format": "float"}
    assert client.post(EMBEDDINGS, json=body).status_code == 200
    for path in leaves(body):
        for value in NASTY:
            changed_body = changed(body, path, value)
            assert_answered(client.post(EMBEDDINGS, data=encode(changed_body)))
            waiting = {**changed_body, "prefer_async": True}
            assert_answered(client.post(EMBEDDINGS, data=encode(waiting)))
    web.assert_books_are_clean()


@pytest.mark.parametrize("path", [CHAT, EMBEDDINGS])
def test_random_bytes_are_a_bad_request(web: Web, customer: Customer, path: str) -> None:
    client = web.client(customer)
    dice = random.Random(SEED)
    valid = orjson.dumps({**CHAT_BODY, **EMBEDDING_BODY})
    for _ in range(150):
        noise = dice.randbytes(dice.randrange(200))
        response = client.post(path, data=noise)
        assert response.status_code == 400, noise
        assert error_of(response)["type"] == "bad_request"
        cut = valid[: dice.randrange(len(valid))]
        assert client.post(path, data=cut).status_code == 400, cut


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b'{"model":"gpt-4o-mini","messages":[{"role":"user","content":"\\ud800"}]}',
        b'{"model":"gpt-4o-mini","messages":[{"role":"user","content":"\xff"}]}',
        b'{"model":"gpt-4o-mini","messages":[{"role":"user","content":"hi"}],"seed":NaN}',
        b'{"model":"gpt-4o-mini","messages":[{"role":"user","content":"hi"}],"seed":1e999}',
        b'{"model":"gpt-4o-mini","messages":[{"role":"user","content":"hi"}],"n":' + b"9" * 5000,
        b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
        b"[" * 7_000_000,
        b'{"messages":[' + b"[]," * 2_000_000 + b"[]]}",
        gzip.compress(orjson.dumps(CHAT_BODY)),
    ],
    ids=range(12),
)
def test_broken_json_is_a_bad_request(web: Web, customer: Customer, body: bytes) -> None:
    response = web.client(customer).post(CHAT, data=body)
    assert response.status_code == 400
    assert error_of(response)["type"] == "bad_request"


def test_of_a_field_that_comes_twice_the_last_counts(web: Web, customer: Customer) -> None:
    body = b'{"custom_id":"a",%s,"custom_id":"b"}' % orjson.dumps(ASYNC_BODY)[1:-1]
    response = web.client(customer).post(CHAT, data=body)
    assert response.status_code == 202
    assert response.get_json()["job"]["custom_id"] == "b"


def test_a_number_beyond_64_bits_is_no_whole_number(web: Web, customer: Customer) -> None:
    body = b'{"max_tokens":%s,%s' % (b"9" * 40, orjson.dumps(CHAT_BODY)[1:])
    response = web.client(customer).post(CHAT, data=body)
    assert (response.status_code, error_of(response)["param"]) == (400, "max_tokens")


def test_a_body_without_an_end_is_not_read_beyond_the_limit(web: Web, customer: Customer) -> None:
    class Endless(io.RawIOBase):
        """Bytes for ever; counts those that were taken."""

        taken = 0

        def readable(self) -> bool:
            return True

        def tell(self) -> int:
            return 0

        def seek(self, *_to: int) -> int:
            return 0

        def readinto(self, buffer: Any) -> int:
            buffer[:] = b" " * len(buffer)
            self.taken += len(buffer)
            return len(buffer)

    stream = Endless()
    response = web.client(customer).post(
        CHAT,
        input_stream=stream,
        headers={"Transfer-Encoding": "chunked"},
        environ_overrides={"wsgi.input_terminated": True},
    )
    assert response.status_code == 413
    assert stream.taken < 10_000_000


@pytest.mark.parametrize(
    "name",
    ["HTTP_IDEMPOTENCY_KEY", "HTTP_PREFER", "HTTP_AUTHORIZATION", "HTTP_X_API_KEY", "CONTENT_TYPE"],
)
def test_no_header_breaks_a_call_or_gets_into_an_answer(
    web: Web, customer: Customer, name: str
) -> None:
    values = [
        "",
        " ",
        "x\r\nX-Evil: 1",
        "x\nX-Evil: 1",
        "\x00",
        "\x7f",
        "Ã¤",
        "\xff\xfe",
        "a" * 8000,
        ";;;,,,===",
        '"' * 99,
        "respond-async, respond-async",
        string.printable,
    ]
    for value in values:
        response = web.client(customer).post(CHAT, json=ASYNC_BODY, environ_overrides={name: value})
        assert_answered(response)
        assert "X-Evil" not in response.headers
        assert not any("Evil" in each for each in response.headers.values())


QUERIES = [
    "limit=0",
    "limit=101",
    "limit=-1",
    "limit=1.5",
    "limit=",
    "limit=x",
    "limit=%D9%A3",
    "limit=" + "9" * 5000,
    "order=up",
    "order=",
    "status=done",
    "status=",
    "status=queued%00",
    "after=x",
    "after=job_" + "z" * 32,
    "after=%00",
    "model=%00",
    "model=a%00b",
    "include=everything",
    "metadata=a",
    "metadata[a]=%00",
    "metadata[%00]=a",
    "ids=" + ",".join(["a"] * 101),
]


@pytest.mark.parametrize("query", QUERIES, ids=lambda query: query[:30])
def test_a_bad_query_is_a_bad_request_that_names_the_parameter(
    web: Web, customer: Customer, query: str
) -> None:
    response = web.client(customer).get(f"/v1/jobs?{query}")
    assert response.status_code == 400
    param = error_of(response)["param"]
    assert param.partition("[")[0] == query.partition("=")[0].partition("[")[0]


@pytest.mark.parametrize(
    "query", ["model=%ff", "model=%ED%A0%80", "metadata[%ff]=%ff", "unknown=%00", "ids=", "ids=%00"]
)
def test_odd_bytes_in_a_query_find_nothing(web: Web, customer: Customer, query: str) -> None:
    response = web.client(customer).get(f"/v1/jobs?{query}")
    assert response.status_code == 200
    assert response.get_json()["data"] == []


@pytest.mark.parametrize("wait", ["-1", "x", "1.5", "", "%00", "9" * 5000])
def test_a_bad_wait_is_a_bad_request(web: Web, customer: Customer, wait: str) -> None:
    response = web.client(customer).get(f"/v1/jobs/job_{'0' * 32}?wait={wait}")
    assert (response.status_code, error_of(response)["param"]) == (400, "wait")
