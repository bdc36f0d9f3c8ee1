"""HTTP/1.1 over a stream of bytes: requests written, answers read by llhttp, Node's parser.

httpcore's own connection is built on h11, which is written in Python and took longer than all else
that a call does here. What httpcore dials and how it reads and writes stays as it is.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import httpcore
import httptools
import httpx

READ_BYTES = 64 * 1024
HEAD_MAX_BYTES = 100 * 1024
"""Of an answer's status line and headers."""
_WITH_BODY = frozenset({"POST", "PUT", "PATCH"})
_BREAKS_LINES = re.compile(r"[\0\r\n]")
OK = 200

Headers = list[tuple[bytes, bytes]]
Content = bytes | Iterable[bytes] | None


class Origin(NamedTuple):
    """What a connection is made to."""

    scheme: str
    host: str
    port: int


@dataclass(frozen=True, slots=True)
class Address:
    """Where a request goes: the origin, and what the request's first lines say of it.

    `told` is the request without its headers and body, for what is told of its answer.
    """

    told: httpx.Request
    origin: Origin
    host: str
    target: str


@lru_cache(maxsize=1024)
def address_of(method: str, url: str) -> Address:
    """Raises httpx.InvalidURL and httpx.UnsupportedProtocol. Calls go to the same few, again."""
    parsed = httpx.URL(url)
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise httpx.UnsupportedProtocol("a full http:// or https:// URL is needed")
    default_port = 443 if parsed.scheme == "https" else 80
    origin = Origin(parsed.scheme, parsed.raw_host.decode("ascii"), parsed.port or default_port)
    return Address(
        httpx.Request(method, parsed),
        origin,
        parsed.netloc.decode("ascii"),
        parsed.raw_path.decode("ascii"),
    )


@dataclass(frozen=True, slots=True)
class Request:
    """What is sent. An iterator without a Content-Length among the headers goes in chunks."""

    address: Address
    headers: Mapping[str, str]
    content: Content


class Exchanges:
    """The exchanges of one stream, one after another. Raises httpcore's errors."""

    def __init__(self, stream: httpcore.NetworkStream) -> None:
        self._stream = stream
        self._parser = httptools.HttpResponseParser(self)
        self._status = 0
        self._headers: Headers = []
        self._pieces: list[bytes] = []
        self._sent = self._has_head = self._complete = self._kept_alive = self._excess = False
        self._ends_by_hanging_up = True

    @property
    def idle(self) -> bool:
        """Whether the last exchange is over, all of it read, and another may follow."""
        is_over = self._sent and self._complete and not self._pieces
        return is_over and self._kept_alive and not self._excess

    def send(self, request: Request) -> tuple[int, Headers]:
        """Sends a request; the status and the headers of its answer."""
        self._begin()
        try:
            self._write(request)
        except httpcore.WriteError:
            # A server may refuse before it has read everything: its answer tells why.
            pass
        else:
            self._sent = True
        head_bytes = 0
        while not self._has_head:
            data = self._stream.read(READ_BYTES)
            if not data:
                raise httpcore.RemoteProtocolError("the server hung up without an answer")
            self._feed(data)
            head_bytes += len(data)
            if head_bytes > HEAD_MAX_BYTES and not self._has_head:
                raise httpcore.RemoteProtocolError("the answer's headers are too long")
        return self._status, self._headers

    def body(self) -> Iterator[bytes]:
        """The answer's body in the pieces in which it comes."""
        while True:
            pieces, self._pieces = self._pieces, []
            yield from pieces
            if self._complete:
                return
            data = self._stream.read(READ_BYTES)
            if data:
                self._feed(data)
            elif self._ends_by_hanging_up:
                self._complete = True
            else:
                raise httpcore.RemoteProtocolError("the server hung up in the middle of its answer")

    def _begin(self) -> None:
        self._headers, self._pieces = [], []
        self._sent = self._has_head = self._complete = self._kept_alive = self._excess = False
        self._ends_by_hanging_up = True

    def _write(self, request: Request) -> None:
        head, length = _head(request)
        content = request.content
        if isinstance(content, bytes | None):
            _require(length == len(content or b""))
            self._stream.write(head + (content or b""))
            return
        self._stream.write(head)
        sent = 0
        for chunk in content:
            sent += len(chunk)
            _require(length is None or sent <= length)
            if chunk:
                self._stream.write(
                    chunk if length is not None else b"%x\r\n%b\r\n" % (len(chunk), chunk)
                )
        if length is None:
            self._stream.write(b"0\r\n\r\n")
        else:
            _require(sent == length)

    def _feed(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            raise httpcore.RemoteProtocolError(f"the answer is no HTTP/1.1: {error}") from None

    # What the parser calls.

    def on_message_begin(self) -> None:
        """Something comes after the answer that was asked for, or this is its first byte."""
        self._excess = self._complete

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header; or, behind a body in chunks, a trailer, which nobody asked for."""
        if not self._has_head:
            self._headers.append((name, value))
            if name.lower() in (b"content-length", b"transfer-encoding"):
                self._ends_by_hanging_up = False

    def on_headers_complete(self) -> None:
        """The head is there: the answer's own, or one that only says to wait for it."""
        if not self._excess:
            self._status = self._parser.get_status_code()
            self._has_head = self._status >= OK

    def on_body(self, data: bytes) -> None:
        """A piece of the body."""
        if not self._excess:
            self._pieces.append(data)

    def on_message_complete(self) -> None:
        """The end of the answer, or of the word before it."""
        self._complete = self._has_head
        self._kept_alive = self._parser.should_keep_alive()
        if not self._has_head:
            self._headers, self._ends_by_hanging_up = [], True


def _head(request: Request) -> tuple[bytes, int | None]:
    """A request's first lines, and how long its body is to be; None if it goes in chunks."""
    given, method = request.headers, request.address.told.method
    if _BREAKS_LINES.search("".join((*given, *given.values()))):
        raise httpcore.LocalProtocolError("a header holds what would end it")
    lines = [f"{method} {request.address.target} HTTP/1.1", f"Host: {request.address.host}"]
    lines += [f"{name}: {value}" for name, value in given.items()]
    content, told = request.content, given.get("Content-Length")
    length = int(told) if told is not None else None
    if told is None and isinstance(content, bytes | None):
        length = len(content or b"")
        if content or method in _WITH_BODY:
            lines.append(f"Content-Length: {length}")
    elif told is None:
        lines.append("Transfer-Encoding: chunked")
    return "\r\n".join((*lines, "", "")).encode("ascii"), length


def _require(has_length: bool) -> None:
    if not has_length:
        raise httpcore.LocalProtocolError("the body has not the length that was announced")
