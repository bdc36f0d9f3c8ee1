"""A synchronous call's run: when it is tried again, what is charged, what its caller is told."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from flask import Flask

from gateway.billing.pricing import amounts
from gateway.calls import realtime
from gateway.calls.attempts import ATTEMPTS, PATIENCE_SECONDS
from gateway.calls.errors import InsufficientFunds
from gateway.calls.idempotency import Stored
from gateway.calls.realtime import Call, Outcome
from gateway.calls.record import Trail
from gateway.catalogue.usage import Usage
from gateway.providers.breaker import Breakers
from gateway.providers.dialect import (
    Answer,
    Broken,
    Endpoint,
    ProviderError,
    Rejected,
    StreamBroken,
    Unauthorized,
    Unavailable,
)
from tests.unit.calling import ANSWER, ID, Notes, Scripted, call_with
from web.errors import provider_failure


def present(outcome: Outcome) -> Stored:
    told = f"{outcome.body['model']} {outcome.body.get('id')} {outcome.charged_nanos}"
    return Stored(200, {}, told.encode())


def run(
    books: Notes,
    call: Call,
    sleep: Callable[[float], None] = lambda _: None,
    trail: Trail | None = None,
) -> realtime.Given:
    return realtime.run(books, call, present, trail or Trail(), Breakers(), sleep)


def test_an_answer_is_charged_and_given_under_our_own_names() -> None:
    books = Notes()
    given = run(books, call_with(Scripted(ANSWER)))
    assert books.notes == ["begin 7", "settle 7"]
    # 100 tokens at $0.15 and 10 at $0.60 a million: 21,000 nanos, and a tenth of it on top.
    assert given == realtime.Given(
        Stored(200, {}, f"openai/gpt-4o-mini chatcmpl-{ID.hex} 23100".encode()), replayed=False
    )
    assert books.kept == given.answer
    assert books.charge is not None
    assert books.charge.amounts is not None
    assert (books.charge.hold_id, books.charge.lane) == (ID, "standard")
    assert (books.charge.amounts.cost_nanos, books.charge.amounts.charged_nanos) == (21_000, 23_100)


def test_embeddings_keep_their_own_id() -> None:
    given = run(Notes(), call_with(Scripted(ANSWER), endpoint=Endpoint.EMBEDDINGS))
    assert given.answer.body == b"openai/gpt-4o-mini theirs 23100"


def test_an_answer_without_usage_is_unpriced_and_never_zero() -> None:
    books = Notes()
    given = run(books, call_with(Scripted(Answer({}, None))))
    assert given.answer.body.endswith(b"None")
    assert books.charge is not None
    assert books.charge.amounts is None


def test_what_ran_at_another_tier_is_billed_at_the_prices_of_that_tier() -> None:
    books = Notes()
    call = call_with(Scripted(replace(ANSWER, service_tier="priority")))
    given = run(books, call)
    # 100 tokens at $0.25 and 10 at $1 a million: 35,000 nanos, and a tenth on top.
    assert given.answer.body.endswith(b"38500")
    charge = books.charge
    assert charge is not None
    assert charge.amounts is not None
    assert charge.amounts.charged_nanos == 38_500
    prices = call.prices(charge.price_id)
    assert prices == call.route.offer.tiers["priority"] != call.route.offer.prices
    assert amounts(ANSWER.usage or Usage(), prices, charge.lane, 1_000) == charge.amounts


@pytest.mark.parametrize("tier", ["scale", "flex"])
def test_a_tier_without_a_price_is_unpriced_and_never_guessed(tier: str) -> None:
    books = Notes()
    given = run(books, call_with(Scripted(replace(ANSWER, service_tier=tier))))
    assert given.answer.body.endswith(b"None")
    assert books.charge is not None
    assert (books.charge.amounts, books.charge.usage) == (None, ANSWER.usage)


def test_what_happened_is_noted_on_the_way() -> None:
    trail = Trail()
    run(Notes(), call_with(Scripted(Unavailable("no", status=503), ANSWER)), trail=trail)
    assert [(each.http_status, each.error) for each in trail.attempts] == [
        (503, "unavailable"),
        (200, None),
    ]
    assert {(each.provider, each.model) for each in trail.attempts} == {("openai", "gpt-4o-mini")}
    assert trail.usage == ANSWER.usage
    assert trail.amounts is not None
    assert (trail.amounts.charged_nanos, trail.is_settled, trail.replayed) == (23_100, True, False)


def test_an_earlier_answer_is_given_again_and_nobody_is_called() -> None:
    earlier, dialect = Stored(200, {"X": "y"}, b"before"), Scripted()
    books = Notes(earlier)
    assert run(books, call_with(dialect)) == realtime.Given(earlier, replayed=True)
    assert (books.notes, dialect.calls) == (["begin 7"], 0)


def test_who_cannot_pay_calls_nobody() -> None:
    class Broke(Notes):
        def begin(self, call: Call) -> Stored | None:
            super().begin(call)
            raise InsufficientFunds

    books, dialect = Broke(), Scripted()
    with pytest.raises(InsufficientFunds):
        run(books, call_with(dialect))
    assert (books.notes, dialect.calls) == (["begin 7"], 0)


@pytest.mark.parametrize("code", [None, "rate_limit_exceeded", "connection"])
def test_what_failed_for_now_is_tried_again_with_growing_patience(code: str | None) -> None:
    waits: list[float] = []
    dialect = Scripted(Unavailable("no", code=code), Unavailable("no", code=code), ANSWER)
    books = Notes()
    run(books, call_with(dialect), waits.append)
    assert dialect.calls == 3
    assert 0.25 <= waits[0] <= 0.5 <= waits[1] <= 1.0
    assert books.notes == ["begin 7", "settle 7"]


def test_what_keeps_failing_is_given_up_and_costs_nothing() -> None:
    dialect = Scripted(*[Unavailable("no") for _ in range(ATTEMPTS)])
    books = Notes()
    with pytest.raises(Unavailable):
        run(books, call_with(dialect))
    assert dialect.calls == ATTEMPTS
    assert books.notes == ["begin 7", "abandon 7"]


@pytest.mark.parametrize(
    "error",
    [
        Rejected("no", status=400),
        Unauthorized("no", status=401),
        Broken("no"),
        Unavailable("no", code="timeout"),
        Unavailable("no", retry_after_seconds=PATIENCE_SECONDS),
        Unavailable("no", retry_after_seconds=86_400),
    ],
)
def test_what_would_fail_again_or_takes_too_long_is_not_tried_again(error: ProviderError) -> None:
    dialect, books = Scripted(error), Notes()
    with pytest.raises(type(error)):
        run(books, call_with(dialect))
    assert (dialect.calls, books.notes) == (1, ["begin 7", "abandon 7"])


def test_nobody_comes_back_before_retry_after() -> None:
    waits: list[float] = []
    dialect = Scripted(Unavailable("no", retry_after_seconds=20), ANSWER)
    run(Notes(), call_with(dialect), waits.append)
    assert 20 <= waits[0] <= 25


def test_an_interrupted_call_is_released() -> None:
    books = Notes()

    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(books, call_with(Scripted(Unavailable("no"))), interrupt)
    assert books.notes == ["begin 7", "abandon 7"]


@pytest.mark.parametrize(
    ("error", "status", "message", "retry_after"),
    [
        (Rejected("bad field", status=404, param="seed"), 400, "bad field", None),
        (Rejected("too long", status=413), 400, "too long", None),
        (Unauthorized("wrong key sk-1", status=401), 502, None, None),
        (Unavailable("busy", status=503), 502, "busy", None),
        (Unavailable("busy", status=429, retry_after_seconds=76.6), 502, "busy", "77"),
        (Unavailable("busy", status=429, retry_after_seconds=0.1), 502, "busy", "1"),
        (Unavailable("unreachable", code="connection"), 502, "unreachable", None),
        (Unavailable("late", code="timeout"), 504, "late", None),
        (Broken("garbled"), 502, "garbled", None),
        (StreamBroken("cut", code="connection"), 502, "cut", None),
        (StreamBroken("silent", code="timeout"), 504, "silent", None),
    ],
)
def test_a_providers_failure_becomes_a_row_of_the_error_table(
    error: ProviderError, status: int, message: str | None, retry_after: str | None
) -> None:
    with Flask(__name__).app_context():
        response = provider_failure(error)
    body = response.get_json()["error"]
    types = {400: "bad_request", 502: "upstream_error", 504: "upstream_timeout"}
    assert (response.status_code, body["code"], body["type"]) == (status, status, types[status])
    assert body["param"] == getattr(error, "param", None)
    assert response.headers.get("Retry-After") == retry_after
    assert "sk-1" not in body["message"]
    if message is not None:
        assert body["message"] == message
