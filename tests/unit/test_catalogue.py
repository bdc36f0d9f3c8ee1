"""What the catalogue says of models that people ask for, against the data set it is made of."""

from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest
from genai_prices import types as genai
from genai_prices.data_snapshot import get_snapshot

from gateway.catalogue.catalogue import OVERRIDES, Catalogue, Model, Offer, load
from gateway.catalogue.overrides import read
from gateway.catalogue.rates import Rates, pico_per_token

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
BATCH = {"processing": "batch"}
PUBLISHED_NAMES = [
    "openai/gpt-4o",
    "gpt-4o",
    "gpt-4-turbo",
    "gpt-3.5-turbo",
    "anthropic/claude-sonnet-4",
    "claude-3-5-sonnet",
    "claude-3-opus",
    "claude-sonnet-4-6",
    "gemini-pro",
    "gemini-flash",
    "meta-llama/llama-3-70b",
    "llama-3-70b",
    "llama-3-8b",
    "mistral-large",
    "mistral-7b",
    "meta-llm",
]


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    return load(now=NOW)


def resolved(catalogue: Catalogue, name: str) -> Model:
    model = catalogue.resolve(name)
    assert model is not None, name
    return model


def offer_of(catalogue: Catalogue, name: str) -> Offer:
    offers = resolved(catalogue, name).offers
    assert len(offers) == 1
    return offers[0]


def rates_of(catalogue: Catalogue, name: str) -> tuple[Rates, Rates]:
    prices = offer_of(catalogue, name).prices
    assert prices.batch is not None, name
    return prices.standard, prices.batch


# The prices that a customer can look up


def test_gpt_6_luna_costs_half_in_batches_and_double_input_above_272k(
    catalogue: Catalogue,
) -> None:
    standard, batch = rates_of(catalogue, "openai/gpt-6-luna")
    assert (standard.input, standard.output) == (100_000, 500_000)
    assert (batch.input, batch.output) == (50_000, 250_000)
    assert (batch.cache_read, batch.cache_write_short) == (5_000, 62_500)
    assert (standard.at(272_000).input, standard.at(272_000).output) == (100_000, 500_000)
    assert (standard.at(272_001).input, standard.at(272_001).output) == (200_000, 750_000)


def test_claude_haiku_5_5_costs_five_times_as_much_above_100k(catalogue: Catalogue) -> None:
    for rates in rates_of(catalogue, "claude-haiku-5-5"):
        short, long = rates.at(100_000), rates.at(100_001)
        assert long.input == 5 * short.input
        assert long.cache_read == 5 * short.cache_read
        assert long.cache_write_short == 5 * short.cache_write_short
        assert long.cache_write_long == 5 * short.cache_write_long
        assert long.output == 5 * short.output


def test_claude_writes_long_lived_caches_at_twice_the_input_rate(catalogue: Catalogue) -> None:
    standard, batch = rates_of(catalogue, "claude-sonnet-5-5")
    assert (standard.cache_write_short, standard.cache_write_long) == (2_500_000, 4_000_000)
    assert (batch.cache_write_short, batch.cache_write_long) == (1_250_000, 2_000_000)


def test_gpt_4o_mini_keeps_its_standard_cached_rate_in_batches(catalogue: Catalogue) -> None:
    standard, batch = rates_of(catalogue, "gpt-4o-mini")
    assert (standard.input, standard.cache_read, standard.output) == (150_000, 75_000, 600_000)
    assert (batch.input, batch.cache_read, batch.output) == (75_000, 75_000, 300_000)


def test_openai_embeddings_cost_half_in_batches_by_the_override_file(catalogue: Catalogue) -> None:
    for name, usd in (("3-small", "0.02"), ("3-large", "0.13"), ("ada-002", "0.1")):
        standard, batch = rates_of(catalogue, f"text-embedding-{name}")
        assert standard.input == pico_per_token(Decimal(usd))
        assert 2 * batch.input == standard.input
        assert standard.output == batch.output == 0


def test_a_model_without_a_batch_variant_has_no_batch_price(catalogue: Catalogue) -> None:
    for name in ("gemini-3.7-flash", "x-ai/grok-4.7", "gemini-embedding-001"):
        assert offer_of(catalogue, name).prices.batch is None
        assert "batch" not in resolved(catalogue, name).features


def test_prices_of_models_with_hourly_prices_are_those_of_the_dear_hours() -> None:
    for hour in (0, 2, 5, 8, 20):
        flash = resolved(load(now=NOW.replace(hour=hour)), "deepseek-v4-flash")
        assert flash.offers[0].prices.standard.input == 300_000


def test_an_announced_price_change_is_announced_and_then_in_force(catalogue: Catalogue) -> None:
    change = catalogue.next_price_change
    assert change == datetime(2026, 12, 1, tzinfo=UTC)
    before, _ = rates_of(catalogue, "gemini-4-argon")
    after, batch_after = rates_of(load(now=change), "gemini-4-argon")
    assert (before.input, after.input, batch_after.input) == (2_000_000, 4_000_000, 2_000_000)


