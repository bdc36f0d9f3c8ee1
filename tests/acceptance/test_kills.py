"""Processes that are killed, and processes that are asked to stop, while jobs flow."""

import random
import time

from tests.acceptance.audit import audit
from tests.acceptance.deployment import DOUBT_SECONDS, FORMATION, Deployment
from tests.acceptance.load import Load, asks
from tests.integration.webhook_sink import Sink

SEED = 20261123
KILLS = 20
PAUSE_SECONDS = (0.2, 1.6)
RECOVERY_SECONDS = 45.0
STOP_SECONDS = 25.0


def test_twenty_kills_while_jobs_flow_lose_and_double_nothing(
    deployment: Deployment, sink: Sink
) -> None:
    print(f"seed {SEED}")
    rng = random.Random(SEED)
    asked = asks(deployment.accounts, 300, seed=SEED, webhook_url=sink.url("/hook"))
    load = Load(deployment.base_url, asked, per_second=15)
    # Creations take their time, so that many a kill leaves one in doubt.
    deployment.simulator.turn(hang_seconds=1.0, hang={"operation": "batch_create"})
    with deployment.besides(worker=1, scheduler=1) as names:
        with load.running():
            for _ in range(KILLS):
                time.sleep(rng.uniform(*PAUSE_SECONDS))
                deployment.kill(rng.choice(names))
            killed_at = time.monotonic()
        recovered_by = killed_at + RECOVERY_SECONDS + DOUBT_SECONDS
        deployment.wait_settled(recovered_by - time.monotonic())
        print("recovered", time.monotonic() - killed_at, load.trouble)
    assert load.trouble, "no customer noticed: the kills hit nothing"
    assert "503" not in load.trouble, "a process answered that could not reach its database"
    audit(deployment, load.accepted, sink)


def test_sigterm_drains_every_process_in_time_and_loses_no_job(
    deployment: Deployment, sink: Sink
) -> None:
    asked = asks(deployment.accounts, 150, seed=SEED + 1, webhook_url=sink.url("/hook"))
    load = Load(deployment.base_url, asked, per_second=25)
    with load.running():
        time.sleep(4.0)
        asked_at = time.monotonic()
        statuses = deployment.processes.stop(*FORMATION)
        seconds = time.monotonic() - asked_at
        for name in FORMATION:
            deployment.start(name)
    print("stopped", seconds, load.trouble)
    assert statuses == dict.fromkeys(FORMATION, 0)
    assert seconds <= STOP_SECONDS
    assert "503" not in load.trouble, "a process answered that could not reach its database"
    print("settled", deployment.wait_settled(RECOVERY_SECONDS))
    audit(deployment, load.accepted, sink)
