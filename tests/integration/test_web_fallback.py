"""A model that two providers serve: who is asked, who answers, and at whose price."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from gateway.billing.prices import ceiling_nanos, cost_nanos, measure
from gateway.calls.record import CallRecord
from gateway.calls.routing import NO_OWN_KEYS, Route, Router
from gateway.catalogue.usage import Usage
from gateway.providers.dialect import Credential, Endpoint
from tests.contract.simulator_process import SimulatorProcess
from tests.integration.web_world import CHAT, SAYS_HI, Customer, Web, error_of, make_web
from web.state import EXTENSION

MODEL = "openai/gpt-oss-120b"
BODY = {"model": MODEL, "messages": SAYS_HI, "max_tokens": 50}
SETTLED = "SELECT provider || ' ' || model FROM settlements"


@pytest.fixture
def web(database_url: str, redis_url: str, provider: SimulatorProcess) -> Iterator[Web]:
    """A web process with several hosts of open weights; the simulator is all of them."""
    hosts: dict[str, str] = {}
    for name in ("groq", "together"):
        hosts |= {f"{name}_api_key": f"sim-{name}", f"{name}_base_url": provider.openai_url}
    with make_web(database_url, redis_url, None, **hosts) as made:
        yield made


@pytest.fixture
def customer(web: Web) -> Customer:
    return web.customer()


@pytest.fixture
def records(web: Web) -> list[CallRecord]:
    """What is told of finished calls."""
    told: list[CallRecord] = []
    web.state.observers[:] = [told.append]
    return told


def routes(web: Web, **fields: Any) -> tuple[Route, ...]:
    """Who may serve the model."""
    return web.state.house.router.routes(Endpoint.CHAT_COMPLETIONS, MODEL, {**BODY, **fields})


@pytest.mark.parametrize("stream", [False, True])
def test_the_next_provider_serves_and_is_the_one_that_is_settled(
    web: Web,
    customer: Customer,
    provider: SimulatorProcess,
    records: list[CallRecord],
    stream: bool,
) -> None:
    provider.turn(revoked_keys=["sim-groq"])
    response = web.client(customer).post(CHAT, json={**BODY, "stream": stream})
    assert response.status_code == 200
    assert MODEL in response.text
    web.assert_books_are_clean()
    first, second = routes(web)
    assert web.column(SETTLED) == [f"together {second.offer.model}"]
    assert web.column("SELECT price_id FROM settlements") == [second.offer.prices.digest]
    (record,) = records
    assert [(each.provider, each.http_status) for each in record.attempts] == [
        ("groq", 401),
        ("together", 200),
    ]
    assert record.provider == "together"
    assert first.offer.provider == "groq"


@pytest.mark.parametrize("stream", [False, True])
def test_a_spare_key_serves_where_the_first_is_refused_before_another_provider_is_asked(
    database_url: str, redis_url: str, provider: SimulatorProcess, stream: bool
) -> None:
    hosts = {
        "groq_api_key": "sim-groq, sim-spare",
        "groq_base_url": provider.openai_url,
        "together_api_key": "sim-together",
        "together_base_url": provider.openai_url,
    }
    provider.turn(revoked_keys=["sim-groq"])
    with make_web(database_url, redis_url, None, **hosts) as web:
        names = [route.credential.name for route in routes(web)]
        assert names == ["house", "house-2", "house"]
        assert all(route.credential.is_house for route in routes(web))
        told: list[CallRecord] = []
        web.state.observers[:] = [told.append]
        response = web.client(web.customer()).post(CHAT, json={**BODY, "stream": stream})
        assert (response.status_code, MODEL in response.text) == (200, True)
        web.assert_books_are_clean()
        assert web.column(SETTLED) == [f"groq {routes(web)[1].offer.model}"]
    (record,) = told
    attempts = [(each.provider, each.http_status) for each in record.attempts]
    assert attempts == [("groq", 401), ("groq", 200)]


class OneIsDearer(Router):
    """Routes of which the last costs twice what the data set says."""

    def routes(
        self,
        endpoint: Endpoint,
        name: str,
        body: Mapping[str, Any],
        own: Mapping[str, Credential] = NO_OWN_KEYS,
    ) -> tuple[Route, ...]:
        *cheap, last = super().routes(endpoint, name, body, own)
        prices = last.offer.prices
        doubled = replace(prices, standard=prices.standard.scaled(Decimal(2)))
        return *cheap, replace(last, offer=replace(last.offer, prices=doubled))


@pytest.mark.parametrize("revoked", ["sim-groq", "sim-together"])
def test_the_dearest_that_may_serve_is_held_and_who_served_is_paid(
    web: Web, customer: Customer, provider: SimulatorProcess, revoked: str
) -> None:
    provider.turn(revoked_keys=[revoked])
    parts = web.state
    house = parts.house
    router = OneIsDearer(house.catalogue, house.dialects, house.credentials)
    web.app.extensions[EXTENSION] = replace(parts, house=replace(house, router=router))
    cheap, dear = (route.offer.prices for route in routes(web))
    response = web.client(customer).post(CHAT, json=BODY)
    usage = response.get_json()["usage"]
    web.assert_books_are_clean()
    size = measure(CHAT, BODY, None)
    assert web.column("SELECT amount_nanos FROM holds") == [ceiling_nanos(size, dear.standard)]
    served = dear if revoked == "sim-groq" else cheap
    used = Usage(input_uncached=usage["prompt_tokens"], output=usage["completion_tokens"])
    assert web.column("SELECT charged_nanos FROM settlements") == [
        cost_nanos(used, served.standard)
    ]


def test_a_field_that_the_first_does_not_support_skips_it(
    web: Web, customer: Customer, records: list[CallRecord]
) -> None:
    (only,) = routes(web, search_settings={})
    assert only.offer.provider == "together"
    # What no provider can serve is named.
    response = web.client(customer).post(CHAT, json={**BODY, "service_tier": "flex"})
    assert (response.status_code, error_of(response)["param"]) == (400, "service_tier")
    assert records == []


def test_who_is_refused_by_all_is_told_so(
    web: Web, customer: Customer, provider: SimulatorProcess
) -> None:
    provider.turn(revoked_keys=["sim-groq", "sim-together"])
    response = web.client(customer).post(CHAT, json=BODY)
    assert (response.status_code, error_of(response)["type"]) == (502, "upstream_error")
    web.assert_books_are_clean()
    assert web.column("SELECT status FROM holds") == ["voided"]
