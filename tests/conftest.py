"""Fixtures that every test may use, and the rules of a test run."""

import sys
from collections.abc import Iterator

import hypothesis
import psycopg
import pytest
import redis
from psycopg import sql
from xdist.workermanage import WorkerController  # type: ignore[import-untyped]

from tests.network import refuse_outside
from tests.services import Services, ask

LOCK_TIMEOUT_MS = 10_000

_services = pytest.StashKey[Services]()


def pytest_configure(config: pytest.Config) -> None:
    hypothesis.settings.register_profile("offpeak", derandomize=True, deadline=None)
    hypothesis.settings.load_profile("offpeak")
    sys.addaudithook(refuse_outside)
    if not hasattr(config, "workerinput"):
        config.stash[_services] = Services()


def pytest_configure_node(node: WorkerController) -> None:
    services = node.config.stash[_services]
    node.workerinput["services_address"] = services.address
    node.workerinput["services_authkey"] = services.authkey.hex()


def pytest_unconfigure(config: pytest.Config) -> None:
    services = config.stash.get(_services, None)
    if services is not None:
        services.close()


class WorkerServices:
    """What this worker process may use of the run's services."""

    def __init__(self, address: str, authkey: bytes, worker: str) -> None:
        self._address = address
        self._authkey = authkey
        self._worker = worker

    def url(self, service: str) -> str:
        """The URL of this worker's own database in `postgres` or `redis`."""
        return ask(self._address, self._authkey, service, self._worker)


@pytest.fixture(scope="session")
def worker_services(request: pytest.FixtureRequest, worker_id: str) -> WorkerServices:
    """The way to the services, from a worker or from a run without workers."""
    given = getattr(request.config, "workerinput", None)
    if given is not None:
        authkey = bytes.fromhex(given["services_authkey"])
        return WorkerServices(given["services_address"], authkey, worker_id)
    services = request.config.stash[_services]
    return WorkerServices(services.address, services.authkey, worker_id)


@pytest.fixture(scope="session")
def worker_database_url(worker_services: WorkerServices) -> str:
    """This worker's migrated database, whatever is in it."""
    return worker_services.url("postgres")


@pytest.fixture(scope="session")
def _database_cleaner(worker_database_url: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(worker_database_url, autocommit=True) as connection:
        # A transaction that a failed test left open must not hang the next test.
        connection.execute(f"SET lock_timeout = {LOCK_TIMEOUT_MS}")
        yield connection


@pytest.fixture
def database_url(worker_database_url: str, _database_cleaner: psycopg.Connection) -> str:
    """`postgresql://…` of a migrated database without rows, this test's own while it runs."""
    rows = _database_cleaner.execute(
        "SELECT tablename FROM pg_tables"
        " WHERE schemaname = 'public' AND tablename <> 'alembic_version'"
    )
    tables = sql.SQL(", ").join(sql.Identifier(name) for (name,) in rows)
    _database_cleaner.execute(sql.SQL("TRUNCATE {} RESTART IDENTITY CASCADE").format(tables))
    return worker_database_url


@pytest.fixture(scope="session")
def _worker_redis_url(worker_services: WorkerServices) -> str:
    return worker_services.url("redis")


@pytest.fixture
def redis_url(_worker_redis_url: str) -> str:
    """`redis://…` of an empty database number, this test's own while it runs."""
    with redis.Redis.from_url(_worker_redis_url) as client:
        client.flushdb()
    return _worker_redis_url
