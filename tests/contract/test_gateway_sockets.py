"""What only shows on a real socket: bodies that lie, slow clients, racing ones, shutdowns."""

import contextlib
import gzip
import json
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from local.processes import free_port
from tests.acceptance.deployment import Deployment, until

CHAT = "/v1/chat/completions"
BODY: dict[str, Any] = {
    "model": "gpt-4o-mini",
    "messages": [{"role": "user", "content": "a private matter"}],
}
ASYNC_BODY = {**BODY, "prefer_async": True}
ANSWER_SECONDS = 15
SLOW_CLIENTS = 500


@pytest.fixture
def client(gateway: Deployment) -> Iterator[httpx.Client]:
    with gateway.client(gateway.accounts[0].api_key) as made:
        yield made


def dial(gateway: Deployment) -> socket.socket:
    host, port = gateway.base_url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), ANSWER_SECONDS)


def head(gateway: Deployment, *lines: str) -> bytes:
    """The head of a POST with a good key."""
    key = gateway.accounts[0].api_key
    usual = [f"POST {CHAT} HTTP/1.1", "Host: x", f"Authorization: Bearer {key}"]
    return "\r\n".join([*usual, *lines, "", ""]).encode("latin-1")


def status_of(connection: socket.socket) -> int | None:
    """The status of the next answer; None if the server hung up instead."""
    with contextlib.suppress(ConnectionError):
        line = connection.makefile("rb").readline()
        if line.startswith(b"HTTP/1.1 "):
            return int(line.split()[1])
    return None


def send(gateway: Deployment, *parts: bytes, end: bool = False) -> int | None:
    """What a request sent as these bytes is answered; `end`: nothing more will come."""
    with dial(gateway) as connection:
        with contextlib.suppress(ConnectionError):
            for part in parts:
                connection.sendall(part)
            if end:
                connection.shutdown(socket.SHUT_WR)
        return status_of(connection)


def chunked(body: bytes, size: int = 1000) -> bytes:
    pieces = (body[start : start + size] for start in range(0, len(body), size))
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


def test_a_body_may_come_in_chunks(gateway: Deployment) -> None:
    body = chunked(json.dumps(ASYNC_BODY).encode(), 10)
    assert send(gateway, head(gateway, "Transfer-Encoding: chunked"), body) == 202


def test_chunks_that_add_up_to_too_much_are_too_large(gateway: Deployment) -> None:
    def sized(length: int) -> bytes:
        start, end = json.dumps(BODY | {"model": "gpt-nothing", "user": "~"}).split("~")
        return (start + "x" * (length - len(start) - len(end)) + end).encode()

    chunks = head(gateway, "Transfer-Encoding: chunked")
    assert send(gateway, chunks, chunked(sized(8_000_000), 65_536)) == 404
    assert send(gateway, chunks, chunked(sized(8_000_001), 65_536)) == 413
    assert send(gateway, chunks, chunked(b" " * 12_000_000, 65_536)) in (413, None)


@pytest.mark.parametrize(
    ("lines", "body"),
    [
        (["Transfer-Encoding: chunked"], b"xyz\r\n{}\r\n0\r\n\r\n"),
        (["Transfer-Encoding: chunked"], b"-5\r\n{}\r\n0\r\n\r\n"),
        (["Content-Length: -1"], b"{}"),
        (["Content-Length: x"], b"{}"),
        (["Content-Length: 2", "Content-Length: 3"], b"{}"),
        (["Content-Length: 2", "Transfer-Encoding: chunked"], b"2\r\n{}\r\n0\r\n\r\n"),
        (["Content-Length: 1"], b"{}"),
        (["Content-Length: 0"], b"{}"),
        ([], b"{}"),
    ],
)
def test_a_length_that_is_nonsense_is_a_bad_request(
    gateway: Deployment, lines: list[str], body: bytes
) -> None:
    assert send(gateway, head(gateway, *lines), body) == 400


def test_a_body_that_ends_too_soon_is_a_bad_request_even_if_it_makes_sense(
    gateway: Deployment,
) -> None:
    body = json.dumps(ASYNC_BODY).encode()
    lengthy = head(gateway, f"Content-Length: {len(body) + 10}")
    assert send(gateway, lengthy, body, end=True) == 400


