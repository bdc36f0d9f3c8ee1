"""HTTP to the providers: a LIFO stack of clients with one connection each.

httpcore's pool looks at all its connections on every request, so its cost grows with concurrency;
a stack of single connections, newest first, stays flat and keeps the warmest sockets in use. It
works under threads and gevent alike. Nothing is read from the environment, no redirect is
followed, no cookie kept, and nothing is ever sent twice.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

import httpx

from gateway.net.connection import Connection
from gateway.net.http11 import Origin, Request, address_of

_log = logging.getLogger(__name__)

_HEADERS = {"User-Agent": "offpeak", "Accept": "*/*", "Accept-Encoding": "identity"}


class Client(Protocol):
    """What the stack needs of a connection."""

    def send(
        self,
        request: Request,
        timeout_seconds: float,
        read_timeout_seconds: float,
        answer_timeout_seconds: float,
    ) -> httpx.Response: ...

    @property
    def idle(self) -> bool: ...

    def hung_up(self) -> bool: ...

    def close(self) -> None: ...


class _Transport:
    """Any httpx transport in a connection's place: a handler in tests, a WSGI app."""

    idle = False

    def __init__(self, transport: httpx.BaseTransport) -> None:
        self._transport = transport

    def hung_up(self) -> bool:
        return False

    def send(
        self,
        request: Request,
        timeout_seconds: float,
        read_timeout_seconds: float,
        answer_timeout_seconds: float,  # noqa: ARG002 (a connection's; httpx knows one read time-out)
    ) -> httpx.Response:
        timeout = httpx.Timeout(min(timeout_seconds, read_timeout_seconds))
        asked = httpx.Request(
            request.address.told.method,
            request.address.told.url,
            headers=dict(request.headers),
            content=request.content,
            extensions={"timeout": timeout.as_dict()},
        )
        response = self._transport.handle_request(asked)
        response.request = asked
        return response

    def close(self) -> None:
        """The transport is its giver's to close."""


class HttpClients:
    """Sends requests over kept-alive connections. Safe to share between threads and greenlets.

    `max_idle` bounds the idle connections to one origin. One that has been idle for
    `idle_seconds` is closed, not used: the server may be closing it at that very moment, and a
    POST that meets the close is ambiguous.
    """

    def __init__(
        self,
        *,
        transport: httpx.BaseTransport | None = None,
        max_idle: int = 256,
        idle_seconds: float = 15.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._transport = transport
        self._max_idle = max_idle
        self._idle_seconds = idle_seconds
        self._clock = clock
        self._ssl_context = httpx.create_ssl_context(trust_env=False)
        self._ssl_context.set_alpn_protocols(["http/1.1"])
        self._lock = threading.Lock()
        self._stacks: dict[Origin, deque[tuple[float, Client]]] = {}
        self._next_sweep = 0.0
        self._closed = False

    def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str],
        content: bytes | Iterable[bytes] | None = None,
        timeout_seconds: float,
        read_timeout_seconds: float | None = None,
        fresh: bool = False,
    ) -> httpx.Response:
        """One exchange, the body read. Raises httpx.RequestError; any status is an answer.

        `timeout_seconds` bounds the whole exchange, `read_timeout_seconds` the silence within it.
        An iterator as `content` needs a Content-Length header, else it is sent chunked. `fresh`
        dials anew, for a request whose outcome must not be lost to a connection gone stale.
        """
        with self.stream(
            method,
            url,
            headers=headers,
            content=content,
            timeout_seconds=timeout_seconds,
            read_timeout_seconds=read_timeout_seconds,
            fresh=fresh,
        ) as response:
            response.read()
        return response

    @contextmanager
    def stream(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str],
        content: bytes | Iterable[bytes] | None = None,
        timeout_seconds: float,
        read_timeout_seconds: float | None = None,
        answer_timeout_seconds: float | None = None,
        fresh: bool = False,
    ) -> Iterator[httpx.Response]:
        """Like `request`, the body being the caller's to read; left unread, the connection ends.

        `answer_timeout_seconds` bounds the silence before the headers, where that may be longer.
        """
        request = Request(address_of(method, url), {**_HEADERS, **headers}, content)
        origin = request.address.origin
        client = self._dial(origin) if fresh else self._take(origin)
        started = time.monotonic()
        status: int | None = None
        try:
            silence = read_timeout_seconds or timeout_seconds
            response = client.send(
                request, timeout_seconds, silence, answer_timeout_seconds or silence
            )
            status = response.status_code
            try:
                yield response
            finally:
                response.close()
        finally:
            self._give_back(origin, client)
            _log_exchange(request, status, time.monotonic() - started)

    def close(self) -> None:
        """Closes the idle connections; those in use close when their exchange ends."""
        with self._lock:
            self._closed = True
            idle = [client for stack in self._stacks.values() for _, client in stack]
            self._stacks.clear()
        _close_all(idle)

    def _dial(self, origin: Origin) -> Client:
        if self._transport is not None:
            return _Transport(self._transport)
        return Connection(origin, self._ssl_context)

    def _take(self, origin: Origin) -> Client:
        while True:
            with self._lock:
                stack = self._stacks.get(origin)
                idle_since, client = stack.pop() if stack else (0.0, None)
            if client is None:
                return self._dial(origin)
            if idle_since > self._clock() - self._idle_seconds and not client.hung_up():
                return client
            client.close()

    def _give_back(self, origin: Origin, client: Client) -> None:
        now = self._clock()
        dropped: list[Client] = []
        with self._lock:
            stack = self._stacks.setdefault(origin, deque())
            if self._closed or len(stack) >= self._max_idle or not client.idle:
                dropped.append(client)
            else:
                stack.append((now, client))
            if now >= self._next_sweep:
                self._next_sweep = now + self._idle_seconds
                dropped += self._sweep(now - self._idle_seconds)
        _close_all(dropped)

    def _sweep(self, idle_before: float) -> list[Client]:
        """Takes out what has been idle too long, of every origin: the bottoms of the stacks."""
        old: list[Client] = []
        for stack in self._stacks.values():
            while stack and stack[0][0] <= idle_before:
                old.append(stack.popleft()[1])
        return old


def _close_all(clients: Iterable[Client]) -> None:
    for client in clients:
        client.close()


def _log_exchange(request: Request, status: int | None, seconds: float) -> None:
    if _log.isEnabledFor(logging.DEBUG):
        fields = {
            "method": request.address.told.method,
            "host": request.address.told.url.host,
            "path": request.address.told.url.path,
            "status": status,
            "milliseconds": round(seconds * 1000),
        }
        _log.debug("http exchange", extra=fields)
