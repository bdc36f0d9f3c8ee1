import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from gateway.net.guard import Connector, Dialler, RefusedAddress, Resolver, check_url, is_public
from gateway.webhooks.transport import GuardedTransport, post

CORPUS = Path(__file__).with_name("guard_corpus.txt")


def section(heading: str) -> list[str]:
    """The items of one section of the corpus."""
    text = CORPUS.read_text(encoding="utf-8")
    lines = text.partition(f"[{heading}]\n")[2].partition("\n[")[0].splitlines()
    items = [item for line in lines if not line.startswith("#") for item in line.split()]
    assert items, f"the corpus has nothing under {heading}"
    return items


PUBLIC = section("public addresses")
NOT_PUBLIC = section("other addresses")
SPACED_URLS = (
    "https://example.com/a b",
    " https://example.com/",
    "https://example.com/\n",
    "https://exam\tple.com/",
    "https://example.com/\r\nX-Injected: 1",
    "https://example.com/\x00",
    "https://example.com/\x7f",
    "https://example.com/\u3000",
    "https://example.com/\udc80",
)


@pytest.mark.parametrize("address", PUBLIC)
def test_addresses_of_the_public_internet_pass(address: str) -> None:
    assert is_public(ip_address(address))


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_every_other_address_is_refused_however_it_is_wrapped(address: str) -> None:
    assert not is_public(ip_address(address))


@pytest.mark.parametrize("url", section("accepted urls"))
def test_intake_takes_https_urls_of_public_hosts(url: str) -> None:
    check_url(url, allow_private=False)


@pytest.mark.parametrize("url", [*section("refused urls"), *SPACED_URLS])
def test_intake_refuses_other_urls_in_every_spelling(url: str) -> None:
    with pytest.raises(RefusedAddress):
        check_url(url, allow_private=False)


def test_a_url_may_have_2048_bytes_and_no_more() -> None:
    longest = "https://example.com/".ljust(2048, "x")
    check_url(longest, allow_private=False)
    for too_long in (longest + "x", longest[:-1] + "ä"):
        with pytest.raises(RefusedAddress, match="2048 bytes"):
            check_url(too_long, allow_private=False)


def test_private_hosts_and_http_pass_where_they_are_allowed() -> None:
    for url in ("http://127.0.0.1:8000/", "http://localhost/", "https://[::1]/", "http://10.1/"):
        check_url(url, allow_private=True)


@pytest.mark.parametrize(
    "url", ["ftp://127.0.0.1/", "http://a@127.0.0.1/", "http://127.0.0.1:0/", "http://a b/"]
)
def test_malformed_urls_are_refused_even_where_private_ones_are_allowed(url: str) -> None:
    with pytest.raises(RefusedAddress):
        check_url(url, allow_private=True)


class Dials:
    """A connector that notes what it is asked for and connects to a local server instead."""

    def __init__(self, port: int = 0) -> None:
        self.addresses: list[str] = []
        self._port = port

    def __call__(self, address: str, _port: int, timeout_seconds: float) -> socket.socket:
        self.addresses.append(address)
        if not self._port:
            raise ConnectionRefusedError("nobody listens")
        return socket.create_connection(("127.0.0.1", self._port), timeout_seconds)


def answers(*rounds: Sequence[str]) -> Resolver:
    """A name server with another answer each time it is asked."""
    left = list(rounds)
    return lambda _host, _port: left.pop(0)


def test_a_name_that_turns_private_after_the_check_is_dialled_where_it_was_checked() -> None:
    with _server(_once(b"HTTP/1.1 204 No Content\r\n\r\n")) as port:
        dials = Dials(port)
        dialler = Dialler(False, answers(["93.184.215.14"], ["127.0.0.1"]), dials)
        dialler.dial("rebind.example", 443, 5.0).close()
        assert dials.addresses == ["93.184.215.14"]
        with pytest.raises(RefusedAddress):
            dialler.dial("rebind.example", 443, 5.0)
        assert dials.addresses == ["93.184.215.14"]


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_one_private_address_among_public_ones_refuses_the_whole_host(address: str) -> None:
    dials = Dials()
    dialler = Dialler(False, answers(["93.184.215.14", address]), dials)
    with pytest.raises(RefusedAddress):
        dialler.dial("mixed.example", 443, 5.0)
    assert dials.addresses == []


