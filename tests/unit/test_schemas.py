import time
from typing import Any

import orjson
import pytest
from flask import Request
from pydantic import BaseModel
from werkzeug.test import EnvironBuilder

from web.errors import ApiError
from web.schemas import DEEPEST, ChatRequest, EmbeddingRequest, check, read_body

SAYS_HI = [{"role": "user", "content": "hi"}]


def fault(schema: type[BaseModel], body: dict[str, Any]) -> str | None:
    with pytest.raises(ApiError) as caught:
        check(schema, body)
    assert caught.value.status == 400
    assert f"'{caught.value.param}'" in caught.value.message
    return caught.value.param


def chat(**fields: Any) -> dict[str, Any]:
    return {"model": "gpt-4o-mini", "messages": SAYS_HI, **fields}


def embedding(inputs: Any, **fields: Any) -> dict[str, Any]:
    return {"model": "text-embedding-3-small", "input": inputs, **fields}


def read(body: bytes, **headers: str) -> Any:
    builder = EnvironBuilder(method="POST", data=body, headers=headers.items())
    return read_body(Request(builder.get_environ()))


def refused(body: bytes) -> ApiError:
    with pytest.raises(ApiError) as caught:
        read(body)
    return caught.value


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"temperature": 0},
        {"temperature": 2},
        {"top_p": 0.0, "frequency_penalty": -2, "presence_penalty": 2},
        {"stop": "\n"},
        {"stop": ["a", "b", "c", "d"]},
        {"stop": None, "temperature": None, "n": None},
        {"n": 128, "max_tokens": 1, "max_completion_tokens": 10**9},
        {"stream": False},
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
        {"messages": [{"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]},
        {"messages": [{"role": "tool", "content": "4", "tool_call_id": "1"}]},
    ],
)
def test_a_chat_call_within_the_rules_is_taken(fields: dict[str, Any]) -> None:
    check(ChatRequest, chat(**fields))


def test_unknown_fields_pass_untouched() -> None:
    body = chat(
        logprobs=True,
        seed=2**60,
        reasoning_effort="low",
        response_format={"type": "json_schema", "json_schema": {"name": "x"}},
        a_field_of_tomorrow={"deep": [1, {"er": None}]},
        messages=[{"role": "user", "content": "hi", "name": "bob", "of_tomorrow": [1]}],
    )
    before = orjson.dumps(body)
    check(ChatRequest, body)
    assert orjson.dumps(body) == before


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": None}, "model"),
        ({"model": ""}, "model"),
        ({"model": "m" * 201}, "model"),
        ({"model": 4}, "model"),
        ({"messages": None}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": {"role": "user"}}, "messages"),
        ({"messages": ["hi"]}, "messages[0]"),
        ({"messages": [*SAYS_HI, {"content": "hi"}]}, "messages[1].role"),
        ({"messages": [{"role": "robot", "content": "hi"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": ["hi"]}]}, "messages[0].content[0]"),
        ({"messages": [{"role": "user", "content": [{}]}]}, "messages[0].content[0].type"),
        (
            {"messages": [{"role": "user", "content": [{"type": []}]}]},
            "messages[0].content[0].type",
        ),
        ({"stream": "yes"}, "stream"),
        ({"stream": 1}, "stream"),
        ({"temperature": -0.01}, "temperature"),
        ({"temperature": 2.01}, "temperature"),
        ({"temperature": "1"}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"top_p": 1.01}, "top_p"),
        ({"top_p": -0.01}, "top_p"),
        ({"frequency_penalty": 2.01}, "frequency_penalty"),
        ({"presence_penalty": -2.01}, "presence_penalty"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop"),
        ({"stop": ["a", 1]}, "stop[1]"),
        ({"stop": 1}, "stop"),
        ({"n": 0}, "n"),
        ({"n": 129}, "n"),
        ({"n": 1.5}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 1e30}, "max_tokens"),
        ({"max_completion_tokens": "9"}, "max_completion_tokens"),
        ({"tools": {}}, "tools"),
        ({"tools": ["f"]}, "tools[0]"),
    ],
)
def test_a_chat_call_outside_the_rules_is_refused_by_the_fields_path(
    fields: dict[str, Any], param: str
) -> None:
    assert fault(ChatRequest, chat(**fields)) == param


@pytest.mark.parametrize("field", ["model", "messages"])
def test_a_missing_field_is_named(field: str) -> None:
    body = chat()
    del body[field]
    assert fault(ChatRequest, body) == field


@pytest.mark.parametrize(
    "inputs", ["a", ["a", "b"], [0, 1, 2], [[1, 2], [3]], ["a"] * 2048, ["\x00"]]
)
def test_every_form_of_an_embeddings_input_is_taken(inputs: object) -> None:
    check(EmbeddingRequest, embedding(inputs, dimensions=256, encoding_format="base64"))


@pytest.mark.parametrize(
    ("inputs", "param"),
    [
        ("", "input"),
        ([], "input"),
        (None, "input"),
        (5, "input"),
        ({"text": "a"}, "input"),
        (["a"] * 2049, "input"),
        (["a", ""], "input[1]"),
        (["a", 1], "input[1]"),
        ([1, -1], "input[1]"),
        ([[]], "input[0]"),
        ([[1], [-1]], "input[1][0]"),
    ],
)
def test_a_bad_embeddings_input_is_refused_by_its_path(inputs: object, param: str) -> None:
    assert fault(EmbeddingRequest, embedding(inputs)) == param


def test_bad_fields_of_an_embeddings_call_are_named() -> None:
    assert fault(EmbeddingRequest, embedding("a", dimensions=0)) == "dimensions"
    assert fault(EmbeddingRequest, embedding("a", encoding_format="int8")) == "encoding_format"
    assert fault(EmbeddingRequest, embedding("a", user=7)) == "user"
    assert fault(EmbeddingRequest, {"model": "m"}) == "input"


def test_a_million_wrong_items_cost_no_more_than_the_first() -> None:
    began = time.process_time()
    assert fault(ChatRequest, chat(messages=[1] * 1_000_000)) == "messages[0]"
    assert fault(EmbeddingRequest, embedding([None] * 1_000_000)) == "input[0]"
    assert time.process_time() - began < 2.0


def test_an_object_is_read() -> None:
    assert read(b' {"model": "m", "n": 1} ') == {"model": "m", "n": 1}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"a":1}{"b":2}',
        b"{'a':1}",
        b'{"a":NaN}',
        b'{"a":Infinity}',
        b'{"a":1e999}',
        b'{"a":01}',
        b'{"a":1,}',
        b'\xef\xbb\xbf{"a":1}',
        '{"a":"ä"}'.encode("latin-1"),
        '{"a":"hi"}'.encode("utf-16"),
        b'{"a":"\xff"}',
        b'{"a":"\xed\xa0\x80"}',  # a surrogate in UTF-8
        b'{"a":"\\ud800"}',
        b'{"a":"\\udc00\\ud800"}',
        b'{"\\ud800":1}',
        b'{"a":"\x00"}',  # raw control character
        b'{"a":"\n"}',
        b"[" * 100_000,
        b'{"a":' * 100_000,
    ],
)
def test_what_is_no_json_is_refused(body: bytes) -> None:
    assert refused(body).status == 400


@pytest.mark.parametrize("body", [b"null", b"[]", b'"{}"', b"1", b"true"])
def test_json_that_is_no_object_is_refused(body: bytes) -> None:
    assert refused(body).message == "The request body must be a JSON object."


def test_a_body_may_be_nested_so_deep_and_no_deeper() -> None:
    def nested(levels: int) -> bytes:
        return b'{"a":' + b"[" * (levels - 1) + b"]" * (levels - 1) + b"}"

    assert read(nested(DEEPEST))
    assert "nested" in refused(nested(DEEPEST + 1)).message


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd", "GZIP", "identity, gzip"])
def test_a_compressed_body_is_refused_unread(encoding: str) -> None:
    with pytest.raises(ApiError) as caught:
        read(b"{}", **{"Content-Encoding": encoding})
    assert (caught.value.status, caught.value.param) == (400, "Content-Encoding")
    assert read(b"{}", **{"Content-Encoding": "identity"}) == {}
