"""What calls cost, by hand-computed examples and by exact fractions."""

from dataclasses import fields, replace
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from math import ceil, floor
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.billing.prices import (
    Caching,
    Size,
    ceiling_nanos,
    cost_nanos,
    format_usd,
    markup_bps,
    parse_usd,
)
from gateway.catalogue.catalogue import load
from gateway.catalogue.rates import PriceSnapshot, Rates, Tier
from gateway.catalogue.usage import Usage

NOW = datetime(2026, 11, 22, tzinfo=UTC)

seeded = settings(derandomize=True, deadline=None)


@pytest.fixture(scope="module")
def prices() -> dict[str, PriceSnapshot]:
    return {
        model.id: offer.prices
        for model in load(now=NOW).models()
        for offer in model.offers
        if offer.provider in ("openai", "anthropic")
    }


def batch(prices: PriceSnapshot) -> Rates:
    assert prices.batch is not None
    return prices.batch


def flat(rate: int) -> Rates:
    """Rates of one number for every class."""
    return Rates(
        input=rate, cache_read=rate, cache_write_short=rate, cache_write_long=rate, output=rate
    )


# Cost


def test_a_call_to_gpt_6_luna_costs_what_its_price_list_says(
    prices: dict[str, PriceSnapshot],
) -> None:
    usage = Usage(input_uncached=1_000, output=500)
    luna = prices["openai/gpt-6-luna"]
    # 1,000 at $0.10 and 500 at $0.50 per million are $0.0001 and $0.00025; in batches half.
    assert format_usd(cost_nanos(usage, luna.standard)) == "0.00035"
    assert format_usd(cost_nanos(usage, batch(luna))) == "0.000175"


def test_every_token_class_is_billed_at_its_own_rate(prices: dict[str, PriceSnapshot]) -> None:
    usage = Usage(
        input_uncached=10_000,
        cache_read=1_000,
        cache_write_short=100,
        cache_write_long=10,
        output=1,
        reasoning=1,
    )
    # Sonnet 5.5, USD per million: 2 in, 0.1 read, 2.5 and 4 written, 10 out.
    # 20,000 + 100 + 250 + 40 + 10 = 20,400 micro-USD.
    standard = prices["anthropic/claude-sonnet-5-5"].standard
    assert cost_nanos(usage, standard) == 20_400_000


def test_cached_tokens_count_towards_the_long_context_threshold(
    prices: dict[str, PriceSnapshot],
) -> None:
    haiku = prices["anthropic/claude-haiku-5-5"].standard
    below = Usage(input_uncached=10, cache_read=99_990, output=1_000)
    above = Usage(input_uncached=10, cache_read=99_991, output=1_000)
    # Micro-USD below: 1 for the new input, 999.9 for the cached, 500 for the output. Above, with
    # one more cached token, every rate is five times as high.
    assert cost_nanos(below, haiku) == 1_500_900
    assert cost_nanos(above, haiku) == 7_504_550


def test_reasoning_is_not_billed_twice() -> None:
    thinking = Usage(output=100, reasoning=90)
    assert cost_nanos(thinking, flat(1_000)) == 100


@pytest.mark.parametrize(
    ("pico", "nanos"), [(0, 0), (499, 0), (500, 1), (501, 1), (1_499, 1), (1_500, 2), (2_500, 3)]
)
def test_half_a_nano_is_rounded_up(pico: int, nanos: int) -> None:
    assert cost_nanos(Usage(output=1), flat(pico)) == nanos


def test_markup_is_applied_to_the_sum_before_the_one_rounding() -> None:
    # Three times 400 pico are 1.2 nano; with 25 % on top 1.5, which rounds to 2. Rounding
    # first gives 1.
    usage = Usage(input_uncached=1, cache_read=1, output=1)
    assert cost_nanos(usage, flat(400)) == 1
    assert cost_nanos(usage, flat(400), markup_bps=2_500) == 2


