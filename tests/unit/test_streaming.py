"""A streamed call's run: what is passed on, what is charged, and what is left without a price."""

from decimal import Decimal
from typing import Any

import orjson
import pytest

from gateway.calls import streaming
from gateway.calls.errors import InsufficientFunds
from gateway.calls.idempotency import Stored
from gateway.calls.realtime import Call
from gateway.calls.record import Trail
from gateway.calls.streaming import DONE, Unheard
from gateway.providers.breaker import Breakers, Policy, State
from gateway.providers.dialect import Rejected, StreamBroken, StreamPiece, Unavailable
from tests.unit.calling import FIRST, ID, LAST, SECOND, USAGE, Notes, Scripted, call_with

BUSY = Unavailable("busy", status=503)
CUT = StreamBroken("cut", code="connection", usage=USAGE)
SHOWN = {"include_usage": True}
Json = dict[str, Any]


class Heard:
    """A listener, who leaves after so many events if told to."""

    def __init__(self, patience: int = 1_000) -> None:
        self.events: list[bytes] = []
        self.patience = patience

    def hear(self, event: bytes) -> None:
        if len(self.events) == self.patience:
            raise Unheard
        self.events.append(event)

    def chunks(self) -> list[Json]:
        parsed = []
        for event in b"".join(self.events).split(b"\n\n")[:-1]:
            assert event.startswith(b"data: ")
            if event != DONE.strip():
                parsed.append(orjson.loads(event.removeprefix(b"data: ")))
        return parsed


def tell_error(error: Exception) -> bytes:
    return f"error: {type(error).__name__}".encode()


def run(
    books: Notes,
    call: Call,
    listener: Heard | None = None,
    trail: Trail | None = None,
    breakers: Breakers | None = None,
) -> Stored | None:
    return streaming.run(
        books,
        call,
        listener or Heard(),
        tell_error,
        trail or Trail(),
        breakers or Breakers(),
        lambda _: None,
    )


def charged(books: Notes) -> int | None:
    assert books.notes == ["begin 7", "settle 7"]
    assert books.charge is not None
    return None if books.charge.amounts is None else books.charge.amounts.charged_nanos


def test_pieces_are_passed_on_under_our_names_and_charged_by_the_last() -> None:
    books, heard, dialect, trail = Notes(), Heard(), Scripted([FIRST, SECOND, LAST]), Trail()
    assert run(books, call_with(dialect), heard, trail) is None
    # The usage is ours to bill by; who did not ask for it is not shown it.
    assert len(heard.events) == 3
    assert heard.events[-1] == DONE
    for chunk in heard.chunks():
        assert (chunk["id"], chunk["model"]) == (f"chatcmpl-{ID.hex}", "openai/gpt-4o-mini")
        assert "usage" not in chunk
    assert charged(books) == 23_100
    assert dialect.closed == 1
    assert trail.usage == USAGE
    assert trail.first_token_milliseconds is not None


def test_a_usage_that_was_asked_for_is_shown_with_its_cost() -> None:
    books, heard = Notes(), Heard()
    run(books, call_with(Scripted([FIRST, LAST]), stream_options=SHOWN), heard)
    last = heard.chunks()[-1]
    assert last["choices"] == []
    assert last["usage"]["total_tokens"] == 110
    assert Decimal(last["usage"]["cost_usd"]) * 10**9 == charged(books) == 23_100
    assert heard.events[-1].endswith(DONE)


def test_a_stream_at_another_tier_is_billed_at_the_prices_of_that_tier() -> None:
    books, heard = Notes(), Heard()
    end = LAST._replace(service_tier="priority")
    run(books, call_with(Scripted([FIRST, end]), stream_options=SHOWN), heard)
    # 100 tokens at $0.25 and 10 at $1 a million, and a tenth on top.
    assert charged(books) == 38_500
    assert heard.chunks()[-1]["usage"]["cost_usd"] == "0.0000385"


@pytest.mark.parametrize(
    "end", [[], [LAST._replace(usage=None)], [LAST._replace(service_tier="scale")]]
)
def test_a_stream_that_ends_without_a_price_is_suspended(end: list[StreamPiece]) -> None:
    books, heard = Notes(), Heard()
    run(books, call_with(Scripted([FIRST, *end]), stream_options=SHOWN), heard)
    assert charged(books) is None
    assert heard.events[-1].endswith(DONE)
    assert b"cost_usd" not in heard.events[-1]


