"""The gateway put together from the settings: what a door needs, built in one place."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

from sqlalchemy import Engine

from gateway.access.credentials import DATA_KEY, OwnKey, open_key
from gateway.access.keys import KeyDigest
from gateway.access.vault import Vault
from gateway.access.widget_keys import WidgetKeyDigest
from gateway.billing.prices import BASIS_POINTS, markup_bps
from gateway.calls.routing import Route, Router
from gateway.catalogue.catalogue import Catalogue, load
from gateway.lanes.credentials import Credentials
from gateway.lanes.works import LanePolicy
from gateway.net.http import HttpClients
from gateway.providers import dialects
from gateway.providers.anthropic import Anthropic
from gateway.providers.breaker import Breakers
from gateway.providers.dialect import HOUSE, Credential, Dialect
from models.session import connect
from settings import ProviderSettings, Settings, SettingsError


@dataclass(frozen=True, slots=True)
class House:
    """What the doors share. Nothing connects before it is used.

    `spares` are further credentials of the house, by provider: for calls at once and never for
    batches, which are known only to the key that made them.
    """

    settings: Settings
    engine: Engine
    http: HttpClients
    dialects: Mapping[str, Dialect]
    credentials: Mapping[tuple[str, str], Credential]
    spares: Mapping[str, tuple[Credential, ...]]
    catalogue: Catalogue
    router: Router
    breakers: Breakers
    digest: KeyDigest
    widget_key_digest: WidgetKeyDigest
    webhook_vault: Vault
    data_key_vault: Vault
    policy: LanePolicy
    markup_bps: int
    own_key_markup_bps: int

    def markup_of(self, route: Route) -> int:
        """What our customer pays beyond the provider's price; see `pricing.amounts`."""
        return self.markup_bps if route.credential.is_house else self.own_key_markup_bps

    def lane_credentials(self) -> Credentials:
        """Finds what the lanes call with."""
        return Credentials(self.engine, self.credentials, self.credential_of)

    def credential_of(self, key: OwnKey) -> Credential:
        """A customer's own credential; its key is opened each time it is needed."""
        base_url = self.settings.providers[key.provider].base_url
        opener = partial(open_key, self.data_key_vault, key)
        return Credential(key.provider, key.reference, opener, base_url)

    def close(self) -> None:
        """Closes the connections that are not in use."""
        self.http.close()
        self.engine.dispose()


def build(
    settings: Settings, *, name: str, pool_size: int, catalogue: Catalogue | None = None
) -> House:
    """The house for one process. `name` is what its database connections are called.

    Raises SettingsError if a key is for a provider whose address nobody knows.
    """
    http, catalogue = HttpClients(), catalogue or load()
    providers = _providers(settings, catalogue)
    spoken = dialects(http, catalogue.base_urls(), catalogue.output_limits(Anthropic.name))
    credentials = {
        (provider, HOUSE): Credential(
            provider, HOUSE, each.api_key.get_secret_value(), each.base_url
        )
        for provider, each in providers.items()
        if provider in spoken and each.api_key is not None
    }
    spares = {
        provider: tuple(
            Credential(provider, f"{HOUSE}-{number}", key.get_secret_value(), each.base_url)
            for number, key in enumerate(each.spare_keys, 2)
        )
        for provider, each in providers.items()
    }
    return House(
        settings=settings,
        engine=connect(settings.sqlalchemy_url, pool_size=pool_size, name=name),
        http=http,
        dialects=spoken,
        credentials=credentials,
        spares=spares,
        catalogue=catalogue,
        router=Router(catalogue, spoken, credentials, spares),
        breakers=Breakers(),
        digest=KeyDigest(settings.secret_key.get_secret_value()),
        widget_key_digest=WidgetKeyDigest(settings.secret_key.get_secret_value()),
        webhook_vault=_vault(settings, "webhook-secret"),
        data_key_vault=_vault(settings, DATA_KEY),
        policy=LanePolicy(
            window=timedelta(seconds=settings.batch_window_seconds),
            ripe_requests=settings.batch_ripe_requests,
            poll_interval=timedelta(seconds=settings.batch_poll_seconds),
            doubt=timedelta(seconds=settings.batch_doubt_seconds),
            max_requests=settings.batch_max_requests,
        ),
        markup_bps=markup_bps(settings.price_markup_percent),
        own_key_markup_bps=markup_bps(settings.byok_fee_percent) - BASIS_POINTS,
    )


def _providers(settings: Settings, catalogue: Catalogue) -> dict[str, ProviderSettings]:
    """Every provider, those that only the catalogue knows included."""
    base_urls, keys = catalogue.base_urls(), settings.further_api_keys
    unknown = sorted(keys.keys() - base_urls.keys())
    if unknown:
        raise SettingsError(
            f"FURTHER_API_KEYS names {', '.join(unknown)}, which has no base_url in the catalogue."
        )
    further = {name: ProviderSettings(keys.get(name), url) for name, url in base_urls.items()}
    return {**further, **settings.providers}


def _vault(settings: Settings, purpose: str) -> Vault:
    other = settings.encryption_key_previous
    return Vault(
        settings.encryption_key.get_secret_value(),
        purpose,
        None if other is None else other.get_secret_value(),
    )
