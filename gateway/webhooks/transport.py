"""One POST to an address that has been checked, over by its deadline whatever the server does."""

import socket
import ssl
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import httpcore
import httpx

from gateway.net.guard import Dialler, host_of

TIMEOUT_SECONDS = 15.0
BODY_READ_MAX_BYTES = 64 * 1024
EXCERPT_MAX_BYTES = 512
# The body's share, and headers: an endless row of interim answers must not keep us reading.
_RECEIVED_MAX_BYTES = 4 * BODY_READ_MAX_BYTES


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: the status, the headers, and the first bytes of the body as safe text."""

    status: int
    headers: Mapping[str, str]
    excerpt: str


def post(
    transport: httpx.BaseTransport, url: str, headers: Mapping[str, str], body: bytes
) -> Answer:
    """Sends one POST; redirects are answers like any other, and nothing is inflated.

    Raises httpx.TransportError when no status line came, RefusedAddress when none was asked for.
    A body that is cut off or never ends does not change the status that came before it.
    """
    asked = {"Accept": "*/*", "Accept-Encoding": "identity", "Connection": "close", **headers}
    response = transport.handle_request(httpx.Request("POST", url, headers=asked, content=body))
    try:
        return Answer(response.status_code, response.headers, _excerpt(response))
    finally:
        response.close()


def _excerpt(response: httpx.Response) -> str:
    assert isinstance(response.stream, httpx.SyncByteStream)
    kept, received = b"", 0
    try:
        for chunk in response.stream:
            kept += chunk[: EXCERPT_MAX_BYTES - len(kept)]
            received += len(chunk)
            if received >= BODY_READ_MAX_BYTES:
                break
    except httpx.TransportError:
        return safe_text(kept)
    return safe_text(kept)


def safe_text(raw: bytes) -> str:
    """UTF-8 as far as it is, with a space for whatever does not print."""
    text = raw.decode("utf-8", errors="replace")
    return "".join(character if character.isprintable() else " " for character in text)


class GuardedTransport(httpx.BaseTransport):
    """An httpx transport that dials only what the guard lets by, a connection a request.

    The whole exchange, looking up the name and reading the body included, has `timeout_seconds`.
    TLS asks for and verifies the URL's host name, whatever address was dialled. Nothing is read
    from the environment: no proxy, no certificate store.
    """

    def __init__(
        self,
        dialler: Dialler,
        *,
        timeout_seconds: float = TIMEOUT_SECONDS,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self._dialler = dialler
        self._timeout_seconds = timeout_seconds
        self._ssl_context = ssl_context or httpx.create_ssl_context(trust_env=False)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Returns at the answer's headers; raises httpx.TransportError or RefusedAddress."""
        url = request.url
        core_url = httpcore.URL(
            scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path
        )
        with _httpx_errors(request):
            connection = httpcore.HTTP11Connection(core_url.origin, self._open(url))
            response = connection.handle_request(
                httpcore.Request(
                    request.method, core_url, headers=request.headers.raw, content=request.stream
                )
            )
        return httpx.Response(
            response.status, headers=response.headers, stream=_Body(request, connection, response)
        )

    def _open(self, url: httpx.URL) -> "_Stream":
        ends_at = time.monotonic() + self._timeout_seconds
        host = host_of(url)
        secure = url.scheme == "https"
        port = url.port or (443 if secure else 80)
        connection = self._dialler.dial(host, port, self._timeout_seconds)
        if secure:
            connection = _secure(connection, self._ssl_context, host, ends_at)
        return _Stream(connection, ends_at)


def _secure(
    connection: socket.socket, ssl_context: ssl.SSLContext, host: str, ends_at: float
) -> ssl.SSLSocket:
    try:
        # The handshake as a whole has this time, however its bytes drip.
        connection.settimeout(max(ends_at - time.monotonic(), 0.001))
        return ssl_context.wrap_socket(connection, server_hostname=host)
    except TimeoutError as error:
        connection.close()
        raise TimeoutError("the TLS handshake timed out") from error
    except OSError:
        connection.close()
        raise


class _Stream(httpcore.NetworkStream):
    """A socket on which every single wait ends at the exchange's deadline."""

    def __init__(self, connection: socket.socket, ends_at: float) -> None:
        self._socket = connection
        self._ends_at = ends_at
        self._received_bytes = 0

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        if self._received_bytes >= _RECEIVED_MAX_BYTES:
            raise httpcore.ReadError("the answer is too long")
        self._allow(timeout, httpcore.ReadTimeout)
        try:
            received = self._socket.recv(max_bytes)
        except TimeoutError as error:
            raise httpcore.ReadTimeout("timed out") from error
        except OSError as error:
            raise httpcore.ReadError(_describe(error)) from error
        self._received_bytes += len(received)
        return received

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        rest = memoryview(buffer)
        while rest:
            self._allow(timeout, httpcore.WriteTimeout)
            try:
                rest = rest[self._socket.send(rest) :]
            except TimeoutError as error:
                raise httpcore.WriteTimeout("timed out") from error
            except OSError as error:
                raise httpcore.WriteError(_describe(error)) from error

    def close(self) -> None:
        self._socket.close()

    def _allow(self, timeout: float | None, late: type[Exception]) -> None:
        remaining = self._ends_at - time.monotonic()
        if remaining <= 0.0:
            raise late("timed out")
        self._socket.settimeout(remaining if timeout is None else min(timeout, remaining))


class _Body(httpx.SyncByteStream):
    """An answer's body as it arrives; the connection ends with it."""

    def __init__(
        self,
        request: httpx.Request,
        connection: httpcore.HTTP11Connection,
        response: httpcore.Response,
    ) -> None:
        self._request = request
        self._connection = connection
        self._response = response

    def __iter__(self) -> Iterator[bytes]:
        with _httpx_errors(self._request):
            yield from self._response.iter_stream()

    def close(self) -> None:
        self._response.close()
        self._connection.close()


@contextmanager
def _httpx_errors(request: httpx.Request) -> Iterator[None]:
    """Says in httpx's terms what the socket, the resolver or httpcore raised."""
    try:
        yield
    except (httpcore.TimeoutException, TimeoutError) as error:
        raise httpx.ReadTimeout(str(error), request=request) from error
    except httpcore.ProtocolError as error:
        # Not in the parser's words: they quote what came, which may be an echo of what we sent.
        raise httpx.ProtocolError("no valid HTTP answer came", request=request) from error
    except httpcore.NetworkError as error:
        raise httpx.NetworkError(str(error), request=request) from error
    except OSError as error:
        raise httpx.ConnectError(_describe(error), request=request) from error


def _describe(error: OSError) -> str:
    """The failure in the system's words: no address, no library's jargon."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"TLS certificate not accepted: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"TLS failed: {error.reason}"
    return error.strerror or str(error) or type(error).__name__
