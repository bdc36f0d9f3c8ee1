"""The exchanges that every dialect has with its provider, and the files that go to and fro."""

import itertools
import re
import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, NamedTuple

import httpx
import orjson

from gateway.net.connection import DEADLINE, Deadline
from gateway.net.http import HttpClients
from gateway.providers.dialect import Broken, Credential, Rejected, StreamPiece, Unauthorized
from gateway.providers.errors import LEAVES_A_TRACE, Act, from_status, from_transport, unreadable
from gateway.providers.fields import JsonObject, decode_object
from gateway.providers.streams import ErrorEvent, Translation, pieces, unstarted, until_broken

CONTROL_TIMEOUT_SECONDS = 60.0
TRANSFER_TIMEOUT_SECONDS = 1_800.0
_SILENCE_SECONDS = 120.0
_FAREWELL_SECONDS = 0.5
_CHUNK_BYTES = 256 * 1024
_JSON = "application/json"
_EVENT_STREAM = "text/event-stream"
_PRINTABLE = re.compile(r"[\x21-\x7e]+")
_FILE_NAME = re.compile(r"[A-Za-z0-9._-]+")
_CUT_SHORT = (httpx.RemoteProtocolError, httpx.ReadError, httpx.DecodingError)


class Payload(NamedTuple):
    """A body to send: bytes, or chunks whose total length is known."""

    content: bytes | Iterable[bytes]
    length: int
    content_type: str = _JSON


class Wire:
    """Sends one provider's requests and raises its failures as ProviderError."""

    def __init__(
        self,
        http: HttpClients,
        provider: str,
        authenticate: Callable[[str], dict[str, str]],
        path: str = "",
    ) -> None:
        """`path` follows the base URL, unless that has it already."""
        self._http = http
        self._provider = provider
        self._authenticate = authenticate
        self._path = path

    def exchange(
        self,
        act: Act,
        credential: Credential,
        method: str,
        path: str,
        payload: Payload | bytes | None = None,
        timeout_seconds: float = CONTROL_TIMEOUT_SECONDS,
    ) -> JsonObject:
        """One exchange, answered by a JSON object."""
        headers = self._headers(credential)
        if isinstance(payload, bytes):
            payload = Payload(payload, len(payload))
        if payload is not None:
            headers["Content-Type"] = payload.content_type
            headers["Content-Length"] = str(payload.length)
        try:
            response = self._http.request(
                method,
                self._url(credential, path),
                headers=headers,
                content=payload.content if payload else None,
                timeout_seconds=timeout_seconds,
                read_timeout_seconds=timeout_seconds if act is Act.CALL else _SILENCE_SECONDS,
                # What leaves a trace must not meet a kept connection that the server has just
                # closed: that would put a creation in doubt which never began.
                fresh=act in LEAVES_A_TRACE,
            )
        except (httpx.RequestError, httpx.InvalidURL) as error:
            # Without the cause, whose message could end up in a log with a header in it.
            raise from_transport(self._provider, act, error) from None
        self._check(act, credential, response)
        try:
            return decode_object(response.content)
        except ValueError:
            raise unreadable(self._provider, act) from None

    @contextmanager
    def stream(
        self,
        credential: Credential,
        path: str,
        body: bytes,
        translation: Translation,
        timeout_seconds: float,
        silence_seconds: float,
    ) -> Iterator[Iterator[StreamPiece]]:
        """A call whose answer is a stream: see `Dialect.stream`.

        The provider may take the whole time for the headers, and then be silent for
        `silence_seconds` at a time; comments and pings break a silence.
        """
        headers = {**self._headers(credential), "Content-Type": _JSON, "Accept": _EVENT_STREAM}
        with ExitStack() as stack:
            try:
                response = stack.enter_context(
                    self._http.stream(
                        "POST",
                        self._url(credential, path),
                        headers=headers,
                        content=body,
                        timeout_seconds=timeout_seconds,
                        read_timeout_seconds=silence_seconds,
                        answer_timeout_seconds=timeout_seconds,
                    )
                )
                if not response.is_success:
                    response.read()
                self._check(Act.CALL, credential, response)
                chunks = _body(response)
                started = pieces(chunks, translation)
                first = next(started, None)
            except ErrorEvent as event:
                raise unstarted(self._provider, credential.api_key, event) from None
            except (httpx.RequestError, httpx.InvalidURL) as error:
                raise from_transport(self._provider, Act.CALL, error) from None
            if first is None:
                raise unreadable(self._provider, Act.CALL)
            further = until_broken(started, translation, self._provider, credential.api_key)
            yield itertools.chain((first,), further)
            if translation.over:
                _read_out(response, chunks)

    def download(self, credential: Credential, path: str, destination: Path) -> None:
        """Streams a body to `destination`, which exists only once it is complete.

        A body whose length nobody told cannot be checked; its last line will tell.
        """
        partial = destination.with_name(destination.name + ".part")
        try:
            with (
                self._http.stream(
                    "GET",
                    self._url(credential, path),
                    headers=self._headers(credential),
                    timeout_seconds=TRANSFER_TIMEOUT_SECONDS,
                    read_timeout_seconds=_SILENCE_SECONDS,
                ) as response,
                partial.open("wb") as file,
            ):
                if not response.is_success:
                    response.read()
                self._check(Act.SAFE, credential, response)
                self._save(response, file)
            partial.replace(destination)
        except (httpx.RequestError, httpx.InvalidURL) as error:
            raise from_transport(self._provider, Act.SAFE, error) from None
        finally:
            partial.unlink(missing_ok=True)

    def _save(self, response: httpx.Response, file: BinaryIO) -> None:
        try:
            for chunk in response.iter_bytes():
                file.write(chunk)
        except _CUT_SHORT:
            raise Broken(f"a download from {self._provider} was cut short") from None
        expected = response.headers.get("content-length")
        # A handler or proxy that decodes on the way leaves a length that says nothing.
        encoded = "content-encoding" in response.headers
        if expected is not None and not encoded and int(expected) != file.tell():
            raise Broken(f"a download from {self._provider} was cut short")

    def _check(self, act: Act, credential: Credential, response: httpx.Response) -> None:
        if not response.is_success:
            raise from_status(self._provider, act, response, credential.api_key, time.time())

    def _url(self, credential: Credential, path: str) -> str:
        return credential.base_url.rstrip("/").removesuffix(self._path) + self._path + path

    def _headers(self, credential: Credential) -> dict[str, str]:
        if not _PRINTABLE.fullmatch(credential.api_key):
            raise Unauthorized(f"the key for {self._provider} is malformed")
        return self._authenticate(credential.api_key)


