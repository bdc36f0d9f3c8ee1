"""Reads prices out of the `genai-prices` data set, and fails closed where it is silent.

The data set's own `calc_price` answers with the standard price for a lane it knows no price of,
and leaves out token classes that have none. So its entries are read here, and a model whose price
would be a guess gets none. `None` means that everywhere in this module.
"""

from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime, time
from decimal import Decimal

from genai_prices.types import (
    ClauseEquals,
    ClauseOr,
    ModelInfo,
    ModelPrice,
    StartDateConstraint,
    TieredPrices,
    TimeOfDateConstraint,
)

from gateway.catalogue.overrides import Kind
from gateway.catalogue.rates import PriceSnapshot, Rates, Tier, pico_per_token

Price = Decimal | TieredPrices
Constraint = StartDateConstraint | TimeOfDateConstraint | None

BATCH = {"processing": "batch"}
SERVICE_TIER = "service_tier"

INPUT = "input_mtok"
OUTPUT = "output_mtok"
# Of several keys for one class the first that has a price holds.
CACHE_READ = ("cache_read_mtok",)
CACHE_WRITE_SHORT = ("cache_write_5m_mtok", "cache_write_mtok")
CACHE_WRITE_LONG = ("cache_write_1h_mtok", "cache_write_12h_mtok")

# Prices of things that a text call does not consume. A key that is neither here nor above (a fee
# per request, an output in pictures) makes the model one whose calls we cannot price.
IRRELEVANT = frozenset(
    {
        "web_searches_kcount",
        "storage_searches_kcount",
        "input_audio_mtok",
        "input_image_mtok",
        "input_video_mtok",
        "cache_audio_read_mtok",
        "cache_image_read_mtok",
    }
)
UNDERSTOOD = IRRELEVANT | {INPUT, OUTPUT, *CACHE_READ, *CACHE_WRITE_SHORT, *CACHE_WRITE_LONG}


def snapshot(
    model: ModelInfo, kind: Kind, batch_factor: Decimal | None, version: str, now: datetime
) -> PriceSnapshot | None:
    """Both lanes' rates as they hold at `now`, or None if the standard lane can't be priced.

    `batch_factor` is used only where the data set has no batch price of its own.
    """
    listed = _standing_prices(model, now)
    if listed is None:
        return None
    standard = _rates(listed, kind)
    if standard is None:
        return None
    discounts = _variant_prices(model, BATCH, now)
    if discounts is not None:
        # Laid over the listed prices before anything falls back: a class that only the variant
        # omits keeps its standard rate, one that both omit follows the variant's input rate.
        batch = _rates({**listed, **discounts}, kind)
    else:
        batch = None if batch_factor is None else standard.scaled(batch_factor)
    return PriceSnapshot(standard=standard, batch=batch, version=version)


def tier_snapshots(
    model: ModelInfo, kind: Kind, version: str, now: datetime
) -> dict[str, PriceSnapshot]:
    """The rates of synchronous calls at other tiers than the usual, by the tier's name.

    A tier without an input price of its own (the data set names the usual one so) is left out.
    """
    listed = _standing_prices(model, now)
    found: dict[str, PriceSnapshot] = {}
    for variant in model.price_variants or ():
        if listed is None or variant.when.keys() != {SERVICE_TIER}:
            continue
        prices = _variant_prices(model, variant.when, now)
        rates = None if prices is None else _rates({**listed, **prices}, kind)
        if rates is not None:
            tier = variant.when[SERVICE_TIER]
            found[tier] = PriceSnapshot(rates, None, f"{version}, {tier}")
    return found


def next_change(model: ModelInfo, now: datetime) -> datetime | None:
    """When the model's prices next become others, as far as the data set announces it."""
    constraints: list[Constraint] = [variant.constraint for variant in model.price_variants or ()]
    if not isinstance(model.prices, ModelPrice):
        constraints += [price.constraint for price in model.prices]
    starts = [
        constraint.start_date
        for constraint in constraints
        if isinstance(constraint, StartDateConstraint) and not constraint.active(now)
    ]
    return _midnight(min(starts)) if starts else None


