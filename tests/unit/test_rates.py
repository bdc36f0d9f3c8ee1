"""Rates and snapshots, and how the data set's entries become them or fail closed."""

import json
from datetime import UTC, date, datetime, time
from decimal import Decimal

import pytest
from genai_prices import types as genai
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.catalogue import dataset
from gateway.catalogue.rates import PriceSnapshot, Rates, Tier, pico_per_token

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
BATCH = {"processing": "batch"}

seeded = settings(derandomize=True, deadline=None)


def listed(
    prices: genai.ModelPrice | list[genai.ConditionalPrice], *variants: genai.PriceVariant
) -> genai.ModelInfo:
    return genai.ModelInfo(
        id="m", match=genai.ClauseEquals(equals="m"), prices=prices, price_variants=list(variants)
    )


def snapshot(model: genai.ModelInfo, now: datetime = NOW) -> PriceSnapshot | None:
    return dataset.snapshot(model, "chat", None, "test", now)


def dollars(**prices: str) -> genai.ModelPrice:
    return genai.ModelPrice(**{key: Decimal(price) for key, price in prices.items()})


# Where the data set is silent or odd


@pytest.mark.parametrize("variant", [genai.ModelPrice(), dollars(output_mtok="1")])
def test_a_batch_variant_without_an_input_price_is_no_batch_price(
    variant: genai.ModelPrice,
) -> None:
    prices = snapshot(
        listed(
            dollars(input_mtok="1", output_mtok="2"),
            genai.PriceVariant(when=BATCH, prices=variant),
        )
    )
    assert prices is not None
    assert prices.batch is None


def test_a_batch_variant_holds_from_its_date_and_the_first_of_two_wins() -> None:
    model = listed(
        dollars(input_mtok="4", output_mtok="8"),
        genai.PriceVariant(
            when=BATCH,
            prices=dollars(input_mtok="3", output_mtok="6"),
            constraint=genai.StartDateConstraint(start_date=date(2026, 12, 1)),
        ),
        genai.PriceVariant(
            when=BATCH,
            prices=dollars(input_mtok="2", output_mtok="4"),
            constraint=genai.StartDateConstraint(start_date=date(2026, 11, 1)),
        ),
    )
    seen = []
    for now in (datetime(2026, 10, 31, tzinfo=UTC), NOW, datetime(2026, 12, 1, tzinfo=UTC)):
        prices = snapshot(model, now)
        assert prices is not None
        seen.append(prices.batch and prices.batch.input)
    assert seen == [None, 2_000_000, 3_000_000]


def test_a_variant_for_another_tier_or_for_some_hours_is_no_batch_price() -> None:
    hours = genai.TimeOfDateConstraint(start_time=time(0), end_time=time(23))
    prices = snapshot(
        listed(
            dollars(input_mtok="4", output_mtok="8"),
            genai.PriceVariant(when={"service_tier": "flex"}, prices=dollars(input_mtok="1")),
            genai.PriceVariant(when={**BATCH, "region": "eu"}, prices=dollars(input_mtok="1")),
            genai.PriceVariant(when=BATCH, prices=dollars(input_mtok="1"), constraint=hours),
        )
    )
    assert prices is not None
    assert prices.batch is None


def test_a_tier_has_the_prices_of_its_variant_and_the_listed_ones_where_that_is_silent() -> None:
    later = genai.StartDateConstraint(start_date=date(2026, 12, 1))
    fast, default = {"service_tier": "fast"}, {"service_tier": "default"}
    model = listed(
        dollars(input_mtok="4", cache_read_mtok="1", output_mtok="8"),
        genai.PriceVariant(when=default, prices=genai.ModelPrice()),
        genai.PriceVariant(
            when={"service_tier": "flex"}, prices=dollars(input_mtok="2", output_mtok="4")
        ),
        genai.PriceVariant(when=fast, prices=dollars(input_mtok="9"), constraint=later),
        genai.PriceVariant(when=BATCH, prices=dollars(input_mtok="1", output_mtok="1")),
    )
    tiers = dataset.tier_snapshots(model, "chat", "test", NOW)
    assert tiers.keys() == {"flex"}
    flex = tiers["flex"]
    assert (flex.standard.input, flex.standard.output) == (2_000_000, 4_000_000)
    assert (flex.standard.cache_read, flex.batch, flex.version) == (1_000_000, None, "test, flex")
    usual = snapshot(model)
    assert usual is not None
    assert usual.digest != flex.digest
    unpriced = listed([], genai.PriceVariant(when=fast, prices=dollars(input_mtok="9")))
    assert dataset.tier_snapshots(unpriced, "chat", "test", NOW) == {}


