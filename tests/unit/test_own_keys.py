"""Calls on a customer's own key: which routes they take, what they cost, and what is told."""

import traceback
from collections.abc import Mapping
from functools import partial
from uuid import UUID

import pytest

from gateway.access.credentials import DATA_KEY, PROVIDER_KEY, OwnKey, open_key, preview
from gateway.access.vault import SealBroken, Vault
from gateway.billing.ledger import Amounts
from gateway.billing.pricing import amounts
from gateway.calls.attempts import reach
from gateway.calls.errors import OwnKeyRefused, UnknownModel
from gateway.calls.record import Trail
from gateway.calls.routing import Route, Router
from gateway.catalogue.catalogue import load
from gateway.catalogue.rates import PriceSnapshot, Rates
from gateway.catalogue.usage import Usage
from gateway.net.http import HttpClients
from gateway.providers import dialects
from gateway.providers.breaker import Breakers, Policy, State
from gateway.providers.dialect import HOUSE, Credential, Endpoint, Unauthorized, Unavailable

ACCOUNT = UUID(int=7)
SECRET = "sk-own-0123456789-abcdefgh"
VAULT = Vault("k" * 32, DATA_KEY)
CHAT = Endpoint.CHAT_COMPLETIONS
OWN = Credential("groq", "acct_1:v1", SECRET, "http://groq.test")
FREE = -10_000
"""The markup of a call on the customer's own key that we take no fee for."""
RATES = Rates(
    input=2_000, cache_read=1_000, cache_write_short=2_500, cache_write_long=4_000, output=8_000
)
PRICES = PriceSnapshot(RATES, RATES, "test")


def sealed_key(**changes: object) -> OwnKey:
    """A key as it is kept, or one of which something was changed in the table."""
    data_key = "data key of the account"
    sealed = Vault(data_key, PROVIDER_KEY).seal(ACCOUNT, SECRET, "openai", "3")
    fields = {
        "account_id": ACCOUNT,
        "provider": "openai",
        "reference": "acct_7:v2",
        "version": 3,
        "sealed": sealed,
        "sealed_data_key": VAULT.seal(ACCOUNT, data_key),
        **changes,
    }
    return OwnKey(**fields)  # type: ignore[arg-type]  # a test's own mixture


@pytest.fixture(scope="module")
def router() -> Router:
    """The house is served by OpenAI and Together, and not by Groq or Anthropic."""
    spoken = dialects(HttpClients())
    house = {
        (name, HOUSE): Credential(name, HOUSE, "sk-house", "http://house.test")
        for name in ("openai", "together")
    }
    return Router(load(), spoken, house)


def served_by(router: Router, name: str, own: Mapping[str, Credential]) -> list[tuple[str, str]]:
    routes = router.routes(CHAT, name, {"model": name, "messages": []}, own)
    return [(route.offer.provider, route.credential.name) for route in routes]


def test_a_sealed_key_opens_to_what_it_was() -> None:
    assert open_key(VAULT, sealed_key()) == SECRET


@pytest.mark.parametrize(
    "changes", [{"account_id": UUID(int=8)}, {"provider": "anthropic"}, {"version": 2}]
)
def test_a_key_that_was_moved_to_another_row_does_not_open(changes: dict[str, object]) -> None:
    with pytest.raises(SealBroken):
        open_key(VAULT, sealed_key(**changes))


def test_another_accounts_data_key_does_not_open_it() -> None:
    other = VAULT.seal(ACCOUNT, "data key of another account")
    with pytest.raises(SealBroken):
        open_key(VAULT, sealed_key(sealed_data_key=other))


def test_neither_a_sealed_key_nor_its_credential_shows_anything_in_a_traceback() -> None:
    key = sealed_key()
    credential = Credential("openai", key.reference, partial(open_key, VAULT, key), "http://x.test")
    house = Credential("openai", HOUSE, SECRET, "http://x.test")
    try:
        raise RuntimeError(f"{key} {credential} {house}")
    except RuntimeError as error:
        told = traceback.TracebackException.from_exception(error, capture_locals=True)
    shown = "".join(told.format(chain=True))
    assert "acct_7:v2" in shown
    for secret in (SECRET, repr(key.sealed)[2:12], repr(key.sealed_data_key)[2:12]):
        assert secret not in shown
    assert credential.api_key == SECRET