def test_every_rate_agrees_with_the_data_sets_own_arithmetic(catalogue: Catalogue) -> None:
    sources = {provider.id: provider for provider in get_snapshot().providers}
    renamed = {"gemini": "google", "xai": "x-ai"}
    compared = 0
    for model in catalogue.models():
        for offer in model.offers:
            source = sources[renamed.get(offer.provider, offer.provider)]
            info = source.find_model(offer.model)
            assert info is not None
            if offer.provider == "deepseek" or model.id.startswith("openai/text-embedding"):
                continue  # By the clock, and by the override file's factor: told apart above.
            for rates, context in ((offer.prices.standard, None), (offer.prices.batch, BATCH)):
                if rates is None:
                    continue
                for length in (1_000, *(t.above_input_tokens + 1 for t in rates.tiers)):
                    usage = genai.Usage(
                        input_tokens=length,
                        cache_read_tokens=100,
                        cache_write_tokens=500,
                        cache_write_1h_tokens=200,
                        output_tokens=70,
                    )
                    theirs = info.calc_price(
                        usage, source, genai_request_timestamp=NOW, price_context=context
                    ).total_price
                    at = rates.at(length)
                    ours = (
                        (length - 600) * at.input
                        + 100 * at.cache_read
                        + 300 * at.cache_write_short
                        + 200 * at.cache_write_long
                        + 70 * at.output
                    )
                    assert ours == theirs * 10**12, (offer, length)
                    compared += 1
    assert compared > 100


def test_batches_are_never_dearer_and_cached_tokens_never_dearer_than_others(
    catalogue: Catalogue,
) -> None:
    for model in catalogue.models():
        for offer in model.offers:
            lanes = [offer.prices.standard, offer.prices.batch or offer.prices.standard]
            for length in (0, 100_001, 200_001, 272_001):
                standard, batch = (lane.at(length) for lane in lanes)
                assert batch.input <= standard.input, model.id
                assert batch.output <= standard.output, model.id
                assert batch.cache_read <= standard.cache_read, model.id
                assert batch.cache_write_short <= standard.cache_write_short, model.id
                assert batch.cache_write_long <= standard.cache_write_long, model.id
                assert batch.cache_read <= batch.input, model.id
                assert standard.cache_read <= standard.input, model.id


# Names


@pytest.mark.parametrize("name", PUBLISHED_NAMES)
def test_every_name_of_the_published_pages_resolves(catalogue: Catalogue, name: str) -> None:
    assert resolved(catalogue, name).kind == "chat"


def test_every_alias_resolves_with_its_maker_and_without(catalogue: Catalogue) -> None:
    overrides, _ = read(OVERRIDES)
    assert overrides.aliases
    for alias, target in overrides.aliases.items():
        assert resolved(catalogue, alias).id == target
        assert resolved(catalogue, alias.rpartition("/")[2]).id == target


def test_every_model_resolves_by_its_id_its_bare_name_and_its_providers_names(
    catalogue: Catalogue,
) -> None:
    for model in catalogue.models():
        assert model.id == model.id.lower()
        names = {model.id, model.id.partition("/")[2], model.id.upper()}
        for name in names | {offer.model for offer in model.offers}:
            assert catalogue.resolve(name) is model


def test_every_id_that_the_override_file_speaks_of_exists(catalogue: Catalogue) -> None:
    overrides, _ = read(OVERRIDES)
    ids = {model.id for model in catalogue.models()}
    assert overrides.names.keys() <= ids
    assert overrides.released.keys() <= ids
    for model_id, members in overrides.same_as.items():
        offers = resolved(catalogue, model_id).offers
        assert {offer.provider: offer.model for offer in offers} == members


@pytest.mark.parametrize(
    ("asked", "model_id", "provider"),
    [
        ("gpt-4o-2024-08-06", "openai/gpt-4o-2024-08-06", "openai"),
        ("OpenAI/gpt-4o-mini-2024-07-18", "openai/gpt-4o-mini-2024-07-18", "openai"),
        ("gpt-6-luna-2026-09-01", "openai/gpt-6-luna-2026-09-01", "openai"),
        ("claude-haiku-4-5-20251001", "anthropic/claude-haiku-4-5-20251001", "anthropic"),
        ("mistral-medium-2604", "mistralai/mistral-medium-2604", "mistral"),
    ],
)
def test_a_dated_snapshot_is_offered_under_the_name_asked_for(
    catalogue: Catalogue, asked: str, model_id: str, provider: str
) -> None:
    model = resolved(catalogue, asked)
    assert model.id == model_id
    (offer,) = model.offers
    assert (offer.provider, offer.model) == (provider, model_id.partition("/")[2])


def test_a_dated_snapshot_has_the_prices_and_limits_of_its_model(catalogue: Catalogue) -> None:
    dated = resolved(catalogue, "claude-haiku-4-5-20251001")
    model = resolved(catalogue, "claude-haiku-4-5")
    assert replace(dated, id=model.id, offers=model.offers) == model
    assert dated.offers[0].prices == model.offers[0].prices


