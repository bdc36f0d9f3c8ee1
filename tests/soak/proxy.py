"""TCP proxies between our processes and what they talk to, which can be told to fail.

One thread runs the event loop of all of them. Every fault is drawn from a seeded generator for
one piece of data on its way, and counted:

    cut      the connection breaks before the piece arrives
    muted    the piece arrives and is acted on; its answer is lost and the connection breaks
    delayed  the piece arrives late
    dripped  the piece arrives one byte at a time
"""

import asyncio
import random
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Self

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Dial = Callable[[], Awaitable[Streams]]

CHUNK_BYTES = 65_536
DRIP_SECONDS = 0.001
DRIP_MOST_BYTES = 2_000


@dataclass(frozen=True, slots=True)
class Rough:
    """How likely each fault is for one piece of data. `words` are those of a muted piece."""

    cut: float = 0.0
    muted: float = 0.0
    delayed: float = 0.0
    dripped: float = 0.0
    words: bytes = b""
    delay_seconds: float = 2.0


SMOOTH = Rough()


class Proxies:
    """The thread that all proxies live on. Use as a context manager."""

    def __init__(self, seed: int) -> None:
        self.struck: Counter[str] = Counter()
        self._random = random.Random(seed)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxies")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self.run(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        """Does something on the loop, from another thread."""
        asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def to_tcp(self, name: str, port: int) -> "Proxy":
        """A proxy to a port of this machine."""
        return self._start(name, lambda: asyncio.open_connection("127.0.0.1", port))

    def to_unix(self, name: str, path: str) -> "Proxy":
        """A proxy to a Unix socket."""
        return self._start(name, lambda: asyncio.open_unix_connection(path))

    def _start(self, name: str, dial: Dial) -> "Proxy":
        proxy = Proxy(name, dial, self._random, self.struck)
        self.run(proxy.listen())
        return proxy

    async def _end(self) -> None:
        tasks = asyncio.all_tasks(self._loop) - {asyncio.current_task(self._loop)}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class Proxy:
    """One way to one server. `rough` may be set at any time, from any thread."""

    def __init__(
        self, name: str, dial: Dial, randomness: random.Random, struck: Counter[str]
    ) -> None:
        self.rough = SMOOTH
        self.port = 0
        self._name = name
        self._dial = dial
        self._random = randomness
        self._struck = struck
        self._server: asyncio.Server | None = None

    async def listen(self) -> None:
        """Takes a free port of this machine."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            upstream_reader, upstream_writer = await self._dial()
        except OSError:
            writer.transport.abort()
            return
        link = _Link(writer, upstream_writer)
        try:
            await asyncio.gather(
                self._pass(link, reader, upstream_writer, are_requests=True),
                self._pass(link, upstream_reader, writer, are_requests=False),
            )
        except OSError:
            link.break_off()
        finally:
            link.break_off()

    async def _pass(
        self,
        link: "_Link",
        source: asyncio.StreamReader,
        sink: asyncio.StreamWriter,
        *,
        are_requests: bool,
    ) -> None:
        """Pieces in one direction, until either side ends."""
        while data := await source.read(CHUNK_BYTES):
            if link.is_muted and not are_requests:
                break
            rough = self.rough
            if rough is not SMOOTH:
                if self._strikes("cut", rough.cut):
                    break
                if are_requests and rough.words in data and self._strikes("muted", rough.muted):
                    link.is_muted = True
                if self._strikes("delayed", rough.delayed):
                    await asyncio.sleep(self._random.uniform(0.1, 1.0) * rough.delay_seconds)
                if self._strikes("dripped", rough.dripped):
                    data = await _drip(data, sink)
            sink.write(data)
            await sink.drain()
        link.break_off()

    def _strikes(self, fault: str, probability: float) -> bool:
        strikes = self._random.random() < probability
        if strikes:
            self._struck[f"{self._name} {fault}"] += 1
        return strikes


class _Link:
    """A client's connection and its own to the server, which end together."""

    def __init__(self, client: asyncio.StreamWriter, upstream: asyncio.StreamWriter) -> None:
        self.is_muted = False
        self._ends = (client, upstream)

    def break_off(self) -> None:
        for end in self._ends:
            # What was written before still goes out; a peer that is gone cannot mind.
            end.close()


async def _drip(data: bytes, sink: asyncio.StreamWriter) -> bytes:
    """The beginning byte by byte; the rest, to go out at once."""
    for position in range(min(len(data), DRIP_MOST_BYTES)):
        sink.write(data[position : position + 1])
        await sink.drain()
        await asyncio.sleep(DRIP_SECONDS)
    return data[DRIP_MOST_BYTES:]