def test_a_length_beyond_the_limit_is_refused_before_anything_is_sent(gateway: Deployment) -> None:
    assert send(gateway, head(gateway, "Content-Length: 8000001")) == 413
    assert send(gateway, head(gateway, f"Content-Length: {10**30}")) in (400, 413)


def test_a_stranger_is_refused_before_the_body_is_read(gateway: Deployment) -> None:
    request = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n".encode()
    assert send(gateway, request) == 401


def test_a_compressed_body_is_refused(client: httpx.Client) -> None:
    bomb = gzip.compress(b" " * 100_000_000)
    response = client.post(CHAT, content=bomb, headers={"Content-Encoding": "gzip"})
    assert response.status_code == 400
    assert response.json()["error"]["type"] == "bad_request"


@pytest.mark.parametrize(
    "line",
    [
        "Idempotency-Key: a\nX-Evil: 1",
        "Idempotency-Key: a\rX-Evil: 1",
        "Idempotency-Key: a\x00b",
        "Idempotency Key: a",
        "no colon",
        "X: " + "y" * 100_000,
    ],
    ids=range(6),
)
def test_a_header_that_is_nonsense_is_a_bad_request(gateway: Deployment, line: str) -> None:
    body = json.dumps(ASYNC_BODY).encode()
    # HTTP lets a lone line feed end a line; what it must not do is come back in an answer.
    status = send(gateway, head(gateway, line, f"Content-Length: {len(body)}"), body)
    assert status in (400, 431) or (status == 202 and "\nX-Evil" in line)


def test_slow_clients_do_not_keep_others_waiting(gateway: Deployment, client: httpx.Client) -> None:
    with contextlib.ExitStack() as stack:
        beginnings = [
            b"",
            b"POST /v1/chat/completions HTTP/1.1\r\nHost:",
            head(gateway, "Content-Length: 1000") + b'{"model":',
            head(gateway, "Transfer-Encoding: chunked") + b"5\r\n{",
        ]
        for number in range(SLOW_CLIENTS):
            slow = stack.enter_context(dial(gateway))
            slow.sendall(beginnings[number % len(beginnings)])
        began = time.monotonic()
        for _ in range(10):
            assert client.post(CHAT, json=ASYNC_BODY).status_code == 202
        assert client.get("/ready").status_code == 200
        assert time.monotonic() - began < 5.0


def test_twenty_racing_calls_with_one_key_make_one_job(
    gateway: Deployment, client: httpx.Client
) -> None:
    headers = {"Idempotency-Key": f"k-{time.time_ns()}"}
    line = threading.Barrier(20)

    def submit(_: int) -> httpx.Response:
        # A connection each: both web processes take part.
        with gateway.client(gateway.accounts[0].api_key) as own:
            own.get("/health")
            line.wait()
            return own.post(CHAT, json=ASYNC_BODY, headers=headers)

    with ThreadPoolExecutor(20) as threads:
        answers = list(threads.map(submit, range(20)))
    # Who came while the first was being committed elsewhere is told to come back.
    assert {each.status_code for each in answers} <= {202, 409}
    accepted = [each for each in answers if each.status_code == 202]
    assert len({each.content for each in accepted}) == 1
    assert sum("idempotent-replayed" not in each.headers for each in accepted) == 1
    again = client.post(CHAT, json=ASYNC_BODY, headers=headers)
    assert (again.content, again.headers["idempotent-replayed"]) == (accepted[0].content, "true")


def test_many_wait_for_one_job_in_two_processes(gateway: Deployment, client: httpx.Client) -> None:
    job_id = client.post(CHAT, json=ASYNC_BODY).json()["job"]["id"]

    def wait(_: int) -> tuple[str, float]:
        with gateway.client(gateway.accounts[0].api_key) as own:
            job = own.get(f"/v1/jobs/{job_id}?wait=25").json()
            return job["status"], time.time()

    with ThreadPoolExecutor(20) as threads:
        told = list(threads.map(wait, range(20)))
    assert {status for status, _ in told} == {"completed"}
    with gateway.database() as connection:
        row = connection.execute(
            "SELECT extract(epoch FROM completed_at)::float FROM jobs WHERE id = %s",
            [job_id.removeprefix("job_")],
        ).fetchone()
    assert row is not None
    # Sooner than by the look that makes up for a lost notification.
    assert max(moment for _, moment in told) - row[0] < 2.0