@pytest.mark.parametrize("broken", [CUT, RuntimeError("a bug"), KeyboardInterrupt()])
def test_a_stream_that_broke_before_its_usage_is_neither_free_nor_guessed(
    broken: BaseException,
) -> None:
    books, heard, dialect = Notes(), Heard(), Scripted([FIRST, broken])
    with pytest.raises(type(broken)):
        run(books, call_with(dialect), heard)
    assert charged(books) is None
    # The caller is told of it by whoever has the words for it.
    assert len(heard.events) == 1
    assert dialect.closed == 1


def test_what_breaks_after_the_usage_takes_nothing_from_anybody() -> None:
    books, heard = Notes(), Heard()
    run(books, call_with(Scripted([FIRST, LAST, CUT])), heard)
    assert charged(books) == 23_100
    assert heard.events[-1] == DONE


def test_what_fails_before_the_first_piece_is_tried_again_and_elsewhere() -> None:
    books, heard = Notes(), Heard()
    first, second = Scripted(BUSY, BUSY, BUSY), Scripted(BUSY, [FIRST, LAST])
    run(books, call_with(first, second), heard)
    assert (first.calls, second.calls) == (3, 2)
    assert len(heard.events) == 2
    assert charged(books) == 23_100


def test_after_the_first_piece_nobody_is_asked_again() -> None:
    first, second = Scripted([FIRST, CUT], [FIRST, LAST]), Scripted([FIRST, LAST])
    with pytest.raises(StreamBroken):
        run(Notes(), call_with(first, second))
    assert (first.calls, second.calls) == (1, 0)


@pytest.mark.parametrize("error", [Rejected("no", status=400), KeyboardInterrupt()])
def test_what_never_began_costs_nothing(error: BaseException) -> None:
    books = Notes()
    with pytest.raises(type(error)):
        run(books, call_with(Scripted(error)))
    assert books.notes == ["begin 7", "abandon 7"]


def test_a_caller_who_left_before_an_answer_began_is_not_let_off() -> None:
    books = Notes()
    with pytest.raises(Unheard):
        run(books, call_with(Scripted(Unheard())))
    assert charged(books) is None


def test_a_stream_that_nobody_reads_to_its_end_is_suspended() -> None:
    books, dialect = Notes(), Scripted([FIRST, SECOND, SECOND, LAST])
    with pytest.raises(Unheard):
        run(books, call_with(dialect), Heard(patience=2))
    assert charged(books) is None
    assert dialect.closed == 1


def test_who_cannot_pay_calls_nobody() -> None:
    class Broke(Notes):
        def begin(self, call: Call) -> Stored | None:
            super().begin(call)
            raise InsufficientFunds

    dialect = Scripted()
    with pytest.raises(InsufficientFunds):
        run(Broke(), call_with(dialect))
    assert dialect.calls == 0


def test_an_earlier_answer_is_given_again_and_nobody_is_called() -> None:
    earlier, dialect, trail = Stored(200, {}, b"data: before"), Scripted(), Trail()
    assert run(Notes(earlier), call_with(dialect), trail=trail) is earlier
    assert (dialect.calls, trail.replayed, trail.is_settled) == (0, True, False)


def test_a_keyed_stream_is_kept_as_it_was_heard_before_its_end_is_told() -> None:
    class Late(Notes):
        def settle(self, *told: Any) -> None:
            super().settle(*told)
            assert DONE not in heard.events

    books, heard = Late(), Heard()
    run(books, call_with(Scripted([FIRST, SECOND, LAST]), keyed=True), heard)
    assert books.kept is not None
    assert books.kept.body == b"".join(heard.events)
    assert books.kept.headers["Content-Type"] == "text/event-stream"


def test_a_keyed_stream_that_broke_is_kept_with_its_error() -> None:
    books, heard = Notes(), Heard()
    with pytest.raises(StreamBroken):
        run(books, call_with(Scripted([FIRST, CUT]), keyed=True), heard)
    assert books.kept is not None
    assert books.kept.body == b"".join(heard.events) + b"error: StreamBroken"


def test_a_chunk_that_is_no_json_breaks_the_stream() -> None:
    books = Notes()
    with pytest.raises(StreamBroken):
        run(books, call_with(Scripted([FIRST, StreamPiece(b"{nonsense}"), LAST])))
    assert charged(books) is None


def test_a_stream_that_breaks_is_a_failure_to_the_circuit() -> None:
    breakers = Breakers(Policy(failures_in_a_row=1))
    with pytest.raises(StreamBroken):
        run(Notes(), call_with(Scripted([FIRST, CUT])), breakers=breakers)
    assert breakers.states() == {("openai", "house"): State.OPEN}
