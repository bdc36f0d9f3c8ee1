"""The models we know: who made them, who serves them, under which names, at what rates.

Made of the `genai-prices` data set and `overrides.toml`. A provider listed here need not be
configured: whoever routes a call or lists models filters the offers by what is.
"""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import version as installed_version
from pathlib import Path

from genai_prices.data_snapshot import get_snapshot
from genai_prices.types import ModelInfo, Provider

from gateway.catalogue import dataset
from gateway.catalogue.overrides import Facts, Kind, Overrides, read
from gateway.catalogue.rates import PriceSnapshot

DATA_SET = "genai-prices"
OVERRIDES = Path(__file__).with_name("overrides.toml")

# A snapshot's date as providers write it: -2024-08-06, -20251001, or -2512 for a month.
DATED_NAME = re.compile(r"(?P<stem>.+)-(?:20\d\d-\d\d-\d\d|20\d{6}|\d{4})", re.ASCII)
LONGEST_NAME = 200
OTHER_TIERS = frozenset({"fast", "flex", "priority", "scale"})
"""What an answer may say it ran at, and is not the price list's usual tier."""


@dataclass(frozen=True, slots=True)
class Offer:
    """One provider that serves a model. `model` is the name that this provider calls it by.

    `tiers` are the prices of synchronous calls that the provider says it ran at another tier.
    """

    provider: str
    model: str
    prices: PriceSnapshot
    tiers: Mapping[str, PriceSnapshot] = field(default_factory=dict)

    def prices_at(self, tier: str | None) -> PriceSnapshot | None:
        """The prices of a call that ran at a tier; None where that tier has none here."""
        return self.tiers.get(tier or "") if tier in OTHER_TIERS else self.prices


@dataclass(frozen=True, slots=True)
class Model:
    """A model as callers know it. `id` is `maker/model`, `created` a Unix time.

    `context_length` and `max_output_tokens` are in tokens, None where nobody publishes them.
    """

    id: str
    maker: str
    name: str
    kind: Kind
    created: int
    context_length: int | None
    max_output_tokens: int | None
    features: tuple[str, ...]
    offers: tuple[Offer, ...]


@dataclass(frozen=True, slots=True)
class _Entry:
    """A provider's model as read from the data set, before offers of one model are joined."""

    offer: Offer
    info: ModelInfo
    source: Provider


class Catalogue:
    """Immutable, so that every thread may share one. `load` makes it.

    `next_price_change` is when an announced price of a listed model comes into force: a catalogue
    read before then is to be read again after it. None if no change is announced.
    """

    def __init__(
        self,
        entries: Mapping[str, Sequence[_Entry]],
        overrides: Overrides,
        next_price_change: datetime | None,
    ) -> None:
        self.next_price_change = next_price_change
        self._overrides = overrides
        self._models = tuple(_join(entries[id_], id_, overrides) for id_ in sorted(entries))
        self._by_name = _index(self._models, overrides.aliases)
        self._sources = {e.offer.provider: e.source for group in entries.values() for e in group}
        self._owners = {
            (entry.offer.provider, entry.info.id): (model, entry.offer)
            for model in self._models
            for entry in entries[model.id]
        }

    def base_urls(self) -> dict[str, str]:
        """The addresses of the providers that only the override file knows."""
        tables = self._overrides.providers.items()
        return {name: table.base_url for name, table in tables if table.base_url is not None}

    def output_limits(self, provider: str) -> dict[str, int]:
        """The most that each model of a provider puts out, in tokens, by the provider's names."""
        return {
            offer.model: model.max_output_tokens
            for model in self._models
            for offer in model.offers
            if offer.provider == provider and model.max_output_tokens is not None
        }

    def tier_prices(self, provider: str, model: str, tier: str) -> PriceSnapshot | None:
        """The prices of a provider's model at a tier other than the usual one, if it has some."""
        found = self.resolve(model)
        offers = () if found is None else found.offers
        return next((each.tiers.get(tier) for each in offers if each.provider == provider), None)

    def models(self) -> tuple[Model, ...]:
        """Every model, ordered by id."""
        return self._models

    def resolve(self, name: str) -> Model | None:
        """The model of that name, whatever its case, or None.

        Taken are `maker/model`, the bare model, a provider's own name for it, an alias, and the
        dated snapshot of a model, which then is the model that is offered.
        """
        wanted = name.lower()
        return self._by_name.get(wanted) or self._resolve_dated(wanted)

    def _resolve_dated(self, wanted: str) -> Model | None:
        maker, _, bare = wanted.rpartition("/")
        dated = DATED_NAME.fullmatch(bare)
        if dated is None or len(wanted) > LONGEST_NAME:
            return None
        for provider, source in self._sources.items():
            info = source.find_model(bare)
            owner = None if info is None else self._owners.get((provider, info.id))
            if info is None or owner is None or self._overrides.hides(provider, bare):
                continue
            model, offer = owner
            # The data set also matches by prefix, which would price names that it never saw.
            known = dated["stem"] == info.id.lower() or bare in dataset.listed_names(info)
            if known and maker in ("", model.maker):
                offers = (replace(offer, model=bare),)
                return replace(model, id=f"{model.maker}/{bare}", offers=offers)
        return None


