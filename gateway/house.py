"""The gateway put together from the settings: what a door needs, built in one place."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import Engine

from gateway.access.keys import KeyDigest
from gateway.access.vault import Vault
from gateway.billing.prices import markup_bps
from gateway.calls.routing import HOUSE, Router
from gateway.catalogue.catalogue import Catalogue, load
from gateway.lanes.works import LanePolicy
from gateway.net.http import HttpClients
from gateway.providers import dialects
from gateway.providers.breaker import Breakers
from gateway.providers.dialect import Credential, Dialect
from models.session import connect
from settings import Settings


@dataclass(frozen=True, slots=True)
class House:
    """What the doors share. Nothing connects before it is used."""

    settings: Settings
    engine: Engine
    http: HttpClients
    dialects: Mapping[str, Dialect]
    credentials: Mapping[tuple[str, str], Credential]
    catalogue: Catalogue
    router: Router
    breakers: Breakers
    digest: KeyDigest
    webhook_vault: Vault
    policy: LanePolicy
    markup_bps: int

    def close(self) -> None:
        """Closes the connections that are not in use."""
        self.http.close()
        self.engine.dispose()


def build(settings: Settings, *, name: str, pool_size: int) -> House:
    """The house for one process. `name` is what its database connections are called."""
    http = HttpClients()
    spoken = dialects(http)
    credentials = {
        (provider, HOUSE): Credential(
            provider, HOUSE, each.api_key.get_secret_value(), each.base_url
        )
        for provider, each in settings.providers.items()
        if provider in spoken and each.api_key is not None
    }
    catalogue = load()
    return House(
        settings=settings,
        engine=connect(settings.sqlalchemy_url, pool_size=pool_size, name=name),
        http=http,
        dialects=spoken,
        credentials=credentials,
        catalogue=catalogue,
        router=Router(catalogue, spoken, credentials),
        breakers=Breakers(),
        digest=KeyDigest(settings.secret_key.get_secret_value()),
        webhook_vault=Vault(settings.encryption_key.get_secret_value(), "webhook-secret"),
        policy=LanePolicy(
            window=timedelta(seconds=settings.batch_window_seconds),
            ripe_requests=settings.batch_ripe_requests,
            poll_interval=timedelta(seconds=settings.batch_poll_seconds),
            doubt=timedelta(seconds=settings.batch_doubt_seconds),
            max_requests=settings.batch_max_requests,
        ),
        markup_bps=markup_bps(settings.price_markup_percent),
    )
