"""HTTP/1.1 as it stands between us and a provider: what is sent, what is heard, what is refused."""

import ipaddress
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from gateway.net.connection import Connection
from gateway.net.http import HttpClients
from gateway.net.http11 import Request, address_of
from tests.unit.raw_server import ANSWER, Server, receive

OK = b"HTTP/1.1 200 OK\r\n"


@pytest.fixture
def clients() -> Iterator[HttpClients]:
    clients = HttpClients()
    yield clients
    clients.close()


@pytest.fixture
def serve() -> Iterator[Callable[[bytes], Server]]:
    """A server that gives the same bytes to each request, and hangs up where they say so."""
    servers: list[Server] = []

    def start(answer: bytes) -> Server:
        def behave(connection: socket.socket) -> None:
            while receive(connection):
                connection.sendall(answer)
                if answer.lower().find(b"content-length") == -1 and b"chunked" not in answer:
                    return

        servers.append(Server(behave))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


Serve = Callable[[bytes], Server]


def get(clients: HttpClients, server: Server) -> httpx.Response:
    return clients.request("GET", server.url, headers={}, timeout_seconds=5)


def test_a_word_before_the_answer_is_passed_over(serve: Serve, clients: HttpClients) -> None:
    server = serve(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + ANSWER)
    for _ in range(2):
        response = get(clients, server)
        assert (response.status_code, response.text) == (200, "ok")
        assert "link" not in response.headers
    assert server.connections == 1


def test_a_body_in_chunks_is_put_together_and_its_trailer_dropped(
    serve: Serve, clients: HttpClients
) -> None:
    chunks = b"2;note=x\r\nab\r\n1\r\nc\r\n0\r\nX-Late: 1\r\n\r\n"
    server = serve(OK + b"Transfer-Encoding: chunked\r\n\r\n" + chunks)
    for _ in range(2):
        response = get(clients, server)
        assert response.text == "abc"
        assert "x-late" not in response.headers
    assert server.connections == 1


def test_a_body_without_a_length_ends_with_its_connection(
    serve: Serve, clients: HttpClients
) -> None:
    server = serve(OK + b"\r\nall there is")
    assert [get(clients, server).text for _ in range(2)] == ["all there is"] * 2
    assert server.connections == 2


@pytest.mark.parametrize(
    "answer",
    [
        OK + b"Content-Length: 2\r\nConnection: close\r\n\r\nok",
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
        ANSWER + ANSWER,
    ],
    ids=["it closes", "HTTP/1.0", "more than was asked for"],
)
def test_a_connection_is_not_kept_after(serve: Serve, clients: HttpClients, answer: bytes) -> None:
    server = serve(answer)
    assert [get(clients, server).text for _ in range(2)] == ["ok"] * 2
    assert server.connections == 2


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH\r\n\r\nContent-Length",
        OK + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\nok",
        OK + b"Content-Length: two\r\n\r\nok",
        OK + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nok\r\n0\r\n\r\n",
        OK + b"X: " + b"x" * 200_000 + b"\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n",
        b"",
    ],
    ids=["no HTTP", "two lengths", "no length", "no chunk", "endless", "upgrade", "nothing"],
)
def test_what_is_no_answer_is_an_error_of_the_servers(
    serve: Serve, clients: HttpClients, answer: bytes
) -> None:
    server = serve(answer)
    for _ in range(2):
        with pytest.raises(httpx.RemoteProtocolError):
            get(clients, server)
    assert server.connections == 2


def test_an_answer_without_a_body_is_over_with_its_headers(
    serve: Serve, clients: HttpClients
) -> None:
    server = serve(b"HTTP/1.1 204 No Content\r\nX-Note: chunked\r\n\r\n")
    assert [get(clients, server).status_code for _ in range(2)] == [204, 204]
    assert server.connections == 1


