"""A provider that answers at once: `python -m benchmarks.overhead.upstream` prints its port.

Answers every POST with one chat completion, or with a stream of chunks if the body asks for one.
The body's `user` says how: `delay=MS` waits before the answer; `chunks=N every=MS` shapes a
stream. Each chunk's text is the moment it was sent (`time.monotonic`, the same for all processes
of a machine), so that its reader knows how late it came.
"""

import asyncio
import re
import time
from dataclasses import dataclass

import orjson

USAGE = {"prompt_tokens": 20, "completion_tokens": 10, "total_tokens": 30}
ANSWER = orjson.dumps(
    {
        "id": "chatcmpl-upstream",
        "object": "chat.completion",
        "created": 1_790_000_000,
        "model": "gpt-4o-mini-2024-07-18",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "A short answer, always the same."},
                "finish_reason": "stop",
            }
        ],
        "usage": USAGE,
    }
)
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
)
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_NUMBERS = re.compile(rb"(delay|chunks|every)=(\d+)")


@dataclass(frozen=True, slots=True)
class Asked:
    """What one request wants."""

    streamed: bool
    delay_seconds: float
    chunks: int
    every_seconds: float


def asked(body: bytes) -> Asked:
    """Reads the wishes in a body, without parsing it."""
    numbers = {name: int(value) for name, value in _NUMBERS.findall(body)}
    return Asked(
        streamed=re.search(rb'"stream": ?true', body) is not None,
        delay_seconds=numbers.get(b"delay", 0) / 1000,
        chunks=numbers.get(b"chunks", 10),
        every_seconds=numbers.get(b"every", 0) / 1000,
    )


def chunk(delta: dict[str, str], finish_reason: str | None = None) -> bytes:
    """One event of a stream."""
    choices = [{"index": 0, "delta": delta, "finish_reason": finish_reason}]
    return _event({"choices": choices})


def _event(more: dict[str, object]) -> bytes:
    head = {
        "id": "chatcmpl-upstream",
        "object": "chat.completion.chunk",
        "created": 1_790_000_000,
        "model": "gpt-4o-mini-2024-07-18",
    }
    return b"data: %s\n\n" % orjson.dumps(head | more)


class Connection(asyncio.Protocol):
    """One keep-alive connection, one request at a time."""

    def __init__(self) -> None:
        self._received = b""
        self._transport: asyncio.Transport | None = None
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, _: Exception | None) -> None:
        if self._task is not None:
            self._task.cancel()

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, found, rest = self._received.partition(b"\r\n\r\n")
        if not found:
            return
        length = _LENGTH.search(head)
        size = int(length[1]) if length is not None else 0
        if len(rest) < size:
            return
        self._received = rest[size:]
        self._answer(asked(rest[:size]))

    def _answer(self, wanted: Asked) -> None:
        assert self._transport is not None
        if wanted.streamed:
            self._task = asyncio.ensure_future(self._stream(self._transport, wanted))
            return
        answer = HEAD % len(ANSWER) + ANSWER
        if wanted.delay_seconds:
            loop = asyncio.get_running_loop()
            loop.call_later(wanted.delay_seconds, self._transport.write, answer)
        else:
            self._transport.write(answer)

    @staticmethod
    async def _stream(transport: asyncio.Transport, wanted: Asked) -> None:
        def send(event: bytes) -> None:
            transport.write(b"%x\r\n%s\r\n" % (len(event), event))

        transport.write(STREAM_HEAD)
        send(chunk({"role": "assistant", "content": ""}))
        for _ in range(wanted.chunks):
            # Even without a pause others get their turn.
            await asyncio.sleep(wanted.every_seconds)
            send(chunk({"content": f"sent={time.monotonic():.6f} "}))
        send(chunk({}, "stop"))
        send(_event({"choices": [], "usage": USAGE}))
        send(b"data: [DONE]\n\n")
        transport.write(b"0\r\n\r\n")


async def serve() -> None:
    """Serves until it is killed; prints the port first."""
    server = await asyncio.get_running_loop().create_server(Connection, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve())
