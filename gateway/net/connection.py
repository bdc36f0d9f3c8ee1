"""One HTTP/1.1 connection on which every single wait ends at the exchange's deadline."""

import ssl
import time
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import httpcore
import httpx

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


class Origin(NamedTuple):
    """What a connection is made to."""

    scheme: str
    host: str
    port: int

    @classmethod
    def of(cls, url: httpx.URL) -> "Origin":
        if url.scheme not in ("http", "https") or not url.host:
            raise httpx.UnsupportedProtocol("a full http:// or https:// URL is needed")
        default_port = 443 if url.scheme == "https" else 80
        return cls(url.scheme, url.raw_host.decode("ascii"), url.port or default_port)


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

    def __init__(self, response: httpcore.Response) -> None:
        self._response = response

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield from self._response.iter_stream()
        except tuple(_EXCEPTIONS) as error:
            raise _as_httpx(error) from error

    def close(self) -> None:
        self._response.close()


class Connection:
    """One connection to one origin, one exchange at a time; dials when first used."""

    def __init__(self, origin: Origin, ssl_context: ssl.SSLContext) -> None:
        self._deadline = Deadline()
        self._http = httpcore.HTTPConnection(
            origin=httpcore.Origin(origin.scheme.encode(), origin.host.encode(), origin.port),
            ssl_context=ssl_context,
            network_backend=_Backend(self._deadline),
        )

    def send(
        self,
        request: httpx.Request,
        timeout_seconds: float,
        read_timeout_seconds: float,
        answer_timeout_seconds: float,
    ) -> httpx.Response:
        """Sends, and returns at the answer's headers. The deadline also holds for its body.

        The server may be silent for `answer_timeout_seconds` before the headers, and for
        `read_timeout_seconds` at a time after them.
        """
        self._deadline.set(timeout_seconds, answer_timeout_seconds)
        url = request.url
        target = httpcore.URL(
            scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path
        )
        try:
            response = self._http.handle_request(
                httpcore.Request(
                    request.method,
                    target,
                    headers=request.headers.raw,
                    content=request.stream,
                    extensions={"timeout": {"connect": CONNECT_TIMEOUT_SECONDS}},
                )
            )
        except tuple(_EXCEPTIONS) as error:
            raise _as_httpx(error, request) from error
        self._deadline.expect(read_timeout_seconds)
        return httpx.Response(
            response.status,
            headers=response.headers,
            stream=_Body(response),
            request=request,
            extensions={DEADLINE: self._deadline},
        )

    @property
    def idle(self) -> bool:
        """Whether the last exchange ended cleanly, so that another may follow."""
        return self._http.is_idle()

    def hung_up(self) -> bool:
        """Whether the server has closed the idle connection: one system call."""
        return self._http.has_expired()

    def close(self) -> None:
        self._http.close()


def _as_httpx(error: Exception, request: httpx.Request | None = None) -> httpx.TransportError:
    return _EXCEPTIONS[type(error)](str(error), request=request)