@pytest.mark.parametrize("value", ["a\r\nX-Other: b", "a\nb", "a\0b"])
def test_a_header_cannot_begin_another(serve: Serve, clients: HttpClients, value: str) -> None:
    with pytest.raises(httpx.LocalProtocolError):
        clients.request("GET", serve(ANSWER).url, headers={"X": value}, timeout_seconds=5)


@pytest.mark.parametrize("content", [b"abc", iter([b"abc"]), iter([b"ab", b"c", b"defg"])])
def test_a_body_of_another_length_than_announced_is_not_sent_as_one(
    serve: Serve, clients: HttpClients, content: bytes | Iterator[bytes]
) -> None:
    length = "2" if isinstance(content, bytes) else "5"
    with pytest.raises(httpx.LocalProtocolError):
        clients.request(
            "POST",
            serve(ANSWER).url,
            headers={"Content-Length": length},
            content=content,
            timeout_seconds=5,
        )


def test_a_body_of_unknown_length_goes_in_chunks(clients: HttpClients) -> None:
    received: list[bytes] = []

    def behave(connection: socket.socket) -> None:
        data = b""
        while not data.endswith(b"0\r\n\r\n"):
            data += connection.recv(65_536)
        received.append(data)
        connection.sendall(ANSWER)

    server = Server(behave)
    clients.request(
        "POST", server.url, headers={}, content=iter([b"ab", b"", b"c"]), timeout_seconds=5
    )
    server.close()
    head, _, body = received[0].partition(b"\r\n\r\n")
    assert b"transfer-encoding: chunked" in head.lower()
    assert body == b"2\r\nab\r\n1\r\nc\r\n0\r\n\r\n"


@pytest.mark.parametrize(
    ("method", "told"), [("POST", b"content-length: 0"), ("GET", b"GET / HTTP/1.1")]
)
def test_the_first_lines_say_where_and_how_long(
    clients: HttpClients, method: str, told: bytes
) -> None:
    received: list[bytes] = []

    def behave(connection: socket.socket) -> None:
        received.append(receive(connection))
        connection.sendall(ANSWER)

    server = Server(behave)
    clients.request(method, server.url, headers={}, timeout_seconds=5)
    server.close()
    assert told.lower() in received[0].lower()
    assert f"host: {server.url.removeprefix('http://')}".encode() in received[0].lower()


def certificate(folder: Path) -> Path:
    """A file with a key and a certificate of its own for 127.0.0.1."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.now(UTC)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    signed = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .sign(key, hashes.SHA256())
    )
    file = folder / "server.pem"
    file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + signed.public_bytes(serialization.Encoding.PEM)
    )
    return file


def test_over_tls_a_connection_is_kept_until_the_server_hangs_up(tmp_path: Path) -> None:
    file = certificate(tmp_path)
    servers = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    servers.load_cert_chain(file)
    enough = threading.Event()

    def behave(connection: socket.socket) -> None:
        with servers.wrap_socket(connection, server_side=True) as wrapped:
            for _ in range(2):
                receive(wrapped)
                wrapped.sendall(ANSWER)
            enough.wait(10)

    server = Server(behave)
    request = Request(address_of("GET", server.url.replace("http", "https")), {}, None)
    connection = Connection(request.address.origin, ssl.create_default_context(cafile=str(file)))
    for _ in range(2):
        response = connection.send(request, 5, 5, 5)
        assert response.read() == b"ok"
        response.close()
        assert connection.idle
        # What TLS has to say, such as its tickets, is no reason to hang up.
        assert not connection.hung_up()
    enough.set()
    server.close()
    assert connection.hung_up()
    connection.close()


def test_a_server_that_nobody_vouches_for_is_not_spoken_to(
    clients: HttpClients, tmp_path: Path
) -> None:
    servers = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    servers.load_cert_chain(certificate(tmp_path))
    server = Server(lambda connection: servers.wrap_socket(connection, server_side=True))
    with pytest.raises(httpx.ConnectError):
        clients.request("GET", server.url.replace("http", "https"), headers={}, timeout_seconds=5)
    server.close()