@pytest.mark.parametrize(
    "name",
    [
        "",
        "/",
        "no-such-model",
        "openai/",
        "openai/claude-haiku-4-5",
        "anthropic/gpt-4o-2024-08-06",
        "gpt-4o-2024-08-06-evil",
        "gemini-2.5-pro-exp-0801",  # the data set matches it by its beginning
        "gpt-4o-mini-search-preview-2025-03-11",  # and this as a gpt-4o-mini
        "gpt-4o-audio-preview-2024-12-17",
        "ft:gpt-4o-mini-2024-07-18:acme::abc",
        "gpt-5-pro-2025-10-06",
        "claude-3-5-sonnet-20241022",
        "gpt-4o-٢٠٢٤",
        "a" * 10_000 + "-2024-08-06",
    ],
)
def test_a_name_that_is_not_certainly_a_known_model_is_unknown(
    catalogue: Catalogue, name: str
) -> None:
    assert catalogue.resolve(name) is None


# What is listed


def test_models_are_listed_once_each_in_a_stable_order(catalogue: Catalogue) -> None:
    ids = [model.id for model in catalogue.models()]
    assert ids == sorted(set(ids))
    assert load(now=NOW).models() == catalogue.models()


def test_only_chat_and_embedding_models_are_listed(catalogue: Catalogue) -> None:
    unwanted = ("audio", "image", "tts", "whisper", "moderation", "realtime", "search", "guard")
    for model in catalogue.models():
        assert model.kind == ("embedding" if "embed" in model.id else "chat")
        for offer in model.offers:
            assert not any(word in offer.model.lower() for word in unwanted), offer.model


def test_every_provider_that_can_be_configured_offers_something(catalogue: Catalogue) -> None:
    providers = {offer.provider for model in catalogue.models() for offer in model.offers}
    assert providers == {
        "openai",
        "anthropic",
        "gemini",
        "mistral",
        "groq",
        "together",
        "xai",
        "deepseek",
    }


def test_a_model_served_by_two_providers_is_one_model_with_two_offers(
    catalogue: Catalogue,
) -> None:
    offers = resolved(catalogue, "gpt-oss-120b").offers
    assert [offer.provider for offer in offers] == ["groq", "together"]
    assert [offer.prices.batch is None for offer in offers] == [False, True]


def test_what_a_client_needs_to_choose_a_model_is_known(catalogue: Catalogue) -> None:
    model = resolved(catalogue, "gpt-4o-mini")
    assert (model.maker, model.name, model.created) == ("openai", "GPT-4o mini", 1721260800)
    assert (model.context_length, model.max_output_tokens) == (128_000, 16_384)
    assert {"streaming", "tool_use", "vision", "batch"} <= set(model.features)
    for other in catalogue.models():
        assert other.name
        assert other.created > 0
        assert other.offers
        if other.maker in ("openai", "anthropic", "google") and other.kind == "chat":
            assert other.max_output_tokens, other.id
            assert other.context_length, other.id


# The override file


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("unknown_key = 1", "Extra inputs are not permitted"),
        ("[providers.acme]\nsource = 'acme'", "no provider acme"),
        ("[aliases]\n'a/b' = 'openai/no-such-model'", "not in the catalogue"),
        ("[aliases]\n'openai/gpt-4o' = 'openai/gpt-4o-mini'", "gpt-4o could be"),
        ("[providers.groq]\nsource = 'groq'\nonly = ['gemma-7b-it']", "no maker is known"),
        (
            "[providers.groq]\nsource = 'groq'\nonly = ['openai/gpt-oss-120b']\n"
            "[providers.together]\nsource = 'together'\nonly = ['openai/gpt-oss-120b']",
            "say so in same_as",
        ),
    ],
)
def test_an_override_file_that_is_wrong_refuses_to_load(
    tmp_path: Path, line: str, complaint: str
) -> None:
    file = tmp_path / "overrides.toml"
    only = "only = ['gpt-4o', 'gpt-4o-mini']"
    openai = f"[providers.openai]\nsource = 'openai'\nmaker = 'openai'\n{only}\n"
    release = "default_release = 2026-01-01\n"
    above, below = (line, "") if line.startswith("unknown") else ("", line)
    file.write_text(f"{release}{above}\n{openai}{below}\n")
    with pytest.raises(ValueError, match=complaint):
        load(file, now=NOW)


def test_the_version_names_the_override_files_content(tmp_path: Path, catalogue: Catalogue) -> None:
    file = tmp_path / "overrides.toml"
    file.write_bytes(OVERRIDES.read_bytes())
    same = offer_of(load(file, now=NOW), "gpt-4o").prices
    file.write_bytes(OVERRIDES.read_bytes() + b"\n")
    other = offer_of(load(file, now=NOW), "gpt-4o").prices
    ours = offer_of(catalogue, "gpt-4o").prices
    assert (same.version, same.digest) == (ours.version, ours.digest)
    assert other.version != ours.version
    assert other.digest != ours.digest
