"""Where and when a failed call is tried again: the pure choice, and the tries that follow it."""

import logging
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.calls.attempts import (
    ATTEMPTS,
    FIRST_RETRY_SECONDS,
    PATIENCE_SECONDS,
    SWITCH_SECONDS,
    Again,
    Move,
    choose,
    reach,
)
from gateway.calls.record import LONGEST_CODE, Trail
from gateway.calls.routing import Route
from gateway.providers.breaker import CIRCUIT_OPEN, Breakers, Policy
from gateway.providers.dialect import (
    Answer,
    Broken,
    ProviderError,
    Rejected,
    Unauthorized,
    Unavailable,
)
from tests.unit.calling import ANSWER, Scripted, call_with

BUSY = Unavailable("busy", status=503)
LATE = Unavailable("late", code="timeout")
CLOCK: dict[str, Any] = {"attempt": 0, "elapsed_seconds": 0.0, "routes_left": 0, "jitter": 0.0}


def chosen(error: ProviderError, **told: Any) -> Again | Move:
    return choose(error, **{**CLOCK, **told})


@pytest.mark.parametrize(
    ("error", "told", "choice"),
    [
        (BUSY, {}, Again(FIRST_RETRY_SECONDS)),
        (BUSY, {"attempt": 1}, Again(2 * FIRST_RETRY_SECONDS)),
        (BUSY, {"attempt": 1, "routes_left": 1}, Again(2 * FIRST_RETRY_SECONDS)),
        (BUSY, {"attempt": ATTEMPTS - 1}, Move.GIVE_UP),
        (BUSY, {"attempt": ATTEMPTS - 1, "routes_left": 1}, Move.NEXT_PROVIDER),
        (BUSY, {"elapsed_seconds": PATIENCE_SECONDS, "routes_left": 1}, Move.GIVE_UP),
        (BUSY, {"elapsed_seconds": PATIENCE_SECONDS - 0.1}, Move.GIVE_UP),
        (Unavailable("", retry_after_seconds=20), {}, Again(20)),
        (Unavailable("", retry_after_seconds=0), {}, Again(0)),
        (Unavailable("", retry_after_seconds=20), {"elapsed_seconds": 41}, Move.GIVE_UP),
        (Unavailable("", retry_after_seconds=20), {"routes_left": 1}, Move.NEXT_PROVIDER),
        (Unavailable("", retry_after_seconds=86_400), {"elapsed_seconds": 0.1}, Move.GIVE_UP),
        (LATE, {}, Move.GIVE_UP),
        (LATE, {"routes_left": 1}, Move.NEXT_PROVIDER),
        (LATE, {"routes_left": 1, "elapsed_seconds": 600}, Move.GIVE_UP),
        (Rejected("", status=400), {"routes_left": 1}, Move.GIVE_UP),
        (Rejected("", status=404), {"routes_left": 1}, Move.NEXT_PROVIDER),
        (Rejected("", status=404), {}, Move.GIVE_UP),
        (Unauthorized("", status=401), {}, Move.GIVE_UP),
        (Unauthorized("", status=401), {"routes_left": 1}, Move.NEXT_PROVIDER),
        (Broken(""), {}, Move.GIVE_UP),
        (Broken(""), {"routes_left": 1}, Move.NEXT_PROVIDER),
    ],
)
def test_the_choice(error: ProviderError, told: dict[str, Any], choice: Again | Move) -> None:
    assert chosen(error, **told) == choice


@given(
    retry_after=st.none() | st.floats(0, 86_400),
    attempt=st.integers(0, 5),
    elapsed=st.floats(0, 700),
    routes_left=st.integers(0, 3),
    jitter=st.floats(0, 1),
)
def test_nobody_waits_beyond_his_patience_or_comes_back_before_retry_after(
    retry_after: float | None, attempt: int, elapsed: float, routes_left: int, jitter: float
) -> None:
    error = Unavailable("busy", retry_after_seconds=retry_after)
    choice = choose(
        error,
        attempt=attempt,
        elapsed_seconds=elapsed,
        routes_left=routes_left,
        jitter=jitter,
    )
    if isinstance(choice, Again):
        assert elapsed + choice.wait_seconds <= PATIENCE_SECONDS
        assert choice.wait_seconds >= min(retry_after or 0.0, PATIENCE_SECONDS)
        assert not routes_left or choice.wait_seconds <= SWITCH_SECONDS
        assert attempt + 1 < ATTEMPTS
    elif choice is Move.NEXT_PROVIDER:
        assert routes_left > 0
        assert elapsed < PATIENCE_SECONDS


