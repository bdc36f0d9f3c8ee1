"""Answers that take long, callers who do not wait for them, and a process that is being stopped."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import gevent
import orjson
import pytest
from werkzeug.test import TestResponse

from gateway.billing.prices import format_usd
from gateway.calls.idempotency import Stored
from gateway.calls.realtime import Call
from gateway.calls.record import CallRecord
from gateway.providers.dialect import Broken, ProviderError, StreamBroken
from tests.integration.slow_dialect import CHARGED_NANOS, HURRY, SlowDialect, served_by
from tests.integration.web_world import CHAT, CHAT_BODY, Customer, Web, error_of
from web.pace import Pace
from web.streams import COMMENT, MOST_WAITING

STREAM_BODY = {**CHAT_BODY, "stream": True}
DONE = b"data: [DONE]\n\n"
END_SECONDS = 5.0
CHARGES = "SELECT charged_nanos FROM settlements"

PATIENT = replace(HURRY, quiet_seconds=20.0, comment_seconds=20.0)

Serve = Callable[..., SlowDialect]


@pytest.fixture
def serve(web: Web) -> Iterator[Serve]:
    """Makes a slow provider the one that is asked, under a hurried pace."""
    undone: list[Callable[[], None]] = []

    def start(pace: Pace = HURRY, **manner: Any) -> SlowDialect:
        dialect = SlowDialect(**manner)
        undone.append(served_by(web, dialect, pace))
        return dialect

    yield start
    for undo in undone:
        undo()


@pytest.fixture
def records(web: Web) -> list[CallRecord]:
    """What is told of finished calls."""
    told: list[CallRecord] = []
    web.state.observers[:] = [told.append]
    return told


def post(web: Web, customer: Customer, body: Mapping[str, Any], **headers: str) -> TestResponse:
    return web.client(customer, **headers).post(CHAT, json=body)


def finish(web: Web) -> None:
    """Returns when nothing goes on behind the callers' backs, and the books are in order."""
    web.state.in_flight.finish(END_SECONDS)
    web.assert_books_are_clean()


def error_in(events: bytes) -> dict[str, Any]:
    """The error object that ends a stream."""
    last = events.removesuffix(b"\n\n").rpartition(b"\n\n")[2]
    error: dict[str, Any] = orjson.loads(last.removeprefix(b"data: "))["error"]
    return error


# In one piece.


def test_an_answer_that_takes_long_is_kept_alive_by_spaces(
    web: Web, customer: Customer, serve: Serve
) -> None:
    serve(first_seconds=0.3)
    response = post(web, customer, CHAT_BODY)
    pieces = list(response.iter_encoded())
    assert pieces[:-1] == [b" "] * (len(pieces) - 1)
    assert len(pieces) >= 3
    assert (response.status_code, response.mimetype) == (200, "application/json")
    answer = orjson.loads(b"".join(pieces))
    assert answer["object"] == "chat.completion"
    assert response.headers["X-Lane"] == "standard"
    # The headers left before the cost was known: the usage tells it.
    assert "X-Cost-Usd" not in response.headers
    assert answer["usage"]["cost_usd"] == format_usd(CHARGED_NANOS)
    finish(web)
    assert web.column(CHARGES) == [CHARGED_NANOS]


def test_an_answer_that_is_there_in_time_is_not_padded(
    web: Web, customer: Customer, serve: Serve
) -> None:
    serve(PATIENT, first_seconds=0.01)
    response = post(web, customer, CHAT_BODY)
    assert response.data.startswith(b"{")
    assert response.headers["X-Cost-Usd"] == format_usd(CHARGED_NANOS)
    assert b"cost_usd" not in response.data


def test_a_failure_after_that_is_a_200_whose_body_is_the_error(
    web: Web, customer: Customer, serve: Serve, records: list[CallRecord]
) -> None:
    serve(first_seconds=0.2, error=Broken("garbled"))
    response = post(web, customer, CHAT_BODY)
    assert response.status_code == 200
    assert response.data.startswith(b" ")
    error = orjson.loads(response.data)["error"]
    assert (error["type"], error["code"], error["message"]) == ("upstream_error", 502, "garbled")
    finish(web)
    assert web.column("SELECT status FROM holds") == ["voided"]
    assert [each.http_status for each in records] == [502]


def test_who_hangs_up_on_a_slow_answer_is_billed_for_it(
    web: Web, customer: Customer, serve: Serve
) -> None:
    serve(first_seconds=0.3)
    post(web, customer, CHAT_BODY).close()
    finish(web)
    assert web.column(CHARGES) == [CHARGED_NANOS]


