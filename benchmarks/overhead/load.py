"""A load of callers on keep-alive connections, each with one request under way at a time."""

import asyncio
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_SENT = re.compile(rb"sent=([0-9.]+) ")
_LAST_CHUNK = b"0\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Request:
    """What is sent, again and again; each connection takes the next of `headers`."""

    url: str
    headers: tuple[Mapping[str, str], ...]
    body: bytes

    def address(self) -> tuple[str, int]:
        """Where to dial."""
        parts = urlsplit(self.url)
        assert parts.hostname is not None
        assert parts.port is not None
        return parts.hostname, parts.port

    def wire(self, number: int) -> bytes:
        """The request as its bytes, for the connection of that number."""
        parts = urlsplit(self.url)
        headers = {
            "Host": parts.netloc,
            "Content-Type": "application/json",
            "Content-Length": str(len(self.body)),
            **self.headers[number % len(self.headers)],
        }
        lines = [f"POST {parts.path} HTTP/1.1", *(f"{k}: {v}" for k, v in headers.items())]
        return "\r\n".join([*lines, "", ""]).encode() + self.body


@dataclass(slots=True)
class Heard:
    """What the callers saw: seconds from the request to its end, and to a stream's first chunk;
    how late each chunk came; answers that were no success, or streams with too few chunks."""

    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    firsts: list[float] = field(default_factory=list)
    delays: list[float] = field(default_factory=list)
    failures: list[bytes] = field(default_factory=list)


class _Caller(asyncio.Protocol):
    """One connection: asks until the time is up."""

    def __init__(self, wire: bytes, until: float, chunks: int, heard: Heard) -> None:
        self._wire = wire
        self._until = until
        self._chunks = chunks
        self._heard = heard
        self._received = b""
        self._began = self._first = 0.0
        self._seen = self._read = 0
        self._transport: asyncio.Transport | None = None
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._ask()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self._heard.failures.append(f"hung up: {exc}".encode())
            self.done.set_result(None)

    def data_received(self, data: bytes) -> None:
        now = time.monotonic()
        self._received += data
        if self._chunks:
            self._hear_chunks(now)
        head, found, body = self._received.partition(b"\r\n\r\n")
        if found and self._complete(head, body):
            self._finish(head, body, now)

    def _ask(self) -> None:
        assert self._transport is not None
        self._received, self._first, self._seen, self._read = b"", 0.0, 0, 0
        self._began = time.monotonic()
        self._transport.write(self._wire)

    def _hear_chunks(self, now: float) -> None:
        for sent in _SENT.finditer(self._received, self._read):
            if not self._seen:
                self._first = now - self._began
            self._seen += 1
            self._read = sent.end()
            self._heard.delays.append(now - float(sent[1]))

    @staticmethod
    def _complete(head: bytes, body: bytes) -> bool:
        length = _LENGTH.search(head)
        return len(body) >= int(length[1]) if length is not None else body.endswith(_LAST_CHUNK)

    def _finish(self, head: bytes, body: bytes, now: float) -> None:
        if head[9:12] not in (b"200", b"202") or self._seen < self._chunks:
            self._heard.failures.append((head + body)[:300])
        else:
            self._heard.latencies.append(now - self._began)
            if self._chunks:
                self._heard.firsts.append(self._first)
        if now < self._until:
            self._ask()
            return
        self.done.set_result(None)
        assert self._transport is not None
        self._transport.close()


async def _call(request: Request, concurrency: int, seconds: float, chunks: int) -> Heard:
    heard = Heard()
    loop = asyncio.get_running_loop()
    began = time.monotonic()

    def caller(number: int) -> _Caller:
        return _Caller(request.wire(number), began + seconds, chunks, heard)

    host, port = request.address()
    callers = []
    for number in range(concurrency):
        made = caller(number)
        await loop.create_connection(lambda made=made: made, host, port)  # type: ignore[misc]
        callers.append(made.done)
    await asyncio.wait(callers)
    heard.seconds = time.monotonic() - began
    return heard


def call(request: Request, concurrency: int, seconds: float, chunks: int = 0) -> Heard:
    """Keeps `concurrency` requests under way for that long; `chunks`: of each stream, if any."""
    return asyncio.run(_call(request, concurrency, seconds, chunks))