@pytest.mark.parametrize("host", ["127.1", "2130706433", "0x7f.1", "::1", "::ffff:127.0.0.1"])
def test_a_literal_host_is_checked_at_the_call_too_and_never_looked_up(host: str) -> None:
    dials = Dials()
    with pytest.raises(RefusedAddress):
        Dialler(False, answers(["93.184.215.14"]), dials).dial(host, 443, 5.0)
    assert dials.addresses == []


def test_the_next_address_is_tried_when_one_is_dead_and_the_last_failure_is_told() -> None:
    dials = Dials()
    dialler = Dialler(False, answers(["93.184.215.14", "2606:4700::1111"]), dials)
    with pytest.raises(ConnectionRefusedError):
        dialler.dial("dead.example", 443, 5.0)
    assert dials.addresses == ["93.184.215.14", "2606:4700::1111"]


def test_a_name_server_that_never_answers_is_given_up_in_time() -> None:
    release = threading.Event()

    def hang(_host: str, _port: int) -> list[str]:
        release.wait(10.0)
        return []

    started = time.monotonic()
    with pytest.raises(TimeoutError):
        Dialler(False, hang, Dials()).dial("slow.example", 443, 0.2)
    release.set()
    assert time.monotonic() - started < 2.0


def test_a_name_that_does_not_exist_is_a_connection_error() -> None:
    def nowhere(_host: str, _port: int) -> list[str]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    transport = GuardedTransport(Dialler(False, nowhere, Dials()))
    with pytest.raises(httpx.ConnectError, match="could not be resolved"):
        post(transport, "https://nowhere.example/", {}, b"")


Serve = Callable[[socket.socket], None]


def _read(connection: socket.socket) -> bytes:
    """A whole request: closing a socket with bytes unread would reset it."""
    received = b""
    while b"\r\n\r\n" not in received:
        received += _more(connection)
    head, _, body = received.partition(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].split()[0])
    while len(body) < length:
        body += _more(connection)
    return head


def _more(connection: socket.socket) -> bytes:
    received = connection.recv(65536)
    if not received:
        raise ConnectionResetError("the client hung up")
    return received


def _once(answer: bytes, seen: list[bytes] | None = None) -> Serve:
    def serve(connection: socket.socket) -> None:
        received = _read(connection)
        if seen is not None:
            seen.append(received)
        connection.sendall(answer)

    return serve


