"""Reconciliation put together from the house's parts: what its two doors call."""

from collections.abc import Iterator
from itertools import chain
from urllib.parse import urlsplit

from gateway.billing.prices import parse_usd
from gateway.billing.pricing import PriceBook
from gateway.house import House
from gateway.lanes.polling import note_strays
from gateway.reconciliation import reports
from gateway.reconciliation.comparing import Outcome, Providers
from gateway.reconciliation.counters import Counter
from gateway.reconciliation.meter import Meter
from gateway.reconciliation.reports import Reports
from gateway.reconciliation.run import DAYS
from gateway.reconciliation.run import reconcile as compare


def reconcile(house: House, prices: PriceBook, days: int = DAYS) -> Outcome:
    """Compares what the providers counted in the last UTC days with the books."""
    providers = Providers(
        dialects=house.dialects,
        credentials=house.credentials,
        catalogue=house.catalogue,
        note_strays=note_strays,
        counters=[*_meter(house), *_reports(house)],
    )
    tolerance_nanos = parse_usd(house.settings.reconcile_tolerance_usd)
    return compare(house.engine, prices, providers, tolerance_nanos=tolerance_nanos, days=days)


def _meter(house: House) -> Iterator[Counter]:
    """The simulator's, for the keys that are used at the simulator."""
    url = house.settings.simulator_meter_url
    if url is None:
        return
    yield Meter(
        house.http,
        url,
        {
            credential.api_key: credential.provider
            for credential in (*house.credentials.values(), *chain(*house.spares.values()))
            if _server(credential.base_url) == _server(url)
        },
    )


def _reports(house: House) -> Iterator[Counter]:
    """The providers' own, where there is an administrator's key for them."""
    settings = house.settings
    for make, name, key, part in (
        (reports.openai, "openai", settings.openai_admin_key, settings.openai_project_id),
        (
            reports.anthropic,
            "anthropic",
            settings.anthropic_admin_key,
            settings.anthropic_workspace_id,
        ),
    ):
        if key is not None:
            base_url = settings.providers[name].base_url
            report = make(base_url.rstrip("/"), key.get_secret_value(), part)
            yield Reports(house.http, house.catalogue, report)


def _server(url: str) -> str:
    return urlsplit(url).netloc
