"""Token rates as exact integers, and the snapshot of them that a call is billed by.

A rate is in pico-USD (10⁻¹² USD) per token, so that a price list's "USD per million tokens" with
up to six decimals is a whole number and no sum of a bill ever rounds before its end.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from decimal import Decimal
from fractions import Fraction
from typing import Any, Self

PICO_PER_TOKEN_AT_ONE_USD_PER_MILLION = 1_000_000


def pico_per_token(usd_per_million_tokens: Decimal) -> int:
    """The rate in pico-USD per token; ValueError if it is negative or not a whole number of them.

    Refused rather than rounded: a rounded rate is multiplied by every token ever billed with it.
    """
    if not usd_per_million_tokens.is_finite() or usd_per_million_tokens < 0:
        raise ValueError(f"not a price: {usd_per_million_tokens}")
    pico = Fraction(usd_per_million_tokens) * PICO_PER_TOKEN_AT_ONE_USD_PER_MILLION
    if pico.denominator != 1:
        raise ValueError(f"finer than a pico-dollar per token: {usd_per_million_tokens}")
    return pico.numerator


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassRates:
    """One rate per token class of `Usage`, in pico-USD per token."""

    input: int
    cache_read: int
    cache_write_short: int
    cache_write_long: int
    output: int

    def __post_init__(self) -> None:
        for rate in _by_class(self).values():
            if type(rate) is not int or rate < 0:
                raise ValueError(f"a rate is a whole number of pico-USD, not {rate!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tier(ClassRates):
    """The rates of a whole request whose input is longer than `above_input_tokens`."""

    above_input_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates(ClassRates):
    """The rates of one lane: those of short requests, and the long-context tiers above them.

    Tiers are cliffs, as OpenAI, Anthropic and Google bill them: one token over the threshold moves
    the whole request, output included, to the tier's rates.
    """

    tiers: tuple[Tier, ...] = ()

    def __post_init__(self) -> None:
        ClassRates.__post_init__(self)
        starts = [tier.above_input_tokens for tier in self.tiers]
        if starts != sorted(set(starts)) or any(start < 0 for start in starts):
            raise ValueError("tiers are ordered by the input length they start above")

    def at(self, input_tokens: int) -> ClassRates:
        """The rates that hold for a request with so many input tokens, cached ones included."""
        return self.up_to(input_tokens)[-1] if self.tiers else self

    def up_to(self, input_tokens: int) -> tuple[ClassRates, ...]:
        """The rates that requests of at most so many input tokens can meet, shortest first."""
        return (self, *(tier for tier in self.tiers if tier.above_input_tokens < input_tokens))

    def scaled(self, factor: Decimal) -> "Rates":
        """Every rate times `factor`; ValueError if one of them is then no whole number."""
        return Rates(
            **_scaled_classes(self, factor),
            tiers=tuple(
                Tier(above_input_tokens=tier.above_input_tokens, **_scaled_classes(tier, factor))
                for tier in self.tiers
            ),
        )

    def to_json(self) -> dict[str, Any]:
        """The rates by class, and under `tiers` the same for each tier."""
        return {**_by_class(self), "tiers": [asdict(tier) for tier in self.tiers]}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """The rates that `to_json` wrote."""
        classes = {name: value for name, value in document.items() if name != "tiers"}
        return cls(**classes, tiers=tuple(Tier(**tier) for tier in document["tiers"]))


def _by_class(rates: ClassRates) -> dict[str, int]:
    return {class_.name: getattr(rates, class_.name) for class_ in fields(ClassRates)}


def _scaled_classes(rates: ClassRates, factor: Decimal) -> dict[str, int]:
    scaled = {}
    for name, rate in _by_class(rates).items():
        product = rate * Fraction(factor)
        if product.denominator != 1:
            raise ValueError(f"{name} times {factor} is finer than a pico-dollar per token")
        scaled[name] = product.numerator
    return scaled


@dataclass(frozen=True, slots=True)
class PriceSnapshot:
    """Both lanes' rates of one offer at one time; `batch` is None where no batch price is known.

    `version` names the data set and the override file that the rates come from. `digest`, 32 hex
    digits, names the content: equal snapshots share it, so each needs to be stored only once.
    """

    standard: Rates
    batch: Rates | None
    version: str
    digest: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        canonical = json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"))
        digest = hashlib.sha256(canonical.encode()).hexdigest()[:32]
        object.__setattr__(self, "digest", digest)

    def to_json(self) -> dict[str, Any]:
        """Plain dictionaries, lists, integers and strings; what `from_json` takes."""
        return {
            "standard": self.standard.to_json(),
            "batch": None if self.batch is None else self.batch.to_json(),
            "version": self.version,
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """The snapshot that `to_json` wrote; ValueError if the document is none."""
        try:
            batch = document["batch"]
            return cls(
                standard=Rates.from_json(document["standard"]),
                batch=None if batch is None else Rates.from_json(batch),
                version=document["version"],
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError("not a price snapshot") from error
