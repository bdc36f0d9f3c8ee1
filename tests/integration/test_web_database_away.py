"""The database goes away, hangs, or is lost at the worst moment: 503, and nothing half done."""

import logging
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import gevent
import pytest
from sqlalchemy import text
from werkzeug.test import TestResponse

from models.session import connect, transaction
from tests.contract.simulator_process import SimulatorProcess
from tests.integration.database_proxy import DatabaseProxy
from tests.integration.web_world import (
    ASYNC_BODY,
    CHAT,
    CHAT_BODY,
    CLOSE_SECONDS,
    Customer,
    Web,
    error_of,
    job_path,
    make_web,
)
from web.state import EXTENSION
from web.threads import Readers
from web.writer import Writer

KEYED = {"Idempotency-Key": "k"}
CALLS: list[tuple[str, str, dict[str, Any] | None]] = [
    ("POST", CHAT, dict(CHAT_BODY)),
    ("POST", CHAT, dict(ASYNC_BODY)),
    ("GET", "/v1/jobs", None),
    ("GET", f"/v1/jobs/job_{'0' * 32}", None),
    ("POST", f"/v1/jobs/job_{'0' * 32}/cancel", None),
    ("GET", "/v1/webhook_secret", None),
]


@pytest.fixture
def proxy(database_url: str) -> Iterator[DatabaseProxy]:
    with DatabaseProxy(database_url) as running:
        yield running
        assert not running.is_armed, "what was to be cut off has never been said"


@pytest.fixture
def away(proxy: DatabaseProxy, redis_url: str, provider: SimulatorProcess) -> Iterator[Web]:
    """A web process whose database is behind the proxy."""
    with make_web(proxy.url, redis_url, provider) as made:
        yield made
        proxy.mend()


def assert_unavailable(response: TestResponse) -> None:
    assert response.status_code == 503
    assert error_of(response)["type"] == "unavailable"
    assert int(response.headers["Retry-After"]) > 0


@pytest.mark.parametrize(("method", "path", "body"), CALLS)
def test_without_a_database_every_call_is_unavailable_and_nothing_is_accepted(
    web: Web,
    customer: Customer,
    away: Web,
    proxy: DatabaseProxy,
    method: str,
    path: str,
    body: dict[str, Any] | None,
) -> None:
    proxy.cut()
    assert_unavailable(away.client(customer).open(path, method=method, json=body))
    assert (web.count("jobs"), web.count("holds")) == (0, 0)


@pytest.mark.parametrize("body", [CHAT_BODY, ASYNC_BODY])
def test_a_call_whose_key_is_known_is_unavailable_too(
    web: Web, away: Web, proxy: DatabaseProxy, provider: SimulatorProcess, body: dict[str, Any]
) -> None:
    client = away.client(web.customer())
    assert client.get("/v1/models").status_code == 200
    proxy.cut()
    assert_unavailable(client.post(CHAT, json=body))
    assert (web.count("jobs"), web.count("holds"), provider.lines()) == (0, 0, [])
    proxy.mend()
    assert client.post(CHAT, json=body).status_code in (200, 202)


def test_without_a_database_health_is_ok_and_readiness_is_down(
    away: Web, proxy: DatabaseProxy
) -> None:
    proxy.cut()
    assert away.client(None).get("/health").status_code == 200
    ready = away.client(None).get("/ready")
    assert (ready.status_code, ready.get_json()["status"]) == (503, "down")
    assert ready.get_json()["checks"]["database"] == "down"


def test_a_server_that_is_not_there_is_unavailable(redis_url: str, web: Web) -> None:
    with make_web("postgresql://postgres@127.0.0.1:1/x", redis_url, None) as dead:
        assert_unavailable(dead.client(web.customer()).get("/v1/jobs"))


def test_a_restart_of_the_database_between_two_calls_is_not_noticed(
    web: Web, away: Web, proxy: DatabaseProxy
) -> None:
    client = away.client(web.customer())
    assert client.post(CHAT, json=ASYNC_BODY).status_code == 202
    proxy.cut()
    proxy.mend()
    assert client.post(CHAT, json=ASYNC_BODY).status_code == 202
    assert web.count("jobs") == 2


def test_an_acceptance_whose_commit_was_not_heard_is_found_again_by_its_key(
    web: Web, away: Web, proxy: DatabaseProxy
) -> None:
    customer = web.customer()
    client = away.client(customer)
    assert client.get("/v1/models").status_code == 200
    proxy.cut_reply_to(b"COMMIT")
    assert_unavailable(client.post(CHAT, json=ASYNC_BODY, headers=KEYED))
    assert web.count("jobs") == 1
    again = client.post(CHAT, json=ASYNC_BODY, headers=KEYED)
    assert (again.status_code, again.headers["Idempotent-Replayed"]) == (202, "true")
    assert (web.count("jobs"), web.count("holds")) == (1, 1)
    web.assert_books_are_clean()


def test_an_acceptance_that_was_lost_before_its_commit_leaves_nothing(
    web: Web, away: Web, proxy: DatabaseProxy
) -> None:
    customer = web.customer()
    client = away.client(customer)
    assert client.get("/v1/models").status_code == 200
    for words in (b"idempotency_keys", b"hold_all", b"COPY"):
        proxy.cut_reply_to(words)
        assert_unavailable(client.post(CHAT, json=ASYNC_BODY, headers=KEYED))
        assert (web.count("jobs"), web.count("holds")) == (0, 0), words
    first = client.post(CHAT, json=ASYNC_BODY, headers=KEYED)
    assert first.status_code == 202
    assert "Idempotent-Replayed" not in first.headers


