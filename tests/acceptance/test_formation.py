"""Several workers and schedulers at once have the effect of one."""

import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import redis
from redis.client import Monitor

from tests.acceptance.audit import audit
from tests.acceptance.deployment import Deployment
from tests.acceptance.load import Load, asks
from tests.integration.webhook_sink import Sink

SEED = 20261129
SETTLE_SECONDS = 45.0
RUNG_BY_THE_CLOCK_ONLY = ("poll_batches", "escalate_jobs", "expire_jobs", "settle_orphans")


class _Listener:
    """Counts the messages that are enqueued, by actor, as Redis itself sees them."""

    def __init__(self, url: str) -> None:
        self.rings: Counter[str] = Counter()
        self._url = url
        self._ended = threading.Event()

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Counts while the block runs."""
        with redis.Redis.from_url(self._url) as client, client.monitor() as monitor:
            thread = threading.Thread(target=self._listen, args=(monitor,))
            thread.start()
            try:
                yield
            finally:
                self._ended.set()
                client.ping()  # Something to hear, so that the listener looks up.
                thread.join()

    def _listen(self, monitor: Monitor) -> None:
        while not self._ended.is_set():
            heard: dict[str, Any] = monitor.next_command()  # type: ignore[no-untyped-call]
            command = str(heard["command"])
            start = command.find('{"queue_name"')
            # What a script does in its turn is reported too, as coming from Lua.
            if start >= 0 and heard["client_type"] != "lua":
                message, _ = json.JSONDecoder().raw_decode(command[start:])
                self.rings[message["actor_name"]] += 1


def test_two_workers_and_three_schedulers_ring_once_a_slot_and_double_no_batch(
    deployment: Deployment, sink: Sink
) -> None:
    asked = asks(deployment.accounts, 300, seed=SEED, webhook_url=sink.url("/hook"))
    load = Load(deployment.base_url, asked, per_second=50)
    listener = _Listener(deployment.redis.url())
    deployment.processes.stop("scheduler")
    with deployment.database() as connection:
        connection.execute("TRUNCATE ticks")
        with listener.listening():
            with deployment.besides(worker=1, scheduler=3):
                with load.running():
                    pass
                deployment.wait_settled(SETTLE_SECONDS)
            ticks: dict[str, int] = dict(
                connection.execute("SELECT task, count(*) FROM ticks GROUP BY task")
            )
    deployment.start("scheduler")
    facts = audit(deployment, load.accepted, sink)
    assert len(facts.simulated_batches) == len(facts.batches)
    expected = {task: ticks[task] for task in RUNG_BY_THE_CLOCK_ONLY}
    assert {task: listener.rings[task] for task in RUNG_BY_THE_CLOCK_ONLY} == expected
