"""The Flask app for the tests of the web door."""

from collections.abc import Iterator

import pytest

from tests.conftest import WorkerServices
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


@pytest.fixture(scope="session")
def web_process(
    worker_services: WorkerServices, worker_database_url: str, provider_process: SimulatorProcess
) -> Iterator[Web]:
    """One web process for all tests of this worker."""
    redis_url = worker_services.url("redis")
    with make_web(worker_database_url, redis_url, provider_process) as made:
        yield made


@pytest.fixture
def web(
    web_process: Web,
    database_url: str,  # noqa: ARG001 (empties the database)
    redis_url: str,  # noqa: ARG001 (empties Redis)
    provider: SimulatorProcess,  # noqa: ARG001 (makes the provider forget)
) -> Iterator[Web]:
    """A web process that has just started, on an empty database."""
    web_process.renew()
    yield web_process
    web_process.close()


@pytest.fixture
def customer(web: Web) -> Customer:
    """An account with ten dollars."""
    return web.customer()
