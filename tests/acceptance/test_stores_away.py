"""Redis forgets everything, Redis dies, PostgreSQL dies: while jobs flow."""

import time

import redis

from tests.acceptance.audit import audit
from tests.acceptance.deployment import Deployment
from tests.acceptance.load import Load, asks
from tests.integration.webhook_sink import Sink

SEED = 20261125
DOORBELL_SECONDS = 30.0
RECOVERY_SECONDS = 45.0


def test_losing_all_of_redis_and_then_redis_itself_costs_no_job_and_seconds(
    deployment: Deployment, sink: Sink
) -> None:
    asked = asks(deployment.accounts, 200, seed=SEED, webhook_url=sink.url("/hook"))
    load = Load(deployment.base_url, asked, per_second=25)
    with load.running(), redis.Redis.from_url(deployment.redis.url()) as client:
        for _ in range(2):
            time.sleep(2.0)
            client.flushall()
        deployment.redis.kill()
        time.sleep(3.0)
        deployment.redis.start()
        restarted_at = time.monotonic()
    deployment.wait_settled(restarted_at + DOORBELL_SECONDS - time.monotonic())
    print("recovered", time.monotonic() - restarted_at, load.trouble)
    assert not load.trouble, "the doorbell is not needed to accept a job"
    audit(deployment, load.accepted, sink)


def test_a_crash_of_postgresql_is_answered_503_and_loses_and_doubles_nothing(
    deployment: Deployment, sink: Sink
) -> None:
    asked = asks(deployment.accounts, 200, seed=SEED + 1, webhook_url=sink.url("/hook"))
    load = Load(deployment.base_url, asked, per_second=25)
    with load.running():
        time.sleep(5.0)
        deployment.postgres.kill()
        time.sleep(2.0)
        deployment.postgres.start()
        restarted_at = time.monotonic()
    deployment.wait_settled(restarted_at + RECOVERY_SECONDS - time.monotonic())
    print("recovered", time.monotonic() - restarted_at, load.trouble)
    assert load.trouble.keys() == {"503"}, load.trouble
    audit(deployment, load.accepted, sink)
