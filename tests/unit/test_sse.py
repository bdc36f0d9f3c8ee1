"""Server-sent events out of chunks that end anywhere."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.providers.dialect import Broken
from gateway.providers.sse import EventReader


def read(*chunks: bytes, max_bytes: int = 1_000) -> list[bytes]:
    reader = EventReader(max_bytes)
    events = [event for chunk in chunks for event in reader.feed(chunk)]
    return events + reader.rest()


@pytest.mark.parametrize(
    ("stream", "events"),
    [
        (b"", []),
        (b"data: one\n\n", [b"one"]),
        (b"data: one\n\ndata: two\n\n", [b"one", b"two"]),
        (b"data:one\n\n", [b"one"]),
        (b"data:  one\n\n", [b" one"]),
        (b"data: one\r\n\r\ndata: two\r\n\r\n", [b"one", b"two"]),
        (b"data: one\r\rdata: two\r\r", [b"one", b"two"]),
        (b"data: one\ndata: two\n\n", [b"one\ntwo"]),
        (b": a comment\n\ndata: one\n\n:\n\n", [b"one"]),
        (b"event: ping\nid: 7\nretry: 9\ndata: one\n\n", [b"one"]),
        (b"event: ping\n\ndatum: x\n\n", []),
        (b"\n\n\ndata: one\n\n\n\n", [b"one"]),
        (b"data: one\n", [b"one"]),
        (b"data: one", [b"one"]),
        ("data: zwölf\n\n".encode(), ["zwölf".encode()]),
    ],
)
def test_events_are_read_as_the_standard_says(stream: bytes, events: list[bytes]) -> None:
    assert read(stream) == events


payloads = st.text(
    st.characters(codec="utf-8", exclude_characters="\r\n"), min_size=1, max_size=20
).map(str.encode)
ends = st.sampled_from([b"\n", b"\r\n", b"\r"])
noise = st.sampled_from([b"", b": keep-alive", b"event: message", b"id: 1"])


@given(
    spoken=st.lists(st.tuples(noise, st.lists(payloads, min_size=1, max_size=3)), max_size=5),
    end=ends,
    cuts=st.lists(st.integers(0, 300), max_size=12),
)
def test_where_the_chunks_end_does_not_matter(
    spoken: list[tuple[bytes, list[bytes]]], end: bytes, cuts: list[int]
) -> None:
    stream = b"".join(
        aside + end * bool(aside) + b"".join(b"data: " + line + end for line in lines) + end
        for aside, lines in spoken
    )
    places = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    chunks = [stream[start:stop] for start, stop in pairwise(places)]
    expected = [b"\n".join(lines) for _, lines in spoken]
    assert read(*chunks) == read(*(bytes([byte]) for byte in stream)) == expected


@given(chunks=st.lists(st.binary(max_size=30), max_size=8))
def test_no_bytes_make_it_fail_and_no_cut_changes_what_is_read(chunks: list[bytes]) -> None:
    assert read(*chunks) == read(b"".join(chunks))


@pytest.mark.parametrize("chunk", [b"data: " + b"x" * 90, b"x" * 90, b"data: " + b"x" * 85 + b"\n"])
def test_an_event_that_never_ends_is_given_up(chunk: bytes) -> None:
    with pytest.raises(Broken, match="too long"):
        read(*[chunk] * 4, max_bytes=200)


def test_a_long_event_that_ends_in_time_is_read_whole() -> None:
    chunks = [b"data: " + b"x" * 90, b"y" * 90, b"\n", b"\n"]
    assert read(*chunks * 5, max_bytes=200) == [b"x" * 90 + b"y" * 90] * 5