def load(overrides: Path | None = None, now: datetime | None = None) -> Catalogue:
    """Reads the data set and the override file (ours, if none is given), prices as of `now`.

    ValueError if the override file is invalid or contradicts the data set.
    """
    rules, digest = read(overrides or OVERRIDES)
    as_of = now or datetime.now(UTC)
    version = f"{DATA_SET} {installed_version(DATA_SET)}, overrides {digest}"
    sources = {source.id: source for source in get_snapshot().providers}
    entries: defaultdict[str, list[_Entry]] = defaultdict(list)
    changes = []
    for provider, table in rules.providers.items():
        if table.source not in sources:
            raise ValueError(f"the data set has no provider {table.source}")
        source = sources[table.source]
        for info in source.models:
            if not rules.serves(provider, info.id):
                continue
            model_id = rules.model_id(provider, info.id)
            facts = rules.facts_of(model_id)
            prices = dataset.snapshot(info, facts.kind, facts.batch_factor, version, as_of)
            if prices is None:
                continue
            tiers = dataset.tier_snapshots(info, facts.kind, version, as_of)
            offer = Offer(provider=provider, model=info.id, prices=prices, tiers=tiers)
            entries[model_id].append(_Entry(offer=offer, info=info, source=source))
            changes.append(dataset.next_change(info, as_of))
    announced = min((change for change in changes if change is not None), default=None)
    return Catalogue(entries, rules, announced)


def _join(entries: Sequence[_Entry], model_id: str, overrides: Overrides) -> Model:
    """One model of all its offers.

    Equal ids are not proof enough that two providers serve the same model: the override file has
    to say so. Their shortest context is what every one of them can take.
    """
    providers = {entry.offer.provider for entry in entries}
    if len(entries) > 1 and not providers <= overrides.same_as.get(model_id, {}).keys():
        raise ValueError(f"{model_id} is served by {sorted(providers)}: say so in same_as")
    facts = overrides.facts_of(model_id)
    maker, _, bare = model_id.partition("/")
    contexts = [entry.info.context_window for entry in entries if entry.info.context_window]
    names = [entry.info.name for entry in entries if entry.info.name]
    return Model(
        id=model_id,
        maker=maker,
        name=overrides.names.get(model_id) or next(iter(names), bare),
        kind=facts.kind,
        created=overrides.created(model_id),
        context_length=facts.context_length or min(contexts, default=None),
        max_output_tokens=facts.max_output_tokens,
        features=_features(facts, entries),
        offers=tuple(entry.offer for entry in entries),
    )


def _features(facts: Facts, entries: Sequence[_Entry]) -> tuple[str, ...]:
    batchable = any(entry.offer.prices.batch is not None for entry in entries)
    return (
        *(("streaming",) if facts.kind == "chat" else ()),
        *facts.features,
        *(("batch",) if batchable else ()),
    )


def _index(models: Sequence[Model], aliases: Mapping[str, str]) -> dict[str, Model]:
    """Models by every name in lower case; ValueError if a name could mean two of them."""
    by_id = {model.id: model for model in models}
    by_name = dict(by_id)

    def add(name: str, model: Model) -> None:
        if by_name.setdefault(name.lower(), model) is not model:
            raise ValueError(f"{name} could be {model.id} or {by_name[name.lower()].id}")

    for model in models:
        add(model.id.partition("/")[2], model)
        for offer in model.offers:
            add(offer.model, model)
    for alias, target in aliases.items():
        if target not in by_id:
            raise ValueError(f"the alias {alias} means {target}, which is not in the catalogue")
        add(alias, by_id[target])
        add(alias.rpartition("/")[2], by_id[target])
    return by_name