@contextmanager
def _server(serve: Serve) -> Iterator[int]:
    """Serves every connection with `serve` until the block ends; yields the port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.05)
        stopping = threading.Event()

        def accept() -> None:
            while not stopping.is_set():
                try:
                    connection, _ = listener.accept()
                except TimeoutError:
                    continue
                try:
                    serve(connection)
                except OSError:
                    continue  # the client hung up, which some tests make it do
                finally:
                    connection.close()

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            stopping.set()
            thread.join()


def _drip(start: bytes) -> Serve:
    def serve(connection: socket.socket) -> None:
        _read(connection)
        connection.sendall(start)
        for _ in range(200):
            connection.sendall(b"x")
            time.sleep(0.02)

    return serve


def _transport(connector: Connector, seconds: float = 5.0) -> GuardedTransport:
    return GuardedTransport(
        Dialler(True, lambda _host, _port: ["127.0.0.1"], connector), timeout_seconds=seconds
    )


def test_headers_that_drip_end_at_the_deadline() -> None:
    with _server(_drip(b"HTTP/1.1 200 OK\r\nX-Slow: ")) as port:
        started = time.monotonic()
        with pytest.raises(httpx.TimeoutException):
            post(_transport(Dials(port), 0.3), "http://drip.example/", {}, b"{}")
        assert 0.25 < time.monotonic() - started < 1.5


def test_a_body_that_drips_keeps_the_status_and_ends_at_the_deadline() -> None:
    with _server(_drip(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")) as port:
        started = time.monotonic()
        answer = post(_transport(Dials(port), 0.3), "http://drip.example/", {}, b"{}")
        assert 0.25 < time.monotonic() - started < 1.5
    assert answer.status == 200
    assert set(answer.excerpt) == {"x"}


def test_endless_interim_answers_are_cut_off() -> None:
    def serve(connection: socket.socket) -> None:
        _read(connection)
        for _ in range(1_000_000):
            connection.sendall(b"HTTP/1.1 102 Processing\r\n\r\n" * 1000)

    with _server(serve) as port, pytest.raises(httpx.TransportError, match="too long"):
        post(_transport(Dials(port)), "http://chatty.example/", {}, b"{}")


@pytest.mark.parametrize(
    "garbage", [b"", b"echo of what was sent\r\n\r\n", b"\x16\x03\x01\r\n\r\n"]
)
def test_what_is_no_http_is_an_error_that_does_not_quote_it(garbage: bytes) -> None:
    with _server(_once(garbage)) as port, pytest.raises(httpx.TransportError) as refused:
        post(_transport(Dials(port)), "http://garbage.example/", {}, b"{}")
    assert str(refused.value) == "no valid HTTP answer came"


def test_a_compressed_answer_is_not_inflated_and_control_characters_do_not_get_through() -> None:
    body = b"\x1f\x8b\x00\n\xff" + b"x" * 600
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(body)
    with _server(_once(head + body)) as port:
        answer = post(_transport(Dials(port)), "http://gzip.example/", {}, b"{}")
    assert answer.excerpt == " �  �" + "x" * 507


def test_no_proxy_is_taken_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    seen: list[bytes] = []
    with _server(_once(b"HTTP/1.1 204 No Content\r\n\r\n", seen)) as port:
        assert (
            post(_transport(Dials(port)), "http://direct.example:81/a?b=c", {}, b"").status == 204
        )
    assert seen[0].startswith(b"POST /a?b=c HTTP/1.1\r\nHost: direct.example:81\r\n")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for hooks.example and its key, signed by itself, in one PEM file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "hooks.example")])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("hooks.example")]), False)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "hooks.pem"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + signed.public_bytes(serialization.Encoding.PEM)
    )
    return path


def _secured(certificate: Path, serve: Serve, names: list[str | None]) -> Serve:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    context.set_servername_callback(lambda _socket, name, _context: names.append(name))

    def serve_tls(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as secure:
            serve(secure)

    return serve_tls


def test_tls_asks_for_and_verifies_the_host_name_whatever_address_is_dialled(
    certificate: Path,
) -> None:
    names: list[str | None] = []
    seen: list[bytes] = []
    serve = _secured(certificate, _once(b"HTTP/1.1 200 OK\r\n\r\nfine", seen), names)
    with _server(serve) as port:
        dials = Dials(port)
        transport = GuardedTransport(
            Dialler(False, lambda _host, _port: ["93.184.215.14"], dials),
            ssl_context=ssl.create_default_context(cafile=str(certificate)),
        )
        answer = post(transport, "https://hooks.example./in", {}, b"{}")
        assert (answer.status, answer.excerpt) == (200, "fine")
        with pytest.raises(httpx.ConnectError, match="certificate not accepted"):
            post(transport, "https://other.example/in", {}, b"{}")
    assert dials.addresses == ["93.184.215.14", "93.184.215.14"]
    assert names == ["hooks.example", "other.example"]
    assert b"\r\nHost: hooks.example." in seen[0]


def test_a_tls_handshake_that_never_comes_ends_at_the_deadline() -> None:
    mute = pytest.raises(httpx.TimeoutException, match="handshake")
    with _server(lambda _connection: time.sleep(1.0)) as port, mute:
        post(_transport(Dials(port), 0.2), "https://mute.example/", {}, b"{}")
