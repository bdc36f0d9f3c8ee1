"""One deployment for all acceptance tests, emptied before each, its logs shown when one fails."""

from collections.abc import Generator, Iterator

import pytest

from tests.acceptance.deployment import Deployment
from tests.integration.webhook_sink import Sink


@pytest.fixture(scope="session")
def standing_deployment() -> Iterator[Deployment]:
    """The default formation, with whatever work the tests before have left."""
    with Deployment() as deployment:
        yield deployment


@pytest.fixture
def deployment(standing_deployment: Deployment) -> Deployment:
    """The default formation, well, with three accounts and no work."""
    standing_deployment.reset()
    return standing_deployment


@pytest.fixture(scope="session")
def sink() -> Iterator[Sink]:
    """Where all webhooks go, to `/hook`."""
    receiver = Sink()
    yield receiver
    receiver.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    found = getattr(item, "funcargs", {}).get("standing_deployment")
    if report.failed and isinstance(found, Deployment):
        for name, text in found.log_tails().items():
            report.sections.append((f"end of {name}'s log", text))
    return report