def test_a_slow_answer_under_a_key_is_given_again_without_its_spaces(
    web: Web, customer: Customer, serve: Serve
) -> None:
    serve(first_seconds=0.2)
    first = post(web, customer, CHAT_BODY, Idempotency_Key="slow")
    in_flight = post(web, customer, CHAT_BODY, Idempotency_Key="slow")
    assert (in_flight.status_code, error_of(in_flight)["type"]) == (409, "conflict")
    assert first.data.startswith(b" ")
    again = post(web, customer, CHAT_BODY, Idempotency_Key="slow")
    assert again.data == first.data.lstrip()
    assert again.headers["Idempotent-Replayed"] == "true"


# In pieces.


def test_pieces_are_passed_on_the_moment_they_come(
    web: Web, customer: Customer, serve: Serve
) -> None:
    dialect = serve(PATIENT, piece_seconds=0.05, pieces=4)
    response = post(web, customer, STREAM_BODY)
    heard = response.iter_encoded()
    for number in range(1, 4):
        assert f'"content":"{number - 1} "'.encode() in next(heard)
        assert dialect.told == number
    assert b"".join(heard).endswith(DONE)
    assert dialect.told == 4


def test_a_silent_stream_says_that_it_lives(web: Web, customer: Customer, serve: Serve) -> None:
    serve(first_seconds=0.25, piece_seconds=0.15, pieces=2)
    events = post(web, customer, STREAM_BODY).data
    before, _, after = events.partition(b'"0 "')
    assert before.startswith(COMMENT * 2)
    assert COMMENT in after
    assert events.endswith(DONE)


def test_an_error_after_a_comment_is_an_event_and_costs_nothing(
    web: Web, customer: Customer, serve: Serve, records: list[CallRecord]
) -> None:
    serve(first_seconds=0.15, error=Broken("garbled"))
    response = post(web, customer, STREAM_BODY)
    assert response.status_code == 200
    assert response.data.startswith(COMMENT)
    assert error_in(response.data)["code"] == 502
    finish(web)
    assert web.column("SELECT status FROM holds") == ["voided"]
    assert [(each.http_status, each.unpriced) for each in records] == [(502, False)]


@pytest.mark.parametrize(
    ("error", "code"), [(StreamBroken("cut"), 502), (StreamBroken("", code="timeout"), 504)]
)
def test_a_stream_that_breaks_ends_with_the_error(
    web: Web, customer: Customer, serve: Serve, error: ProviderError, code: int
) -> None:
    serve(error=error, error_after=2)
    events = post(web, customer, STREAM_BODY).data
    assert events.count(b'"content"') == 2
    assert error_in(events)["code"] == code
    assert DONE not in events


def test_who_hangs_up_on_a_stream_is_billed_for_all_of_it(
    web: Web, customer: Customer, serve: Serve
) -> None:
    dialect = serve(piece_seconds=0.03, pieces=10)
    response = post(web, customer, STREAM_BODY)
    next(response.iter_encoded())
    response.close()
    assert dialect.told < 10
    assert web.column(CHARGES) == []
    finish(web)
    assert dialect.told == 10
    assert web.column(CHARGES) == [CHARGED_NANOS]


def test_who_hangs_up_under_a_key_finds_the_whole_answer_later(
    web: Web, customer: Customer, serve: Serve
) -> None:
    serve(piece_seconds=0.03, pieces=5)
    response = post(web, customer, STREAM_BODY, Idempotency_Key="cut")
    next(response.iter_encoded())
    response.close()
    early = post(web, customer, STREAM_BODY, Idempotency_Key="cut")
    assert (early.status_code, error_of(early)["type"]) == (409, "conflict")
    finish(web)
    again = post(web, customer, STREAM_BODY, Idempotency_Key="cut")
    assert again.data.count(b'"content"') == 5
    assert again.data.endswith(DONE)
    assert web.column(CHARGES) == [CHARGED_NANOS]