def test_a_preview_shows_too_little_to_be_of_use() -> None:
    assert preview(SECRET) == "sk-…efgh"
    assert preview("sk-0123456789abcdef") == "…"


def test_without_a_key_of_ones_own_the_house_serves(router: Router) -> None:
    assert served_by(router, "gpt-4o-mini", {}) == [("openai", HOUSE)]
    assert served_by(router, "gpt-4o-mini", {"groq": OWN}) == [("openai", HOUSE)]


def test_spare_keys_of_the_house_come_after_its_first_and_beside_no_key_of_ones_own() -> None:
    spoken, house = dialects(HttpClients()), Credential("openai", HOUSE, "sk-1", "http://x.test")
    spares = {"openai": (Credential("openai", "house-2", "sk-2", "http://x.test"),)}
    router = Router(load(), spoken, {("openai", HOUSE): house}, spares)
    served = served_by(router, "gpt-4o-mini", {})
    assert served == [("openai", HOUSE), ("openai", "house-2")]
    own = Credential("openai", "acct_7:v1", "sk-own", "http://x.test")
    assert served_by(router, "gpt-4o-mini", {"openai": own}) == [("openai", "acct_7:v1")]


def test_a_model_that_ones_own_key_serves_is_called_with_that_and_no_other(router: Router) -> None:
    everywhere = router.models({"groq": OWN, "together": own_at("together")})
    served = {model.id: {offer.provider for offer in model.offers} for model in everywhere}
    both = [name for name, providers in served.items() if providers == {"groq", "together"}]
    assert both
    for name in both:
        assert served_by(router, name, {}) == [("together", HOUSE)]
        assert served_by(router, name, {"groq": OWN}) == [("groq", OWN.name)]


def test_a_key_of_ones_own_opens_models_that_the_house_has_no_key_for(router: Router) -> None:
    own = {"anthropic": Credential("anthropic", "acct_1:v1", SECRET, "http://a.test")}
    with pytest.raises(UnknownModel):
        served_by(router, "claude-haiku-4-5", {})
    assert served_by(router, "claude-haiku-4-5", own) == [("anthropic", "acct_1:v1")]
    assert {model.id for model in router.models()} < {model.id for model in router.models(own)}


def test_what_the_provider_says_of_ones_own_key_is_a_refusal_of_that_key(router: Router) -> None:
    (route,) = router.routes(CHAT, "gpt-4o-mini", {}, {"openai": own_at("openai")})
    breakers, trail = Breakers(), Trail()

    def refused(_: Route) -> str:
        raise Unauthorized("Incorrect API key provided.", status=401)

    for _ in range(10):
        with pytest.raises(OwnKeyRefused, match="openai did not accept your own key: Incorrect"):
            reach([route], refused, trail, breakers, lambda _: None)
    (house_route,) = router.routes(CHAT, "gpt-4o-mini", {})
    with pytest.raises(Unauthorized):
        reach([house_route], refused, trail, breakers, lambda _: None)


def test_failures_on_ones_own_key_open_no_other_circuit(router: Router) -> None:
    (route,) = router.routes(CHAT, "gpt-4o-mini", {}, {"openai": own_at("openai")})
    breakers = Breakers(Policy(failures_in_a_row=5))

    def limited(_: Route) -> str:
        raise Unavailable("too many requests", status=429)

    for _ in range(3):
        with pytest.raises(Unavailable):
            reach([route], limited, Trail(), breakers, lambda _: None)
    (house_route,) = router.routes(CHAT, "gpt-4o-mini", {})
    assert breakers.of(route.credential).state is State.OPEN
    assert breakers.of(house_route.credential).state is State.CLOSED


def own_at(provider: str) -> Credential:
    return Credential(provider, "acct_1:v1", SECRET, f"http://{provider}.test")


@pytest.mark.parametrize(
    ("markup_bps", "charged_nanos"),
    [(FREE, 0), (FREE + 500, 30), (FREE + 1, 0), (FREE + 9_999, 600)],
)
def test_on_ones_own_key_the_house_owes_nothing_and_charges_its_fee(
    markup_bps: int, charged_nanos: int
) -> None:
    usage = Usage(input_uncached=100, output=50)
    assert amounts(usage, PRICES, "standard", 0) == Amounts(600, 600, 600)
    found = amounts(usage, PRICES, "standard", markup_bps)
    assert found == Amounts(0, charged_nanos, charged_nanos)
