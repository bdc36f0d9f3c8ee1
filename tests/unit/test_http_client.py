"""The HTTP clients against servers that behave, and servers that do not."""

import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator

import httpx
import pytest

from gateway.net.http import HttpClients
from tests.unit.raw_server import (
    ANSWER,
    Behaviour,
    Server,
    answering,
    answering_at_once,
    receive,
)

HEADERS = {"Authorization": "Bearer sk-secret"}


@pytest.fixture
def serve() -> Iterator[Callable[[Behaviour], Server]]:
    servers: list[Server] = []

    def start(behave: Behaviour) -> Server:
        servers.append(Server(behave))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


@pytest.fixture
def clients() -> Iterator[HttpClients]:
    clients = HttpClients()
    yield clients
    clients.close()


Serve = Callable[[Behaviour], Server]


def get(clients: HttpClients, url: str, timeout_seconds: float = 5.0) -> httpx.Response:
    return clients.request("GET", url, headers=HEADERS, timeout_seconds=timeout_seconds)


def get_at_once(clients: HttpClients, url: str, times: int) -> None:
    threads = [threading.Thread(target=get, args=(clients, url)) for _ in range(times)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_calls_one_after_another_share_a_connection(serve: Serve, clients: HttpClients) -> None:
    server = serve(answering())
    bodies = [get(clients, server.url).text for _ in range(5)]
    assert bodies == ["ok"] * 5
    assert server.connections == 1


def test_calls_at_once_have_a_connection_each_and_leave_them_for_later(
    serve: Serve, clients: HttpClients
) -> None:
    server = serve(answering_at_once(4))
    get_at_once(clients, server.url, 4)
    get_at_once(clients, server.url, 4)
    assert server.connections == 4


def test_the_connection_used_last_is_used_next(serve: Serve, clients: HttpClients) -> None:
    served: list[int] = []
    barrier = threading.Barrier(3, timeout=10)

    def behave(connection: socket.socket) -> None:
        receive(connection)
        barrier.wait()
        connection.sendall(ANSWER)
        while receive(connection):
            served.append(connection.getpeername()[1])
            connection.sendall(ANSWER)

    server = serve(behave)
    get_at_once(clients, server.url, 3)
    for _ in range(4):
        get(clients, server.url)
    assert len(served) == 4
    assert len(set(served)) == 1


def test_no_more_connections_are_kept_than_allowed(serve: Serve) -> None:
    server = serve(answering_at_once(3))
    clients = HttpClients(max_idle=1)
    get_at_once(clients, server.url, 3)
    get_at_once(clients, server.url, 3)
    clients.close()
    assert server.connections == 5


def test_a_connection_that_was_idle_too_long_is_not_used(serve: Serve) -> None:
    server = serve(answering())
    now = [0.0]
    clients = HttpClients(idle_seconds=10.0, clock=lambda: now[0])
    get(clients, server.url)
    now[0] = 9.0
    get(clients, server.url)
    assert server.connections == 1
    now[0] = 19.0
    get(clients, server.url)
    clients.close()
    assert server.connections == 2


def test_idle_connections_to_other_servers_are_closed_in_passing(serve: Serve) -> None:
    hung_up = threading.Event()

    def behave(connection: socket.socket) -> None:
        answering()(connection)
        hung_up.set()

    forgotten, busy = serve(behave), serve(answering())
    now = [0.0]
    clients = HttpClients(idle_seconds=10.0, clock=lambda: now[0])
    get(clients, forgotten.url)
    now[0] = 11.0
    get(clients, busy.url)
    closed = hung_up.wait(5)
    clients.close()
    assert closed


def test_a_connection_that_the_server_closed_meanwhile_is_replaced_unnoticed(
    serve: Serve, clients: HttpClients
) -> None:
    closed = threading.Event()

    def answer_once(connection: socket.socket) -> None:
        receive(connection)
        connection.sendall(ANSWER)
        connection.shutdown(socket.SHUT_RDWR)
        closed.set()

    server = serve(answer_once)
    for _ in range(3):
        closed.clear()
        assert get(clients, server.url).text == "ok"
        assert closed.wait(5)
        time.sleep(0.01)
    assert server.connections == 3


def test_a_fresh_request_dials_anew_and_its_connection_is_kept(
    serve: Serve, clients: HttpClients
) -> None:
    server = serve(answering())
    get(clients, server.url)
    clients.request("POST", server.url, headers={}, content=b"x", timeout_seconds=5, fresh=True)
    get(clients, server.url)
    assert server.connections == 2


def test_a_broken_exchange_takes_its_connection_with_it(serve: Serve, clients: HttpClients) -> None:
    def half_an_answer(connection: socket.socket) -> None:
        receive(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")

    server = serve(half_an_answer)
    for _ in range(2):
        with pytest.raises(httpx.RemoteProtocolError):
            get(clients, server.url)
    assert server.connections == 2


def test_a_download_left_unread_takes_its_connection_with_it(
    serve: Serve, clients: HttpClients
) -> None:
    server = serve(answering(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody"))
    with clients.stream("GET", server.url, headers={}, timeout_seconds=5) as response:
        assert response.status_code == 200
    with clients.stream("GET", server.url, headers={}, timeout_seconds=5) as response:
        assert b"".join(response.iter_raw()) == b"body"
    get(clients, server.url)
    assert server.connections == 2


@pytest.mark.parametrize(
    "opening",
    [b"HTTP/1.1 200 OK\r\nX-Slow: ", b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"],
    ids=["in the headers", "in the body"],
)
def test_a_server_that_drips_cannot_hold_us_beyond_the_deadline(
    serve: Serve, clients: HttpClients, opening: bytes
) -> None:
    def drip(connection: socket.socket) -> None:
        receive(connection)
        connection.sendall(opening)
        for _ in range(1_000):
            connection.sendall(b"a")
            time.sleep(0.02)

    server = serve(drip)
    started = time.monotonic()
    with pytest.raises(httpx.ReadTimeout):
        get(clients, server.url, timeout_seconds=0.3)
    assert time.monotonic() - started < 2.0


def test_a_server_that_does_not_read_cannot_hold_us_beyond_the_deadline(
    serve: Serve, clients: HttpClients
) -> None:
    released = threading.Event()
    server = serve(lambda _: released.wait(10))
    chunks = (b"x" * 65_536 for _ in range(1_000))
    started = time.monotonic()
    with pytest.raises(httpx.WriteTimeout):
        clients.request(
            "POST",
            server.url,
            headers={"Content-Length": str(65_536_000)},
            content=chunks,
            timeout_seconds=0.3,
        )
    released.set()
    assert time.monotonic() - started < 2.0


def test_silence_has_a_limit_of_its_own(serve: Serve, clients: HttpClients) -> None:
    server = serve(answering(pause_seconds=1.0))
    with pytest.raises(httpx.ReadTimeout):
        clients.request("GET", server.url, headers={}, timeout_seconds=60, read_timeout_seconds=0.1)


def test_a_streamed_body_of_known_length_is_not_chunked(serve: Serve, clients: HttpClients) -> None:
    received: list[bytes] = []

    def behave(connection: socket.socket) -> None:
        received.append(receive(connection))
        connection.sendall(ANSWER)

    server = serve(behave)
    clients.request(
        "POST",
        server.url,
        headers={"Content-Length": "6"},
        content=iter([b"abc", b"def"]),
        timeout_seconds=5,
    )
    head, _, body = received[0].partition(b"\r\n\r\n")
    assert body == b"abcdef"
    assert b"transfer-encoding" not in head.lower()
    assert b"User-Agent: offpeak" in head


def test_an_answer_given_before_the_body_was_read_is_heard(
    serve: Serve, clients: HttpClients
) -> None:
    def refuse(connection: socket.socket) -> None:
        connection.recv(1_000)
        connection.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(65_536):
            continue

    server = serve(refuse)
    chunks = (b"x" * 65_536 for _ in range(100))
    response = clients.request(
        "POST",
        server.url,
        headers={"Content-Length": str(6_553_600)},
        content=chunks,
        timeout_seconds=5,
    )
    assert response.status_code == 413


def test_a_redirect_is_an_answer_and_a_cookie_is_forgotten(
    serve: Serve, clients: HttpClients
) -> None:
    received: list[bytes] = []

    def behave(connection: socket.socket) -> None:
        while request := receive(connection):
            received.append(request)
            connection.sendall(
                b"HTTP/1.1 302 Found\r\nLocation: /elsewhere\r\nSet-Cookie: a=b\r\n"
                b"Content-Length: 0\r\n\r\n"
            )

    server = serve(behave)
    assert [get(clients, server.url).status_code for _ in range(2)] == [302, 302]
    assert len(received) == 2
    assert b"cookie" not in received[1].lower()


def test_proxies_of_the_environment_are_not_used(
    serve: Serve, clients: HttpClients, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    assert get(clients, serve(answering()).url).text == "ok"


def test_a_port_where_nobody_listens_is_a_connect_error(clients: HttpClients) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    with pytest.raises(httpx.ConnectError):
        get(clients, url)


@pytest.mark.parametrize("url", ["ftp://127.0.0.1/x", "/v1/models", "127.0.0.1:80/x"])
def test_only_full_http_addresses_are_dialled(clients: HttpClients, url: str) -> None:
    with pytest.raises(httpx.UnsupportedProtocol):
        get(clients, url)


def test_a_closed_stack_keeps_nothing(serve: Serve) -> None:
    server = serve(answering())
    clients = HttpClients()
    get(clients, server.url)
    clients.close()
    get(clients, server.url)
    get(clients, server.url)
    assert server.connections == 3


def test_one_debug_line_an_exchange_tells_no_secret(
    serve: Serve, clients: HttpClients, caplog: pytest.LogCaptureFixture
) -> None:
    server = serve(answering())
    with caplog.at_level(logging.DEBUG, logger="gateway.net.http"):
        clients.request(
            "POST",
            f"{server.url}/v1/chat?token=hidden",
            headers=HEADERS,
            content=b"the prompt",
            timeout_seconds=5,
        )
    records = [vars(record) for record in caplog.records if record.name == "gateway.net.http"]
    assert len(records) == 1
    told = {name: records[0][name] for name in ("method", "host", "path", "status")}
    assert told == {"method": "POST", "host": "127.0.0.1", "path": "/v1/chat", "status": 200}
    assert records[0]["milliseconds"] >= 0
    for secret in ("sk-secret", "hidden", "the prompt"):
        assert secret not in str(records)


def test_a_handler_can_stand_in_for_the_network() -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json={"path": request.url.path})

    clients = HttpClients(transport=httpx.MockTransport(handler))
    assert get(clients, "http://provider.test/v1/models").json() == {"path": "/v1/models"}