def test_a_stream_that_is_given_again_after_a_silence_is_whole(
    web: Web, customer: Customer, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(pieces=5)
    told = post(web, customer, STREAM_BODY, Idempotency_Key="late").data
    finish(web)
    begin = web.state.writer.begin

    def begin_late(call: Call) -> Stored | None:
        gevent.sleep(2.5 * HURRY.comment_seconds)
        return begin(call)

    monkeypatch.setattr(web.state.writer, "begin", begin_late)
    again = post(web, customer, STREAM_BODY, Idempotency_Key="late").data
    assert again.startswith(COMMENT)
    assert again.replace(COMMENT, b"") == told
    assert told.endswith(DONE)
    assert web.column(CHARGES) == [CHARGED_NANOS]


@pytest.mark.parametrize(
    ("cap", "manner"),
    [
        ({"drain_seconds": 0.05}, {"piece_seconds": 0.03, "pieces": 100}),
        # While the provider has not said a word.
        ({"drain_seconds": 0.05}, {"first_seconds": 60}),
        ({"drain_bytes": 300}, {"piece_seconds": 0.01, "pieces": 100}),
    ],
)
def test_what_is_not_read_to_its_end_is_neither_free_nor_guessed(
    web: Web,
    customer: Customer,
    serve: Serve,
    records: list[CallRecord],
    cap: dict[str, Any],
    manner: dict[str, Any],
) -> None:
    dialect = serve(replace(HURRY, **cap), **manner)
    response = post(web, customer, STREAM_BODY)
    next(response.iter_encoded())
    response.close()
    finish(web)
    assert dialect.told < 100
    assert web.column("SELECT unpriced FROM settlements") == [True]
    assert [(each.http_status, each.unpriced) for each in records] == [(504, True)]


def test_a_caller_who_does_not_read_does_not_hold_his_bill_up(
    web: Web, customer: Customer, serve: Serve
) -> None:
    dialect = serve(pieces=2 * MOST_WAITING)
    response = post(web, customer, STREAM_BODY)
    heard = response.iter_encoded()
    next(heard)
    finish(web)
    assert dialect.told == 2 * MOST_WAITING
    assert web.column(CHARGES) == [CHARGED_NANOS]
    # What he missed he is not given in pieces that do not fit together.
    rest = b"".join(heard)
    assert DONE not in rest
    assert error_in(rest)["code"] == 504
    response.close()


def test_a_slow_reader_is_waited_for(web: Web, customer: Customer, serve: Serve) -> None:
    dialect = serve(pieces=2 * MOST_WAITING)
    response = post(web, customer, STREAM_BODY)
    heard = response.iter_encoded()
    read = [next(heard)]
    assert dialect.told < 2 * MOST_WAITING
    for piece in heard:
        read.append(piece)
        gevent.sleep(0.01)
    events = b"".join(read)
    assert events.count(b'"content"') == 2 * MOST_WAITING
    assert events.endswith(DONE)


# While the process is being stopped.


def test_a_stream_that_cannot_finish_ends_with_the_error_and_without_a_price(
    web: Web, customer: Customer, serve: Serve, records: list[CallRecord]
) -> None:
    serve(PATIENT, piece_seconds=60)
    response = post(web, customer, STREAM_BODY)
    heard = response.iter_encoded()
    next(heard)
    web.state.in_flight.interrupt()
    error = error_in(b"".join(heard))
    assert (error["type"], error["code"]) == ("unavailable", 503)
    finish(web)
    assert web.column("SELECT unpriced FROM settlements") == [True]
    assert [each.http_status for each in records] == [503]


def test_a_slow_answer_that_cannot_finish_is_the_error_and_costs_nothing(
    web: Web, customer: Customer, serve: Serve
) -> None:
    serve(first_seconds=60)
    response = post(web, customer, CHAT_BODY)
    heard = response.iter_encoded()
    assert next(heard) == b" "
    web.state.in_flight.interrupt()
    error = orjson.loads(b"".join(heard))["error"]
    assert (error["type"], error["code"]) == ("unavailable", 503)
    finish(web)
    assert web.column("SELECT status FROM holds") == ["voided"]


@pytest.mark.parametrize("body", [CHAT_BODY, STREAM_BODY])
def test_a_call_that_has_told_nothing_yet_is_unavailable(
    web: Web, customer: Customer, serve: Serve, body: dict[str, Any]
) -> None:
    dialect = serve(PATIENT, first_seconds=60)

    def interrupt() -> None:
        while not dialect.is_asked:
            gevent.sleep(0.01)
        web.state.in_flight.interrupt()

    gevent.spawn(interrupt)
    response = post(web, customer, body)
    assert (response.status_code, error_of(response)["type"]) == (503, "unavailable")
    assert response.headers["Retry-After"]
    finish(web)
    assert web.column("SELECT status FROM holds") == ["voided"]
