"""The circuit breaker on a clock of its own."""

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.providers.breaker import CIRCUIT_OPEN, Breaker, Breakers, Policy, State
from gateway.providers.dialect import (
    Ambiguous,
    Broken,
    Credential,
    ProviderError,
    Rejected,
    StreamBroken,
    Unauthorized,
    Unavailable,
)

POLICY = Policy(
    failures_in_a_row=3,
    window_seconds=30.0,
    window_calls=10,
    window_failure_percent=50,
    cool_down_seconds=10.0,
)
FAILURE = Unavailable("down", status=503)


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> Breaker:
    return Breaker(POLICY, clock)


def state_of(breaker: Breaker) -> State:
    return breaker.state


def tell(breaker: Breaker, *endings: ProviderError | None) -> None:
    for ending in endings:
        breaker.record(ending)


def opened(breaker: Breaker) -> Breaker:
    tell(breaker, *[FAILURE] * 3)
    assert state_of(breaker) == State.OPEN
    return breaker


@pytest.mark.parametrize(
    "failure",
    [
        Unavailable("busy", status=429),
        Unavailable("late", code="timeout"),
        Broken("no JSON"),
        StreamBroken("cut"),
    ],
)
def test_failures_in_a_row_open_it(breaker: Breaker, failure: ProviderError) -> None:
    tell(breaker, failure, failure)
    assert breaker.allows()
    tell(breaker, failure)
    assert state_of(breaker) == State.OPEN
    assert not breaker.allows()


def test_who_is_not_let_through_is_told_when_to_come_back(breaker: Breaker, clock: Clock) -> None:
    clock.now += 3.0
    opened(breaker)
    clock.now += 4.0
    refusal = breaker.refusal("openai")
    assert (refusal.code, refusal.retry_after_seconds) == (CIRCUIT_OPEN, 6.0)
    assert "openai" in refusal.message
    clock.now += 20.0
    assert breaker.refusal("openai").retry_after_seconds == 0.0


def test_a_success_starts_the_row_anew(breaker: Breaker) -> None:
    tell(breaker, FAILURE, FAILURE, None, FAILURE, FAILURE)
    assert state_of(breaker) == State.CLOSED


@pytest.mark.parametrize(
    "error", [Rejected("no", status=400), Unauthorized("no", status=401), Ambiguous("?")]
)
def test_what_is_not_the_providers_health_does_not_count(
    breaker: Breaker, error: ProviderError
) -> None:
    tell(breaker, *[error] * 20)
    assert state_of(breaker) == State.CLOSED
    tell(breaker, FAILURE, FAILURE, error, FAILURE)
    assert state_of(breaker) == State.OPEN


def test_half_of_the_calls_failing_within_a_window_opens_it(breaker: Breaker) -> None:
    tell(breaker, *[None, FAILURE] * 4, None)
    assert state_of(breaker) == State.CLOSED
    tell(breaker, FAILURE)
    assert state_of(breaker) == State.OPEN


def test_a_rate_below_the_policys_does_not_open_it(breaker: Breaker) -> None:
    tell(breaker, *[None, None, FAILURE] * 20)
    assert state_of(breaker) == State.CLOSED


def test_a_provider_that_limits_every_other_call_is_not_cut_off(breaker: Breaker) -> None:
    tell(breaker, *[None, Unavailable("busy", status=429)] * 20)
    assert state_of(breaker) == State.CLOSED


def test_the_window_just_past_counts_and_older_ones_do_not(breaker: Breaker, clock: Clock) -> None:
    tell(breaker, *[None, FAILURE] * 4)
    clock.now += 90.0
    tell(breaker, None, FAILURE)
    assert state_of(breaker) == State.CLOSED
    tell(breaker, *[None, FAILURE] * 3)
    clock.now += 30.0
    tell(breaker, None, FAILURE)
    assert state_of(breaker) == State.OPEN


def test_after_the_cool_down_one_call_probes_and_its_success_closes_it(
    breaker: Breaker, clock: Clock
) -> None:
    opened(breaker)
    clock.now += 9.9
    assert not breaker.allows()
    clock.now += 0.1
    assert [breaker.allows() for _ in range(5)] == [True, False, False, False, False]
    assert state_of(breaker) == State.HALF_OPEN
    tell(breaker, None)
    assert state_of(breaker) == State.CLOSED
    tell(breaker, FAILURE, FAILURE)
    assert breaker.allows()


def test_a_probe_that_fails_opens_it_for_another_cool_down(breaker: Breaker, clock: Clock) -> None:
    opened(breaker)
    clock.now += 10.0
    assert breaker.allows()
    tell(breaker, FAILURE)
    assert state_of(breaker) == State.OPEN
    clock.now += 9.9
    assert not breaker.allows()
    clock.now += 0.1
    assert breaker.allows()


def test_a_probe_that_was_refused_for_its_own_sake_leaves_the_next_call_to_probe(
    breaker: Breaker, clock: Clock
) -> None:
    opened(breaker)
    clock.now += 10.0
    assert breaker.allows()
    tell(breaker, Rejected("no", status=400))
    assert state_of(breaker) == State.OPEN
    assert [breaker.allows(), breaker.allows()] == [True, False]


def test_a_probe_that_is_never_heard_of_again_does_not_block_for_ever(
    breaker: Breaker, clock: Clock
) -> None:
    opened(breaker)
    clock.now += 10.0
    assert breaker.allows()
    clock.now += 9.9
    assert not breaker.allows()
    clock.now += 0.1
    assert [breaker.allows(), breaker.allows()] == [True, False]


def test_calls_that_were_under_way_when_it_opened_change_nothing(
    breaker: Breaker, clock: Clock
) -> None:
    opened(breaker)
    clock.now += 5.0
    tell(breaker, None, FAILURE)
    assert state_of(breaker) == State.OPEN
    clock.now += 5.0
    assert breaker.allows()


def test_of_many_threads_one_probes(breaker: Breaker, clock: Clock) -> None:
    opened(breaker)
    clock.now += 10.0
    barrier = threading.Barrier(8, timeout=10)
    allowed: list[bool] = []

    def ask() -> None:
        barrier.wait()
        allowed.extend(breaker.allows() for _ in range(200))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert allowed.count(True) == 1


endings = st.sampled_from([None, FAILURE, Rejected("no", status=400)])


@given(st.lists(st.tuples(st.floats(0, 40), endings), max_size=60))
def test_whatever_happens_it_never_stays_shut_beyond_a_cool_down(
    calls: list[tuple[float, ProviderError | None]],
) -> None:
    clock = Clock()
    breaker = Breaker(POLICY, clock)
    for seconds, ending in calls:
        clock.now += seconds
        if breaker.allows():
            breaker.record(ending)
        assert breaker.allows() or state_of(breaker) != State.CLOSED
    clock.now += POLICY.cool_down_seconds
    assert breaker.allows()


def test_every_provider_account_has_a_circuit_of_its_own(clock: Clock) -> None:
    breakers = Breakers(POLICY, clock)
    house, customers = (Credential("openai", name, "sk-1", "http://x") for name in ("house", "c1"))
    opened(breakers.of(house))
    assert breakers.of(house) is breakers.of(Credential("openai", "house", "sk-2", "http://y"))
    assert breakers.of(customers).allows()
    assert breakers.states() == {
        ("openai", "house"): State.OPEN,
        ("openai", "c1"): State.CLOSED,
    }
