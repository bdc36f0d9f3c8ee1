"""Streams over real sockets: who closes what, what is kept, and how long silence may last."""

import gzip
import socket
import threading
import time
from collections.abc import Callable, Iterator

import httpx
import pytest

from gateway.net.http import HttpClients
from gateway.providers.accents import as_it_is
from gateway.providers.dialect import Credential, StreamBroken, Unavailable
from gateway.providers.openai import OpenAI
from gateway.providers.openai_stream import OpenAIPieces
from gateway.providers.wire import Wire
from tests.unit.raw_server import Behaviour, Server, receive
from tests.unit.recorder import BODY
from tests.unit.streaming import USAGE, chunk, events

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
HELLO = chunk({"content": "hello"})
STOP = chunk({}, "stop")
TOTAL = {"id": "chatcmpl-1", "choices": [], "usage": USAGE}
Serve = Callable[[Behaviour], Server]


def framed(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


WHOLE = framed(events(HELLO)) + framed(events(STOP, TOTAL)) + framed(events(b"[DONE]"))


@pytest.fixture
def serve() -> Iterator[Serve]:
    servers: list[Server] = []

    def start(behave: Behaviour) -> Server:
        servers.append(Server(behave))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


@pytest.fixture(scope="module")
def http() -> Iterator[HttpClients]:
    clients = HttpClients()
    yield clients
    clients.close()


def credential_at(server: Server) -> Credential:
    return Credential("openai", "house", "sk-1", server.url)


def said(http: HttpClients, server: Server, timeout_seconds: float = 5.0) -> list[bytes]:
    credential = credential_at(server)
    with OpenAI(http).stream(credential, "m", BODY, timeout_seconds) as pieces:
        return [piece.data for piece in pieces]


def answering(body: bytes, then: Callable[[], object] = lambda: None) -> Behaviour:
    def behave(connection: socket.socket) -> None:
        while receive(connection):
            connection.sendall(HEAD + body)
            then()

    return behave


@pytest.mark.parametrize("pause_seconds", [0.0, 0.05], ids=["at once", "a little later"])
def test_a_stream_read_to_its_end_leaves_its_connection_for_the_next(
    serve: Serve, http: HttpClients, pause_seconds: float
) -> None:
    def behave(connection: socket.socket) -> None:
        while receive(connection):
            connection.sendall(HEAD + WHOLE)
            time.sleep(pause_seconds)
            connection.sendall(b"0\r\n\r\n")

    server = serve(behave)
    assert [len(said(http, server)) for _ in range(3)] == [3, 3, 3]
    assert server.connections == 1


def test_a_server_that_never_ends_its_answer_holds_nobody_up(
    serve: Serve, http: HttpClients
) -> None:
    released = threading.Event()
    server = serve(answering(WHOLE, lambda: released.wait(10)))
    started = time.monotonic()
    assert len(said(http, server)) == 3
    assert time.monotonic() - started < 3.0
    released.set()


def test_a_stream_that_is_left_early_is_hung_up_on(serve: Serve, http: HttpClients) -> None:
    hung_up = threading.Event()

    def behave(connection: socket.socket) -> None:
        receive(connection)
        connection.sendall(HEAD + framed(events(HELLO)))
        if not connection.recv(1):
            hung_up.set()

    server = serve(behave)
    with OpenAI(http).stream(credential_at(server), "m", BODY, 5) as pieces:
        assert b"hello" in next(pieces).data
    assert hung_up.wait(5)


def test_a_piece_is_given_as_soon_as_it_has_come(serve: Serve, http: HttpClients) -> None:
    heard = threading.Event()

    def behave(connection: socket.socket) -> None:
        receive(connection)
        connection.sendall(HEAD + framed(events(HELLO)))
        if heard.wait(5):
            connection.sendall(framed(events(STOP, b"[DONE]")) + b"0\r\n\r\n")

    with OpenAI(http).stream(credential_at(serve(behave)), "m", BODY, 8) as pieces:
        next(pieces)
        heard.set()
        assert len(list(pieces)) == 1


@pytest.mark.parametrize("cut", [framed(events(HELLO)), framed(events(HELLO)) + b"ff\r\ndata: {"])
def test_a_connection_that_the_server_cuts_breaks_the_stream(
    serve: Serve, http: HttpClients, cut: bytes
) -> None:
    def behave(connection: socket.socket) -> None:
        receive(connection)
        connection.sendall(HEAD + cut)

    with (
        pytest.raises(StreamBroken) as caught,
        OpenAI(http).stream(credential_at(serve(behave)), "m", BODY, 5) as pieces,
    ):
        list(pieces)
    assert caught.value.code == "connection"


@pytest.mark.parametrize(
    ("answer", "kind"),
    [(b"", Unavailable), (HEAD, Unavailable), (HEAD + framed(events(HELLO)), StreamBroken)],
    ids=["before the headers", "before the first piece", "after it"],
)
def test_the_whole_stream_has_a_deadline(
    serve: Serve, http: HttpClients, answer: bytes, kind: type[Exception]
) -> None:
    """A server that keeps the connection alive with comments is cut off all the same."""

    def behave(connection: socket.socket) -> None:
        receive(connection)
        connection.sendall(answer)
        while answer:
            time.sleep(0.02)
            connection.sendall(framed(b": still here\n\n"))
        connection.recv(1)

    started = time.monotonic()
    with pytest.raises((Unavailable, StreamBroken)) as caught:
        said(http, serve(behave), timeout_seconds=0.3)
    assert time.monotonic() - started < 1.9
    assert (type(caught.value), caught.value.code) == (kind, "timeout")


def wired(http: HttpClients, server: Server, silence_seconds: float) -> list[bytes]:
    wire = Wire(http, "openai", lambda key: {"Authorization": f"Bearer {key}"})
    translation = OpenAIPieces(as_it_is)
    credential = credential_at(server)
    with wire.stream(credential, "/x", b"{}", translation, 10.0, silence_seconds) as pieces:
        return [piece.data for piece in pieces]


def test_comments_break_the_silence_and_the_wait_for_the_headers_is_no_silence(
    serve: Serve, http: HttpClients
) -> None:
    def behave(connection: socket.socket) -> None:
        receive(connection)
        time.sleep(0.6)
        connection.sendall(HEAD + framed(events(HELLO)))
        for _ in range(6):
            time.sleep(0.1)
            connection.sendall(framed(b": ping\n\n"))
        connection.sendall(framed(events(STOP, b"[DONE]")) + b"0\r\n\r\n")

    assert len(wired(http, serve(behave), silence_seconds=0.4)) == 2


def test_a_silence_in_mid_stream_breaks_it(serve: Serve, http: HttpClients) -> None:
    released = threading.Event()
    server = serve(answering(framed(events(HELLO)), lambda: released.wait(10)))
    with pytest.raises(StreamBroken) as caught:
        wired(http, server, silence_seconds=0.1)
    released.set()
    assert caught.value.code == "timeout"


def test_a_body_that_comes_compressed_all_the_same_is_read() -> None:
    def handler(_request: httpx.Request) -> httpx.Response:
        packed = gzip.compress(events(HELLO, STOP, b"[DONE]"))
        return httpx.Response(200, headers={"content-encoding": "gzip"}, content=packed)

    clients = HttpClients(transport=httpx.MockTransport(handler))
    credential = Credential("openai", "house", "sk-1", "http://openai.test/v1")
    with OpenAI(clients).stream(credential, "m", BODY, 5) as pieces:
        assert len(list(pieces)) == 2
