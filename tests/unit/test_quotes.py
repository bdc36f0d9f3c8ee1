"""What a quote expects of a call, from what the account's calls have cost."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.billing.quotes import Experience, discount_percent, expected_nanos
from gateway.calls.routing import Ineligible
from gateway.lanes.durations import Spread
from models import ids
from tests.unit.calling import Scripted, route_to
from web.quotes import Asked, Facts, quote_json

AMOUNTS = st.integers(min_value=0, max_value=10**15)


@pytest.mark.parametrize(
    ("paid", "held", "expected"),
    [(25, 100, 250), (1, 3, 334), (100, 100, 1_000), (150, 100, 1_000), (0, 100, 0)],
)
def test_a_call_is_expected_to_take_the_share_of_its_ceiling_that_others_took(
    paid: int, held: int, expected: int
) -> None:
    assert expected_nanos(1_000, Experience(7, paid, held)) == expected


@pytest.mark.parametrize("experience", [Experience(0, 0, 0), Experience(3, 0, 0)])
def test_half_the_ceiling_is_expected_where_nothing_was_measured(experience: Experience) -> None:
    assert expected_nanos(1_001, experience) == 501


@given(AMOUNTS, AMOUNTS, AMOUNTS)
def test_no_more_than_the_ceiling_is_ever_expected(ceiling: int, paid: int, held: int) -> None:
    assert 0 <= expected_nanos(ceiling, Experience(1, paid, held)) <= ceiling


@pytest.mark.parametrize(
    ("standard", "batch", "percent"),
    [(1_000, 500, 50), (1_001, 501, 50), (3, 2, 33), (6, 1, 83), (8, 7, 13), (5, 5, 0), (0, 0, 0)],
)
def test_the_discount_is_told_in_whole_percent(standard: int, batch: int, percent: int) -> None:
    assert discount_percent(standard, batch) == percent


def test_a_model_without_a_batch_price_has_no_amounts_for_that_lane() -> None:
    asked = Asked(
        account_id=ids.new(),
        route=route_to(Scripted()),
        lane="standard",
        why_not_batch=Ineligible.PRICE,
        standard_nanos=2_000,
        batch_nanos=None,
        undiscounted_nanos=2_000,
        deadline_at=datetime(2026, 11, 25, tzinfo=UTC),
    )
    facts = Facts(1_999, Experience(0, 0, 0), Spread(None, None, 0))
    told = quote_json(asked, facts, timedelta(minutes=5))
    assert told["lanes"]["batch"] == {
        "open": False,
        "reason": "price",
        "provider": "openai",
        "ceiling_usd": None,
        "expected_usd": None,
        "discount_percent": None,
        "expected_completion": {"p50_seconds": None, "p90_seconds": None, "measured_batches": 0},
    }
    assert told["balance"] == {"available_usd": "0.000001999", "sufficient": False}