def test_a_lane_that_was_rolled_back_is_not_remembered(
    web: Web, away: Web, proxy: DatabaseProxy
) -> None:
    client = away.client(web.customer())
    assert client.get("/v1/models").status_code == 200
    # The lane is written before the jobs are copied, and goes with them.
    proxy.cut_reply_to(b"job_bodies")
    assert_unavailable(client.post(CHAT, json=ASYNC_BODY))
    assert client.post(CHAT, json=CHAT_BODY).status_code == 200
    assert client.post(CHAT, json=ASYNC_BODY).status_code == 202
    assert web.column("SELECT lane_id FROM jobs") == web.column("SELECT id FROM lanes")


def test_a_hold_whose_commit_was_not_heard_is_released_and_its_key_freed(
    web: Web, away: Web, proxy: DatabaseProxy, provider: SimulatorProcess
) -> None:
    customer = web.customer()
    before = web.available_nanos(customer)
    client = away.client(customer)
    assert client.get("/v1/models").status_code == 200
    proxy.cut_reply_to(b"COMMIT")
    assert_unavailable(client.post(CHAT, json=CHAT_BODY, headers=KEYED))
    assert provider.lines() == []
    away.settled()
    assert web.available_nanos(customer) == before
    assert web.count("idempotency_keys") == 0
    assert client.post(CHAT, json=CHAT_BODY, headers=KEYED).status_code == 200


@pytest.mark.parametrize("headers", [{}, KEYED])
def test_a_settlement_is_tried_until_the_database_takes_it(
    web: Web, away: Web, proxy: DatabaseProxy, headers: dict[str, str]
) -> None:
    customer = web.customer()
    before = web.available_nanos(customer)
    client = away.client(customer)
    assert client.post(CHAT, json=CHAT_BODY).status_code == 200
    away.settled()
    # The hold is taken, the provider answers, and the database is gone.
    proxy.cut_reply_to(b"UPDATE holds SET status")
    cut = gevent.spawn_later(0.3, proxy.cut)
    mended = gevent.spawn_later(1.0, proxy.mend)
    response = client.post(CHAT, json=CHAT_BODY, headers=headers)
    assert response.status_code == 200
    gevent.joinall([cut, mended])
    away.settled()
    (one, other) = web.column("SELECT charged_nanos FROM settlements")
    assert web.available_nanos(customer) == before - one - other
    assert web.column("SELECT DISTINCT status FROM holds") == ["posted"]
    if headers:
        again = client.post(CHAT, json=CHAT_BODY, headers=headers)
        assert (again.headers["Idempotent-Replayed"], again.data) == ("true", response.data)
    web.assert_books_are_clean()


def test_a_settlement_whose_commit_was_not_heard_is_charged_once(
    web: Web, away: Web, proxy: DatabaseProxy
) -> None:
    customer = web.customer()
    client = away.client(customer)
    assert client.post(CHAT, json=CHAT_BODY).status_code == 200
    proxy.cut_reply_to(b"COMMIT")
    away.settled()
    assert web.count("settlements") == 1
    assert web.column("SELECT count(*) FROM transfers WHERE kind = 'charge'") == [1]
    web.assert_books_are_clean()


def test_an_exhausted_pool_is_unavailable_soon(web: Web, customer: Customer) -> None:
    patience_seconds = 0.3
    impatient = replace(
        web.state, readers=Readers(web.state.house.engine, patience_seconds=patience_seconds)
    )
    web.app.extensions[EXTENSION] = impatient
    client = web.client(customer)
    assert client.get("/v1/models").status_code == 200
    pool_size = 3
    held = [web.state.house.engine.connect() for _ in range(pool_size)]
    began = time.monotonic()
    assert_unavailable(client.get("/v1/jobs"))
    assert time.monotonic() - began < 1.0
    for connection in held:
        connection.close()
    assert client.get("/v1/jobs").status_code == 200


def test_a_job_that_finds_no_free_connection_is_unavailable_and_not_accepted(
    web: Web, customer: Customer
) -> None:
    crowded = connect(
        web.state.house.settings.sqlalchemy_url,
        pool_size=1,
        pool_timeout_seconds=0.2,
        name="crowded",
    )
    web.app.extensions[EXTENSION] = replace(web.state, writer=Writer(crowded))
    client = web.client(customer)
    with crowded.connect():
        assert_unavailable(client.post(CHAT, json=ASYNC_BODY))
        assert (web.count("jobs"), web.count("holds")) == (0, 0)
    assert client.post(CHAT, json=ASYNC_BODY).status_code == 202
    crowded.dispose()


def test_a_database_that_does_not_answer_is_unavailable_soon(web: Web, customer: Customer) -> None:
    web.app.extensions[EXTENSION] = replace(
        web.state, readers=Readers(web.state.house.engine, patience_seconds=0.3)
    )
    client = web.client(customer)
    job_id = web.submit(customer)
    with transaction(web.engine) as session:
        session.execute(text("LOCK TABLE jobs IN ACCESS EXCLUSIVE MODE"))
        assert_unavailable(client.get(job_path(job_id)))
    assert client.get(job_path(job_id)).status_code == 200


def test_nothing_is_printed_that_is_not_logged(
    away: Web, web: Web, proxy: DatabaseProxy, capfd: pytest.CaptureFixture[str]
) -> None:
    client = away.client(web.customer())
    logging.getLogger().handlers.clear()
    capfd.readouterr()
    assert client.post(CHAT, json=CHAT_BODY).status_code == 200
    proxy.cut()
    for method, path, body in CALLS:
        assert client.open(path, method=method, json=body).status_code == 503
    proxy.mend()
    assert away.state.writer.drain(CLOSE_SECONDS)
    # gevent would print the traceback of whatever a thread or a greenlet let out.
    assert "Traceback" not in capfd.readouterr().err
