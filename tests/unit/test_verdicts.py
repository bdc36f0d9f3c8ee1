"""What a provider counted is divided without a rest, and nothing is explained that is not known."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.catalogue.rates import Rates, Tier
from gateway.reconciliation.verdicts import Booked, Tokens, Told, Verdict, divide, worth

RATES = Rates(
    input=2_000, cache_read=1_000, cache_write_short=2_500, cache_write_long=4_000, output=8_000
)
TIERED = replace(
    RATES,
    tiers=(
        Tier(
            above_input_tokens=100,
            input=4_000,
            cache_read=500,
            cache_write_short=4_000,
            cache_write_long=4_000,
            output=16_000,
        ),
    ),
)
SETTLED = Tokens(100, 10, 50)
SETTLED_NANOS = 610
KNOWN = Booked(requests=2, settled=SETTLED, settled_nanos=SETTLED_NANOS)
MORE = Tokens(110, 10, 60)
"""Worth 100 nano-USD more."""


def told(tokens: Tokens | None, requests: int | None = 2) -> Told:
    return Told(requests, tokens)


def test_what_agrees_token_by_token_is_explained_at_what_it_was_booked() -> None:
    # Rounded line by line it may differ from what the sum would cost: that is no difference.
    booked = replace(KNOWN, settled_nanos=SETTLED_NANOS + 1)
    assert divide(told(SETTLED), booked, [RATES]) == Verdict(explained_nanos=SETTLED_NANOS + 1)


def test_what_nobody_knows_is_unexplained() -> None:
    assert divide(told(MORE), KNOWN, [RATES]) == Verdict(
        explained_nanos=SETTLED_NANOS, unexplained_nanos=100
    )


def test_what_is_booked_and_was_not_counted_is_an_excess() -> None:
    booked = Booked(requests=2, settled=MORE, settled_nanos=SETTLED_NANOS + 100)
    assert divide(told(SETTLED), booked, [RATES]) == Verdict(
        explained_nanos=SETTLED_NANOS, excess_nanos=100
    )


def test_a_surplus_of_one_class_is_not_made_up_for_by_another() -> None:
    verdict = divide(told(Tokens(100, 20, 49)), KNOWN, [RATES])
    assert (verdict.unexplained_nanos, verdict.excess_nanos) == (10, 8)


@pytest.mark.parametrize(("aside", "left"), [(40, 60), (98, 0), (100, 0), (500, 0)])
def test_what_was_kept_aside_explains_as_much_as_it_is(aside: int, left: int) -> None:
    # Within a nano-USD a call it was only rounded.
    verdict = divide(told(MORE), replace(KNOWN, aside_nanos=aside), [RATES])
    assert verdict == Verdict(explained_nanos=SETTLED_NANOS + 100 - left, unexplained_nanos=left)


def test_what_is_held_for_unfinished_work_is_in_flight_and_no_more_than_that() -> None:
    verdict = divide(told(MORE), replace(KNOWN, in_flight_nanos=70), [RATES])
    assert (verdict.in_flight_nanos, verdict.unexplained_nanos) == (70, 30)


def test_what_may_count_for_another_day_explains_what_there_is_of_it() -> None:
    near = Tokens(10, 0, 4)
    verdict = divide(told(MORE), replace(KNOWN, near=near), [RATES])
    assert verdict == Verdict(explained_nanos=SETTLED_NANOS + 52, unexplained_nanos=48)
    verdict = divide(told(SETTLED), replace(KNOWN, near=near), [RATES])
    assert verdict == Verdict(explained_nanos=SETTLED_NANOS)


def test_all_of_an_orphan_is_orphaned() -> None:
    verdict = divide(told(SETTLED), Booked(is_orphan=True), [RATES])
    assert verdict == Verdict(orphaned_nanos=SETTLED_NANOS)


def test_tokens_without_a_price_are_counted_as_answers() -> None:
    verdict = divide(told(SETTLED, 7), Booked(), [])
    assert verdict == Verdict(unexplained_requests=7)
    assert not verdict.is_clean


@pytest.mark.parametrize(
    ("counted", "in_flight", "unexplained"),
    [(2, 0, 0), (5, 0, 3), (5, 3, 0), (5, 1, 2), (1, 0, 1), (None, 0, 0)],
)
def test_where_only_answers_are_counted_they_must_agree(
    counted: int | None, in_flight: int, unexplained: int
) -> None:
    booked = replace(KNOWN, in_flight_requests=in_flight)
    verdict = divide(told(None, counted), booked, [RATES])
    assert verdict == Verdict(explained_nanos=SETTLED_NANOS, unexplained_requests=unexplained)


def test_tokens_are_worth_the_least_that_they_can_have_cost() -> None:
    tokens = Tokens(100, 10, 50)
    assert worth(tokens, [RATES]) == 200 + 10 + 400
    assert worth(tokens, [TIERED]) == 200 + 5 + 400
    assert worth(tokens, [TIERED, replace(RATES, output=1_000)]) == 200 + 5 + 50
    assert worth(tokens, []) == 0


counts = st.integers(0, 10**12)
tokens = st.builds(Tokens, counts, counts, counts)


@given(
    counted=st.builds(Told, st.none() | st.integers(0, 10**6), st.none() | tokens),
    booked=st.builds(
        Booked,
        requests=st.integers(0, 10**6),
        settled=tokens,
        settled_nanos=counts,
        near=tokens,
        aside_nanos=counts,
        in_flight_nanos=counts,
        in_flight_requests=st.integers(0, 10**6),
        is_orphan=st.booleans(),
    ),
    rates=st.lists(st.sampled_from([RATES, TIERED]), max_size=2),
)
def test_no_class_is_negative_and_clean_means_that_nothing_is_left(
    counted: Told, booked: Booked, rates: list[Rates]
) -> None:
    verdict = divide(counted, booked, rates)
    classes = (
        verdict.explained_nanos,
        verdict.in_flight_nanos,
        verdict.orphaned_nanos,
        verdict.unexplained_nanos,
        verdict.excess_nanos,
        verdict.unexplained_requests,
    )
    assert min(classes) >= 0
    assert verdict.provider_nanos == sum(classes[:4])
    assert verdict.is_clean == (sum(classes[3:]) == 0)