@pytest.fixture
def second_web(gateway: Deployment) -> Iterator[str]:
    """The address of one more web process, to be ended by the test."""
    port = free_port()
    name = gateway.processes.start("web", name="web-ending", environ={"PORT": str(port)})
    address = f"http://127.0.0.1:{port}"

    def is_up() -> bool:
        try:
            return httpx.get(f"{address}/health", trust_env=False).is_success
        except httpx.TransportError:
            return False

    until(is_up, ANSWER_SECONDS, "the second web process is up")
    yield address
    gateway.processes.stop(name)


def test_a_stopping_process_finishes_its_calls_settles_them_and_ends(
    gateway: Deployment, second_web: str
) -> None:
    customer = gateway.accounts[1]
    account = customer.id.removeprefix("acct_")
    gateway.simulator.turn(latency_ms=1_500)
    keyed = {"Authorization": f"Bearer {customer.api_key}"}
    with (
        ThreadPoolExecutor(5) as threads,
        httpx.Client(base_url=second_web, headers=keyed, timeout=30, trust_env=False) as idle,
        gateway.database() as connection,
    ):

        def begun() -> int:
            query = "SELECT count(*) FROM holds WHERE account_id = %s AND status = 'open'"
            row = connection.execute(query, [account]).fetchone()
            assert row is not None
            return int(row[0])

        assert idle.get("/v1/models").status_code == 200  # and its connection stays open
        calls = [threads.submit(idle.post, CHAT, json=BODY) for _ in range(5)]
        until(lambda: begun() == 5, ANSWER_SECONDS, "the calls have begun")
        began = time.monotonic()
        gateway.processes.signal("web-ending", signal.SIGTERM)
        answers = [call.result() for call in calls]
        assert gateway.processes.wait("web-ending", 20) == 0
    # An idle connection does not hold it up until its time is over.
    assert time.monotonic() - began < 10
    assert {each.status_code for each in answers} == {200}
    ids = [each.json()["id"].removeprefix("chatcmpl-") for each in answers]
    with gateway.database() as connection:
        charged = connection.execute(
            "SELECT count(*) FROM settlements WHERE id = ANY(%s::uuid[])", [ids]
        ).fetchone()
    assert charged == (5,)


def test_a_stopping_process_ends_its_streams_and_reads_what_callers_left(
    gateway: Deployment, second_web: str
) -> None:
    gateway.simulator.turn(chunk_ms=300)
    keyed = {"Authorization": f"Bearer {gateway.accounts[1].api_key}"}
    body = {**BODY, "stream": True}
    ids, told = [], ""
    with httpx.Client(base_url=second_web, headers=keyed, timeout=30, trust_env=False) as client:
        with client.stream("POST", CHAT, json=body) as left:
            ids.append(_completion_id(next(left.iter_lines())))
        with client.stream("POST", CHAT, json=body) as read:
            lines = read.iter_lines()
            ids.append(_completion_id(next(lines)))
            gateway.processes.signal("web-ending", signal.SIGTERM)
            told = "\n".join(lines)
        assert gateway.processes.wait("web-ending", 20) == 0
    assert told.rstrip().endswith("data: [DONE]")
    with gateway.database() as connection:
        charged = connection.execute(
            "SELECT count(*) FROM settlements WHERE id = ANY(%s::uuid[]) AND NOT unpriced", [ids]
        ).fetchone()
    assert charged == (2,)


def _completion_id(line: str) -> str:
    completion_id: str = json.loads(line.removeprefix("data: "))["id"]
    return completion_id.removeprefix("chatcmpl-")


def test_the_web_process_logs_json_lines_and_no_secrets(
    gateway: Deployment, client: httpx.Client
) -> None:
    client.post(CHAT, json=BODY)
    client.post(CHAT, json=ASYNC_BODY)
    client.post(CHAT, content=b"{broken, a private matter")
    lines = gateway.log_path("web").read_text().splitlines()
    events = [json.loads(line) for line in lines]
    assert {"request"} <= {event["event"] for event in events}
    assert not [event for event in events if event["level"] in ("ERROR", "CRITICAL")]
    logged = "\n".join(lines)
    for secret in ("a private matter", *gateway.secrets()):
        assert secret not in logged