def test_cached_tokens_without_any_price_follow_the_lanes_own_input_rate() -> None:
    prices = snapshot(
        listed(
            dollars(input_mtok="4", output_mtok="8"),
            genai.PriceVariant(when=BATCH, prices=dollars(input_mtok="2", output_mtok="4")),
        )
    )
    assert prices is not None
    assert prices.batch is not None
    for rates, input_rate in ((prices.standard, 4_000_000), (prices.batch, 2_000_000)):
        assert rates.cache_read == input_rate
        assert rates.cache_write_short == rates.cache_write_long == input_rate


def test_classes_with_different_thresholds_meet_in_common_tiers() -> None:
    def tiered(base: str, start: int, above: str) -> genai.TieredPrices:
        return genai.TieredPrices(
            base=Decimal(base), tiers=[genai.Tier(start=start, price=Decimal(above))]
        )

    prices = snapshot(
        listed(
            genai.ModelPrice(input_mtok=tiered("1", 100, "2"), output_mtok=tiered("3", 200, "4"))
        )
    )
    assert prices is not None
    at = [prices.standard.at(length) for length in (100, 101, 201)]
    assert [(rates.input, rates.output) for rates in at] == [
        (1_000_000, 3_000_000),
        (2_000_000, 3_000_000),
        (2_000_000, 4_000_000),
    ]


@pytest.mark.parametrize(
    "prices",
    [
        genai.ModelPrice(),
        dollars(input_mtok="1"),
        dollars(output_mtok="1"),
        dollars(input_mtok="1", output_mtok="1", requests_kcount="5"),
        dollars(input_mtok="1", output_mtok="1", output_image_mtok="30"),
    ],
)
def test_a_model_that_cannot_be_priced_in_full_has_no_price(prices: genai.ModelPrice) -> None:
    assert snapshot(listed(prices)) is None


def test_a_model_whose_price_has_not_begun_has_no_price() -> None:
    model = listed(
        [
            genai.ConditionalPrice(
                genai.StartDateConstraint(start_date=date(2027, 1, 1)),
                prices=dollars(input_mtok="1", output_mtok="1"),
            )
        ]
    )
    assert snapshot(model) is None


# Rates and snapshots

whole_rates = st.integers(min_value=0, max_value=10**9)


@st.composite
def any_rates(draw: st.DrawFn) -> Rates:
    def classes() -> dict[str, int]:
        names = ("input", "cache_read", "cache_write_short", "cache_write_long", "output")
        return {name: draw(whole_rates) for name in names}

    starts = draw(st.lists(st.integers(0, 10**6), unique=True, max_size=3).map(sorted))
    tiers = tuple(Tier(above_input_tokens=start, **classes()) for start in starts)
    return Rates(**classes(), tiers=tiers)


@given(standard=any_rates(), batch=st.none() | any_rates(), version=st.text())
@seeded
def test_a_snapshot_survives_json_unchanged(
    standard: Rates, batch: Rates | None, version: str
) -> None:
    prices = PriceSnapshot(standard=standard, batch=batch, version=version)
    again = PriceSnapshot.from_json(json.loads(json.dumps(prices.to_json())))
    assert again == prices
    assert again.digest == prices.digest
    assert len(again.digest) == 32
    int(again.digest, 16)


@given(rates=any_rates(), length=st.integers(0, 2 * 10**6))
@seeded
def test_the_highest_threshold_that_is_exceeded_holds(rates: Rates, length: int) -> None:
    exceeded = [tier for tier in rates.tiers if length > tier.above_input_tokens]
    expected = max(exceeded, key=lambda tier: tier.above_input_tokens, default=rates)
    assert rates.at(length) is expected


@pytest.mark.parametrize("price", ["0.0000001", "-1", "NaN", "Infinity"])
def test_a_price_that_is_no_whole_number_of_picos_is_refused(price: str) -> None:
    with pytest.raises(ValueError, match=r"not a price|finer than"):
        pico_per_token(Decimal(price))


def test_a_price_of_six_decimals_is_exact() -> None:
    assert pico_per_token(Decimal("0.003625")) == 3_625
    assert pico_per_token(Decimal("180")) == 180_000_000


def test_rates_that_make_no_sense_are_refused() -> None:
    names = ("input", "cache_read", "cache_write_short", "cache_write_long", "output")
    odd = dict.fromkeys(names, 3)
    high, low = (Tier(**odd, above_input_tokens=start) for start in (200, 100))
    with pytest.raises(ValueError, match="ordered"):
        Rates(**odd, tiers=(high, low))
    with pytest.raises(ValueError, match="finer than"):
        Rates(**odd, tiers=()).scaled(Decimal("0.5"))
    with pytest.raises(ValueError, match="whole number of pico-USD"):
        Rates(**{**odd, "output": -1}, tiers=())


@pytest.mark.parametrize("document", [{}, {"standard": {}, "batch": None, "version": "v"}])
def test_a_document_that_is_no_snapshot_is_refused(document: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="not a price snapshot"):
        PriceSnapshot.from_json(document)
