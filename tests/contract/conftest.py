"""The whole service behind a socket, for the tests of what its clients may rely on."""

from collections.abc import Iterator

import pytest

from tests.acceptance.deployment import Deployment


@pytest.fixture(scope="session")
def standing_gateway() -> Iterator[Deployment]:
    """The Procfile's processes, started when a test of this worker first asks for them."""
    with Deployment() as deployment:
        yield deployment


@pytest.fixture
def gateway(standing_gateway: Deployment) -> Iterator[Deployment]:
    """The service; the provider's knobs are put back after the test."""
    before = standing_gateway.simulator.knobs()
    yield standing_gateway
    standing_gateway.simulator.turn(**before)
