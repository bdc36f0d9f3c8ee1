"""One HTTP/1.1 connection on which every single wait ends at the exchange's deadline."""

import ssl
import time
from collections.abc import Iterable, Iterator
from typing import Any

import httpcore
import httpx

from gateway.net.http11 import Exchanges, Origin, Request

CONNECT_TIMEOUT_SECONDS = 10.0
DEADLINE = "deadline"
_WRITE_BYTES = 16 * 1024

_EXCEPTIONS: dict[type[Exception], type[httpx.TransportError]] = {
    httpcore.ConnectTimeout: httpx.ConnectTimeout,
    httpcore.ReadTimeout: httpx.ReadTimeout,
    httpcore.WriteTimeout: httpx.WriteTimeout,
    httpcore.PoolTimeout: httpx.PoolTimeout,
    httpcore.ConnectError: httpx.ConnectError,
    httpcore.ReadError: httpx.ReadError,
    httpcore.WriteError: httpx.WriteError,
    httpcore.LocalProtocolError: httpx.LocalProtocolError,
    httpcore.RemoteProtocolError: httpx.RemoteProtocolError,
}


class Deadline:
    """When the exchange that now runs must be over, and how long it may be silent until then.

    The one of a connection is in the `extensions` of its answers, as `DEADLINE`.
    """

    def __init__(self) -> None:
        self._at = 0.0
        self._silence_seconds = 0.0

    def set(self, timeout_seconds: float, silence_seconds: float) -> None:
        """Starts an exchange, now."""
        self._at = time.monotonic() + timeout_seconds
        self._silence_seconds = silence_seconds

    def expect(self, silence_seconds: float) -> None:
        """From now on, the exchange may be silent for so long at a time."""
        self._silence_seconds = silence_seconds

    def hasten(self, seconds: float) -> None:
        """Whatever was allowed, the exchange now ends within this time."""
        self._at = min(self._at, time.monotonic() + seconds)

    def cap(self, timeout: float | None, late: type[Exception]) -> float:
        """Seconds that the next wait may take; raises `late` when there are none left."""
        remaining = self._at - time.monotonic()
        if remaining <= 0.0:
            raise late("the deadline of the exchange has passed")
        return min(self._silence_seconds if timeout is None else timeout, remaining)


class _Stream(httpcore.NetworkStream):
    """A socket whose waits are capped. Plain time-outs start anew with every byte that drips."""

    def __init__(self, inner: httpcore.NetworkStream, deadline: Deadline) -> None:
        self._inner = inner
        self._deadline = deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._inner.read(max_bytes, self._deadline.cap(timeout, httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        # In slices, since the inner write gives every partial send the whole time-out again.
        for start in range(0, len(buffer), _WRITE_BYTES):
            seconds = self._deadline.cap(timeout, httpcore.WriteTimeout)
            self._inner.write(buffer[start : start + _WRITE_BYTES], seconds)

    def close(self) -> None:
        self._inner.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        seconds = self._deadline.cap(timeout, httpcore.ConnectTimeout)
        return _Stream(self._inner.start_tls(ssl_context, server_hostname, seconds), self._deadline)

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)


class _Backend(httpcore.NetworkBackend):
    def __init__(self, deadline: Deadline) -> None:
        self._inner = httpcore.SyncBackend()
        self._deadline = deadline

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        seconds = self._deadline.cap(timeout, httpcore.ConnectTimeout)
        stream = self._inner.connect_tcp(host, port, seconds, local_address, socket_options)
        return _Stream(stream, self._deadline)


class _Body(httpx.SyncByteStream):
    """An answer's body as it arrives; closing it early closes the connection."""

    def __init__(self, connection: "Connection", pieces: Iterator[bytes]) -> None:
        self._connection = connection
        self._pieces = pieces

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield from self._pieces
        except tuple(_EXCEPTIONS) as error:
            raise _as_httpx(error) from error

    def close(self) -> None:
        if not self._connection.idle:
            self._connection.close()


class Connection:
    """One connection to one origin, one exchange at a time; dials when first used."""

    def __init__(self, origin: Origin, ssl_context: ssl.SSLContext) -> None:
        self._origin = origin
        self._ssl_context = ssl_context
        self._deadline = Deadline()
        self._stream: httpcore.NetworkStream | None = None
        self._exchanges: Exchanges | None = None

    def send(
        self,
        request: Request,
        timeout_seconds: float,
        read_timeout_seconds: float,
        answer_timeout_seconds: float,
    ) -> httpx.Response:
        """Sends, and returns at the answer's headers. The deadline also holds for its body.

        The server may be silent for `answer_timeout_seconds` before the headers, and for
        `read_timeout_seconds` at a time after them.
        """
        self._deadline.set(timeout_seconds, answer_timeout_seconds)
        try:
            exchanges = self._exchanges or self._dial()
            status, headers = exchanges.send(request)
        except tuple(_EXCEPTIONS) as error:
            self.close()
            raise _as_httpx(error) from error
        except BaseException:
            self.close()
            raise
        self._deadline.expect(read_timeout_seconds)
        return httpx.Response(
            status,
            headers=headers,
            stream=_Body(self, exchanges.body()),
            request=request.address.told,
            extensions={DEADLINE: self._deadline},
        )

    @property
    def idle(self) -> bool:
        """Whether the last exchange ended cleanly, so that another may follow."""
        return self._exchanges is not None and self._exchanges.idle

    def hung_up(self) -> bool:
        """Whether the server has closed the idle connection, or says what nobody asked for.

        One system call. TLS answers by itself what is not meant for us.
        """
        assert self._stream is not None  # a connection that is idle has been dialled
        socket = self._stream.get_extra_info("socket")
        socket.settimeout(0.0)
        try:
            socket.recv(1)
        except (BlockingIOError, ssl.SSLWantReadError):
            return False
        except OSError:
            return True
        return True

    def close(self) -> None:
        self._exchanges = None
        if self._stream is not None:
            self._stream.close()

    def _dial(self) -> Exchanges:
        scheme, host, port = self._origin
        self._stream = _Backend(self._deadline).connect_tcp(host, port, CONNECT_TIMEOUT_SECONDS)
        if scheme == "https":
            self._stream = self._stream.start_tls(self._ssl_context, host, CONNECT_TIMEOUT_SECONDS)
        self._exchanges = Exchanges(self._stream)
        return self._exchanges


def _as_httpx(error: Exception) -> httpx.TransportError:
    return _EXCEPTIONS[type(error)](str(error))
