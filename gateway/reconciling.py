"""Reconciliation put together from the house's parts: what its two doors call."""

from urllib.parse import urlsplit

from gateway.billing.prices import parse_usd
from gateway.billing.pricing import PriceBook
from gateway.house import House
from gateway.lanes.polling import note_strays
from gateway.reconciliation.comparing import Outcome, Providers
from gateway.reconciliation.meter import Meter
from gateway.reconciliation.run import DAYS
from gateway.reconciliation.run import reconcile as compare


def reconcile(house: House, prices: PriceBook, days: int = DAYS) -> Outcome:
    """Compares what the providers counted in the last UTC days with the books."""
    providers = Providers(
        dialects=house.dialects,
        credentials=house.credentials,
        catalogue=house.catalogue,
        note_strays=note_strays,
        meter=_meter(house),
    )
    tolerance_nanos = parse_usd(house.settings.reconcile_tolerance_usd)
    return compare(house.engine, prices, providers, tolerance_nanos=tolerance_nanos, days=days)


def _meter(house: House) -> Meter | None:
    """The simulator's, for the keys that are used at the simulator."""
    url = house.settings.simulator_meter_url
    if url is None:
        return None
    return Meter(
        house.http,
        url,
        {
            credential.api_key: credential.provider
            for credential in house.credentials.values()
            if credential.is_house and _server(credential.base_url) == _server(url)
        },
    )


def _server(url: str) -> str:
    return urlsplit(url).netloc