counts = st.integers(min_value=0, max_value=2 * 10**6)
usages = st.builds(
    Usage,
    input_uncached=counts,
    cache_read=counts,
    cache_write_short=counts,
    cache_write_long=counts,
    output=counts,
)
markups = st.integers(min_value=0, max_value=50_000)
whole_rates = st.integers(min_value=0, max_value=10**8)


def classes() -> dict[str, st.SearchStrategy[int]]:
    names = ("input", "cache_read", "cache_write_short", "cache_write_long", "output")
    return dict.fromkeys(names, whole_rates)


untiered = st.builds(Rates, **classes())


@st.composite
def any_rates(draw: st.DrawFn) -> Rates:
    starts = draw(st.lists(st.integers(0, 10**6), unique=True, max_size=3).map(sorted))
    tiers = tuple(
        draw(st.builds(Tier, **classes(), above_input_tokens=st.just(start))) for start in starts
    )
    return draw(st.builds(Rates, **classes(), tiers=st.just(tiers)))


@given(usage=usages, rates=any_rates(), markup=markups)
@seeded
def test_a_cost_is_the_exact_fraction_rounded_half_up(
    usage: Usage, rates: Rates, markup: int
) -> None:
    at = rates.at(usage.input_total)
    exact = (
        Fraction(usage.input_uncached * at.input, 1_000)
        + Fraction(usage.cache_read * at.cache_read, 1_000)
        + Fraction(usage.cache_write_short * at.cache_write_short, 1_000)
        + Fraction(usage.cache_write_long * at.cache_write_long, 1_000)
        + Fraction(usage.output * at.output, 1_000)
    ) * (1 + Fraction(markup, 10_000))
    assert cost_nanos(usage, rates, markup) == floor(exact + Fraction(1, 2))


@given(one=usages, other=usages, rates=untiered, markup=markups)
@seeded
def test_costs_add_up_but_for_rounding(one: Usage, other: Usage, rates: Rates, markup: int) -> None:
    names = [part.name for part in fields(Usage)]
    both = Usage(**{name: getattr(one, name) + getattr(other, name) for name in names})
    apart = cost_nanos(one, rates, markup) + cost_nanos(other, rates, markup)
    assert abs(cost_nanos(both, rates, markup) - apart) <= 1


# Ceiling


def test_a_ceiling_holds_the_input_at_the_cache_write_rate_where_the_body_asks_for_caching(
    prices: dict[str, PriceSnapshot],
) -> None:
    sonnet = prices["anthropic/claude-sonnet-5-5"].standard
    # 1,000 at $2, at the cache's $2.50 or at the $4 for an hour there, and 100 at $10 per million.
    assert ceiling_nanos(Size(1_000, 100), sonnet) == 3_000_000
    assert ceiling_nanos(Size(1_000, 100, Caching.SHORT), sonnet) == 3_500_000
    assert ceiling_nanos(Size(1_000, 100, Caching.LONG), sonnet) == 5_000_000


def test_a_ceiling_is_rounded_up() -> None:
    assert ceiling_nanos(Size(1, 0), flat(1)) == 1
    assert ceiling_nanos(Size(1, 0), flat(1_000)) == 1
    assert ceiling_nanos(Size(1, 0), flat(1_000), markup_bps=1) == 2
    assert ceiling_nanos(Size(0, 0, Caching.LONG), flat(1_000)) == 0


def test_a_ceiling_takes_the_tier_of_its_input(prices: dict[str, PriceSnapshot]) -> None:
    haiku = batch(prices["anthropic/claude-haiku-5-5"])
    # $0.05 and $0.25 per million in batches, five times as much above 100,000.
    assert ceiling_nanos(Size(100_000, 1_000), haiku) == 5_250_000
    assert ceiling_nanos(Size(100_001, 1_000), haiku) == 26_250_250


def test_a_ceiling_covers_a_shorter_request_that_would_be_dearer() -> None:
    cheap = Tier(
        input=1_000,
        cache_read=1_000,
        cache_write_short=1_000,
        cache_write_long=1_000,
        output=1_000,
        above_input_tokens=10,
    )
    falling = replace(flat(9_000), tiers=(cheap,))
    assert ceiling_nanos(Size(11, 1), falling) == 108
    assert cost_nanos(Usage(input_uncached=10, output=1), falling) == 99


