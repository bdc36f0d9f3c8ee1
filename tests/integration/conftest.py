"""The Flask app for the tests of the web door."""

from collections.abc import Iterator

import pytest

from tests.contract.simulator_process import QUICK, SimulatorProcess
from tests.integration.web_world import Customer, Web, make_web


@pytest.fixture(scope="session")
def provider_process() -> Iterator[SimulatorProcess]:
    """One simulator for all tests of this worker."""
    with SimulatorProcess() as running:
        yield running


@pytest.fixture
def provider(provider_process: SimulatorProcess) -> SimulatorProcess:
    """A simulator that remembers nothing."""
    provider_process.reset(**QUICK)
    return provider_process


@pytest.fixture
def web(database_url: str, redis_url: str, provider: SimulatorProcess) -> Iterator[Web]:
    """A web process on an empty database."""
    with make_web(database_url, redis_url, provider) as made:
        yield made


@pytest.fixture
def customer(web: Web) -> Customer:
    """An account with ten dollars."""
    return web.customer()