def listed_names(model: ModelInfo) -> Iterator[str]:
    """The names that the data set lists in full for a model, its patterns left aside."""
    clauses = model.match.or_ if isinstance(model.match, ClauseOr) else [model.match]
    for clause in clauses:
        if isinstance(clause, ClauseEquals):
            yield clause.equals.lower()


def _standing_prices(model: ModelInfo, now: datetime) -> dict[str, Price] | None:
    """The prices in force: the last entry whose start date has come.

    Entries for hours of the day compete with it, and the dearest wins: a snapshot outlives the
    hour it was taken in, and the provider bills by the hour in which the call runs.
    """
    if isinstance(model.prices, ModelPrice):
        return _by_key(model.prices)
    candidates = []
    for entry in reversed(model.prices):
        if isinstance(entry.constraint, TimeOfDateConstraint):
            candidates.append(_by_key(entry.prices))
        elif entry.constraint is None or entry.constraint.active(now):
            candidates.append(_by_key(entry.prices))
            break
    return max(candidates, key=_dearness, default=None)


def _variant_prices(
    model: ModelInfo, when: Mapping[str, str], now: datetime
) -> dict[str, Price] | None:
    """The prices of the batch lane or of a tier; of two variants for one key the first holds.

    A variant without an input price (the data set has empty ones) announces no discount. One for
    hours of the day is none that a batch can count on.
    """
    prices: dict[str, Price] = {}
    for variant in model.price_variants or ():
        constraint = variant.constraint
        if variant.when != when or isinstance(constraint, TimeOfDateConstraint):
            continue
        if constraint is None or constraint.active(now):
            prices = {**_by_key(variant.prices), **prices}
    return prices if INPUT in prices else None


def _rates(prices: Mapping[str, Price], kind: Kind) -> Rates | None:
    if INPUT not in prices or not prices.keys() <= UNDERSTOOD:
        return None
    if kind == "chat" and OUTPUT not in prices:
        return None
    starts = {
        tier.start
        for price in prices.values()
        if isinstance(price, TieredPrices)
        for tier in price.tiers
    }
    return Rates(
        **_classes(prices, input_tokens=0),
        tiers=tuple(
            Tier(above_input_tokens=start, **_classes(prices, input_tokens=start + 1))
            for start in sorted(starts)
        ),
    )


def _classes(prices: Mapping[str, Price], input_tokens: int) -> dict[str, int]:
    """The rate of every class for a request of that length.

    A class without a price is billed as the class that contains it: cached tokens as input, long
    cache writes as short ones. The data set counts them that way, and a provider that lists no
    price for writing its cache (OpenAI before GPT-5.6) charges none beyond the input's. The usual
    surcharges of 1.25 and 2 are charged where the data set has them, and nowhere else.
    """

    def rate(keys: tuple[str, ...], default: int) -> int:
        for key in keys:
            if key in prices:
                return pico_per_token(_price_at(prices[key], input_tokens))
        return default

    uncached = rate((INPUT,), 0)
    write_short = rate(CACHE_WRITE_SHORT, uncached)
    return {
        "input": uncached,
        "cache_read": rate(CACHE_READ, uncached),
        "cache_write_short": write_short,
        "cache_write_long": rate(CACHE_WRITE_LONG, write_short),
        "output": rate((OUTPUT,), 0),
    }


def _price_at(price: Price, input_tokens: int) -> Decimal:
    if not isinstance(price, TieredPrices):
        return price
    reached = [tier.price for tier in price.tiers if input_tokens > tier.start]
    return reached[-1] if reached else price.base


def _dearness(prices: Mapping[str, Price]) -> tuple[Decimal, Decimal]:
    zero = Decimal(0)
    return _price_at(prices.get(OUTPUT, zero), 0), _price_at(prices.get(INPUT, zero), 0)


def _by_key(prices: ModelPrice) -> dict[str, Price]:
    return {key: price for key, price in vars(prices).items() if price is not None}


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)
