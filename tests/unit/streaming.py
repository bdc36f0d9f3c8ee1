"""Streams as the providers send them, and what a dialect makes of them, without a network."""

import json
from collections.abc import Iterable, Iterator
from typing import Any

import httpx

from gateway.providers.dialect import ProviderError, StreamBroken, StreamPiece
from gateway.providers.relabel import Relabel
from tests.unit.recorder import BODY, Json, Recorder, credential_of, speaking

FRAME: Json = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "model": "m"}
USAGE: Json = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}


def dumped(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def chunk(delta: Json, finish: str | None = None, **fields: Any) -> Json:
    return {**FRAME, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}], **fields}


def events(*payloads: Json | bytes) -> bytes:
    """Payloads as server-sent events."""
    shown = (each if isinstance(each, bytes) else dumped(each) for each in payloads)
    return b"".join(b"data: " + each + b"\n\n" for each in shown)


def streaming(content: bytes | Iterable[bytes | Exception]) -> httpx.Response:
    """An answer whose body is that; an exception in it is how the connection breaks."""
    parts = [content] if isinstance(content, bytes) else content
    return httpx.Response(200, stream=_Parts(parts))


class _Parts(httpx.SyncByteStream):
    def __init__(self, parts: Iterable[bytes | Exception]) -> None:
        self._parts = parts

    def __iter__(self) -> Iterator[bytes]:
        for part in self._parts:
            if isinstance(part, Exception):
                raise part
            yield part


class Heard:
    """What came of a stream: its pieces, and how it broke."""

    def __init__(self) -> None:
        self.pieces: list[StreamPiece] = []
        self.error: ProviderError | None = None

    def listen(self, pieces: Iterator[StreamPiece], *failures: type[ProviderError]) -> None:
        try:
            self.pieces += pieces
        except failures as error:
            self.error = error

    @property
    def broken(self) -> StreamBroken:
        """How it broke in mid-stream."""
        assert isinstance(self.error, StreamBroken)
        return self.error

    @property
    def chunks(self) -> list[Json]:
        return [json.loads(piece.data) for piece in self.pieces]

    @property
    def deltas(self) -> list[Json]:
        return [each["choices"][0]["delta"] for each in self.chunks if each["choices"]]

    def said(self, field: str = "content") -> str:
        return "".join(delta.get(field) or "" for delta in self.deltas)


class Streamed(Heard):
    """A stream asked of a dialect, and the request that asked for it."""

    def __init__(self, name: str, answer: httpx.Response | Exception, **fields: Any) -> None:
        super().__init__()
        self.recorder = Recorder(answer)
        dialect = speaking(name, self.recorder)
        with dialect.stream(credential_of(name), "m", {**BODY, **fields}, 5) as pieces:
            self.listen(pieces, StreamBroken)

    @property
    def relabelled(self) -> list[Json]:
        relabel = Relabel("chatcmpl-ours", "asked/for")
        return [json.loads(relabel(piece.data)) for piece in self.pieces]
