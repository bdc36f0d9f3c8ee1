"""The default formation keeps to its share of the database's connections, whatever it has to do."""

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from tests.acceptance.deployment import Deployment
from tests.acceptance.load import Load, asks
from tests.integration.webhook_sink import Sink

SEED = 20261122
JOBS = 200
CONNECTIONS_AT_MOST = 18
LOOK_SECONDS = 0.05
SETTLE_SECONDS = 60.0


class _Lookout:
    """Looks again and again at who is connected; `seen` is each time's count by name."""

    def __init__(self, deployment: Deployment) -> None:
        self.seen: list[Counter[str]] = []
        self._deployment = deployment
        self._over = threading.Event()

    @contextmanager
    def watching(self) -> Iterator[None]:
        thread = threading.Thread(target=self._watch)
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            thread.join()

    def _watch(self) -> None:
        with self._deployment.database() as connection:
            while not self._over.wait(LOOK_SECONDS):
                rows = connection.execute(
                    "SELECT application_name FROM pg_stat_activity "
                    "WHERE application_name LIKE 'offpeak-%' AND datname = current_database()"
                )
                self.seen.append(Counter(name for (name,) in rows))


def test_jobs_waiting_callers_and_ingestion_at_once_need_no_more_connections_than_promised(
    deployment: Deployment, sink: Sink
) -> None:
    asked = asks(deployment.accounts, JOBS, seed=SEED, webhook_url=sink.url("/hook"))
    load = Load(deployment.base_url, asked)
    lookout = _Lookout(deployment)
    with lookout.watching():
        with load.running():
            pass
        waited_for = load.accepted[-8:]

        def wait(number: int) -> None:
            accepted = waited_for[number]
            with deployment.client(accepted.ask.account.api_key) as client:
                client.get(f"/v1/jobs/{accepted.job_id}", params={"wait": "10"}, timeout=30)

        waiting = [
            threading.Thread(target=wait, args=(number,)) for number in range(len(waited_for))
        ]
        for thread in waiting:
            thread.start()
        deployment.wait_settled(SETTLE_SECONDS)
        for thread in waiting:
            thread.join()
    most = max(lookout.seen, key=Counter.total)
    assert most.total() <= CONNECTIONS_AT_MOST, most
    names = set().union(*lookout.seen)
    assert names >= {"offpeak-web", "offpeak-web-listen", "offpeak-worker", "offpeak-scheduler"}