@given(rates=any_rates(), markup=markups, data=st.data())
@seeded
def test_no_usage_within_its_size_costs_more_than_the_ceiling(
    rates: Rates, markup: int, data: st.DataObject
) -> None:
    size = data.draw(st.builds(Size, counts, counts, caching=st.sampled_from(Caching)))
    left = size.input_tokens
    used = {}
    written = {
        Caching.NONE: [],
        Caching.SHORT: ["cache_write_short"],
        Caching.LONG: ["cache_write_short", "cache_write_long"],
    }[size.caching]
    for name in ("input_uncached", "cache_read", *written):
        used[name] = data.draw(st.integers(0, left))
        left -= used[name]
    usage = Usage(**used, output=data.draw(st.integers(0, size.output_tokens)))
    assert cost_nanos(usage, rates, markup) <= ceiling_nanos(size, rates, markup)


@given(
    size=st.builds(Size, counts, counts, caching=st.just(Caching.NONE)), rates=untiered, bps=markups
)
@seeded
def test_a_ceiling_is_the_exact_fraction_rounded_up(size: Size, rates: Rates, bps: int) -> None:
    input_rate = max(rates.input, rates.cache_read)
    pico = size.input_tokens * input_rate + size.output_tokens * rates.output
    assert ceiling_nanos(size, rates, bps) == ceil(
        Fraction(pico, 1_000) * (1 + Fraction(bps, 10_000))
    )


# Money as text


@pytest.mark.parametrize(
    ("nanos", "text"),
    [
        (0, "0"),
        (1, "0.000000001"),
        (2_100_000, "0.0021"),
        (25 * 10**9, "25"),
        (100 * 10**9 + 500_000_000, "100.5"),
        (-1_500_000_000, "-1.5"),
    ],
)
def test_dollars_are_written_as_the_shortest_plain_decimal(nanos: int, text: str) -> None:
    assert format_usd(nanos) == text


@given(nanos=st.integers(min_value=0, max_value=2**63 - 1))
@seeded
def test_written_dollars_read_back_as_the_same_amount(nanos: int) -> None:
    text = format_usd(nanos)
    assert parse_usd(text) == parse_usd(Decimal(text)) == nanos
    assert "e" not in text.lower()


@pytest.mark.parametrize(
    ("amount", "nanos"),
    [
        ("25", 25 * 10**9),
        (25, 25 * 10**9),
        ("0", 0),
        ("0.10", 100_000_000),
        (Decimal("1E-9"), 1),
        (Decimal("0E-999999"), 0),
        ("0.1000000000", 100_000_000),
    ],
)
def test_dollars_are_read_exactly(amount: str | int | Decimal, nanos: int) -> None:
    assert parse_usd(amount) == nanos


@pytest.mark.parametrize(
    "amount",
    [
        "-1",
        -1,
        Decimal("-0.5"),
        "NaN",
        Decimal("NaN"),
        Decimal("sNaN"),
        Decimal("Infinity"),
        "0.0000000001",
        Decimal("1E-10"),
        "1e3",
        "1_000",
        " 1",
        "1.",
        ".5",
        "",
        "٣",
        "9223372036.854775808",
        Decimal("1E+999999"),
        Decimal("1E-999999"),
        10**30,
        True,
        0.5,
        None,
    ],
)
def test_what_is_no_amount_of_dollars_is_refused(amount: Any) -> None:
    with pytest.raises(ValueError, match="an amount"):
        parse_usd(amount)


def test_a_markup_in_percent_becomes_basis_points() -> None:
    assert markup_bps(Decimal(0)) == 0
    assert markup_bps(Decimal("2.50")) == 250
    assert markup_bps(Decimal("0.01")) == 1


@pytest.mark.parametrize("percent", ["0.005", "-1", "NaN", "Infinity"])
def test_a_markup_that_is_no_whole_basis_point_is_refused(percent: str) -> None:
    with pytest.raises(ValueError, match="markup"):
        markup_bps(Decimal(percent))
