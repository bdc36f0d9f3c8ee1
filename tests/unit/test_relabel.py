"""Our id and the asked name in the chunks of a stream."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.providers.relabel import Relabel

Json = dict[str, Any]
OURS = {"id": "chatcmpl-ours", "model": "openai/gpt-4o-mini"}


def relabel() -> Relabel:
    return Relabel(OURS["id"], OURS["model"])


def chunk(content: str, **fields: Any) -> Json:
    named = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "model": "gpt-4o-mini-2024"}
    return {**named, "choices": [{"index": 0, "delta": {"content": content}}], **fields}


def test_nothing_but_the_two_members_changes() -> None:
    rewrite = relabel()
    for logprob in (b"-0.000001200", b"1E+2"):
        data = b'{"id":"c","created":1,"model":"m","choices":[{"logprob":%b}]}' % logprob
        assert rewrite(data) == (
            b'{"id":"chatcmpl-ours","created":1,"model":"openai/gpt-4o-mini",'
            b'"choices":[{"logprob":%b}]}' % logprob
        )


words = st.text(max_size=30) | st.sampled_from(
    ['"id":"chatcmpl-1"', '"model":"gpt-4o-mini-2024"', '\\"id\\":\\"chatcmpl-1\\"', '","id":"']
)


@given(
    contents=st.lists(words, min_size=1, max_size=4),
    separators=st.sampled_from([(",", ":"), (", ", ": "), (" ,", " : ")]),
    backwards=st.booleans(),
    ascii_only=st.booleans(),
)
def test_whatever_is_said_in_whatever_order_only_the_names_are_ours(
    contents: list[str], separators: tuple[str, str], backwards: bool, ascii_only: bool
) -> None:
    rewrite = relabel()
    for content in contents:
        given_chunk = chunk(content)
        if backwards:
            given_chunk = dict(reversed(given_chunk.items()))
        text = json.dumps(given_chunk, separators=separators, ensure_ascii=ascii_only)
        assert json.loads(rewrite(text.encode())) == {**given_chunk, **OURS}


def test_names_that_change_in_mid_stream_are_learned_anew() -> None:
    rewrite = relabel()
    for fields in ({}, {"id": "chatcmpl-2"}, {"model": "other"}, {"id": None}, {"model": 5}):
        given_chunk = chunk("x", **fields)
        data = json.dumps(given_chunk, separators=(",", ":")).encode()
        assert json.loads(rewrite(data)) == {**given_chunk, **OURS}


def test_a_chunk_without_names_is_given_them() -> None:
    assert json.loads(relabel()(b'{"choices":[]}')) == {"choices": [], **OURS}


def test_the_id_of_a_tool_call_is_left_alone() -> None:
    rewrite = relabel()
    call = {"choices": [{"delta": {"tool_calls": [{"index": 0, "id": "call_1"}]}}]}
    for given_chunk in (chunk("x"), {**chunk("x"), **call}):
        data = json.dumps(given_chunk, separators=(",", ":")).encode()
        assert json.loads(rewrite(data)) == {**given_chunk, **OURS}


@pytest.mark.parametrize("data", [b"", b"[]", b"{"])
def test_what_is_no_object_cannot_be_relabelled(data: bytes) -> None:
    with pytest.raises(ValueError, match=r".*"):
        relabel()(data)