def _body(response: httpx.Response) -> Iterator[bytes]:
    """The body as it comes; httpx's own iterator, which costs more, where it must be decoded."""
    if "content-encoding" in response.headers or not isinstance(
        response.stream, httpx.SyncByteStream
    ):
        return response.iter_bytes()
    return iter(response.stream)


def _read_out(response: httpx.Response, chunks: Iterator[bytes]) -> None:
    """Reads the little that may follow a stream's last event, so that its connection is kept."""
    deadline = response.extensions.get(DEADLINE)
    if isinstance(deadline, Deadline):
        deadline.hasten(_FAREWELL_SECONDS)
    with suppress(httpx.RequestError):
        for _ in chunks:
            continue


def encode(body: JsonObject) -> bytes:
    """A body as JSON; Rejected if it holds what JSON in UTF-8 cannot, such as a lone surrogate."""
    try:
        return orjson.dumps(body)
    except TypeError:
        raise Rejected("the body holds a value that JSON cannot carry", status=400) from None


def file_payload(path: Path) -> Payload:
    """A whole file as a JSON body, read while it is sent."""
    length = path.stat().st_size
    return Payload(_chunks(path, length), length)


def multipart_payload(path: Path, file_name: str, fields: dict[str, str]) -> Payload:
    """A file and some plain fields as multipart/form-data (RFC 7578), read while it is sent."""
    if not _FILE_NAME.fullmatch(file_name):
        raise ValueError("a file name is letters, digits, dots, dashes and underscores")
    boundary = secrets.token_hex(16)
    head = "".join(
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in fields.items()
    ).encode()
    head += (
        f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{file_name}"\r\n'
        "Content-Type: application/jsonl\r\n\r\n"
    ).encode()
    tail = f"\r\n--{boundary}--\r\n".encode()
    length = path.stat().st_size
    return Payload(
        itertools.chain((head,), _chunks(path, length), (tail,)),
        len(head) + length + len(tail),
        f"multipart/form-data; boundary={boundary}",
    )


def _chunks(path: Path, length: int) -> Iterator[bytes]:
    """Exactly `length` bytes, since that many are announced; OSError if the file has changed."""
    with path.open("rb") as file:
        while length:
            chunk = file.read(min(_CHUNK_BYTES, length))
            if not chunk:
                raise OSError(f"{path.name} became shorter while it was sent")
            length -= len(chunk)
            yield chunk