class Asked:
    """What `reach` was told to do, and what came of it."""

    def __init__(self, *dialects: Scripted, breakers: Breakers | None = None) -> None:
        self.routes = call_with(*dialects).routes
        self.trail = Trail()
        self.waits: list[float] = []
        self.breakers = breakers or Breakers()

    def reach(self) -> Answer:
        def ask(route: Route) -> Answer:
            assert isinstance(route.dialect, Scripted)
            return route.dialect.call()

        return reach(self.routes, ask, self.trail, self.breakers, self.waits.append)


def test_the_next_provider_answers_when_the_first_keeps_failing() -> None:
    first, second = Scripted(*[BUSY] * ATTEMPTS), Scripted(ANSWER)
    asked = Asked(first, second)
    assert asked.reach() is ANSWER
    assert (first.calls, second.calls) == (ATTEMPTS, 1)
    assert len(asked.waits) == ATTEMPTS - 1
    assert asked.trail.route == asked.routes[1]
    assert [each.http_status for each in asked.trail.attempts] == [503] * ATTEMPTS + [200]


def test_the_last_failure_is_raised_when_nobody_answers() -> None:
    asked = Asked(Scripted(Unauthorized("no money", status=402)), Scripted(Broken("garbled")))
    with pytest.raises(Broken):
        asked.reach()
    assert [each.error for each in asked.trail.attempts] == ["unauthorized", "broken"]


def test_what_the_first_refuses_is_not_tried_elsewhere() -> None:
    second = Scripted(ANSWER)
    asked = Asked(Scripted(Rejected("bad", status=400, code="x" * 1000)), second)
    with pytest.raises(Rejected):
        asked.reach()
    assert second.calls == 0
    assert asked.trail.attempts[0].error == "x" * LONGEST_CODE


def test_an_open_circuit_is_passed_over() -> None:
    breakers = Breakers(Policy(failures_in_a_row=ATTEMPTS))
    Asked(Scripted(*[BUSY] * ATTEMPTS), Scripted(ANSWER), breakers=breakers).reach()
    first, second = Scripted(ANSWER), Scripted(ANSWER)
    asked = Asked(first, second, breakers=breakers)
    assert asked.reach() is ANSWER
    assert (first.calls, second.calls) == (0, 1)
    assert [each.error for each in asked.trail.attempts] == [CIRCUIT_OPEN, None]


def test_where_every_circuit_is_open_a_call_fails_at_once() -> None:
    breakers = Breakers(Policy(failures_in_a_row=ATTEMPTS))
    with pytest.raises(Unavailable):
        Asked(Scripted(*[BUSY] * ATTEMPTS), breakers=breakers).reach()
    unasked = Scripted(ANSWER)
    asked = Asked(unasked, breakers=breakers)
    with pytest.raises(Unavailable) as caught:
        asked.reach()
    assert (caught.value.code, unasked.calls, asked.waits) == (CIRCUIT_OPEN, 0, [])


def test_a_circuit_that_opens_under_a_call_ends_its_tries() -> None:
    dialect = Scripted(*[BUSY] * ATTEMPTS)
    asked = Asked(dialect, breakers=Breakers(Policy(failures_in_a_row=2)))
    with pytest.raises(Unavailable) as caught:
        asked.reach()
    assert caught.value is BUSY
    assert dialect.calls == 2


def test_a_key_of_ours_that_is_refused_raises_an_alert_even_if_another_serves(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.ERROR):
        Asked(Scripted(Unauthorized("wrong key sk-1", status=401)), Scripted(ANSWER)).reach()
    (record,) = caplog.records
    fields = vars(record)
    assert (record.msg, fields["alert"], fields["http_status"]) == (
        "provider.unauthorized",
        True,
        401,
    )
    assert "sk-1" not in str(fields)
