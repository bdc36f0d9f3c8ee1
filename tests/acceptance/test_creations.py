"""Creations at the provider whose outcome is not known: looked for, adopted, or made again."""

from tests.acceptance.audit import audit
from tests.acceptance.deployment import DOUBT_SECONDS, Deployment
from tests.acceptance.load import Load, asks
from tests.integration.webhook_sink import Sink

SEED = 20261127
JOBS = 100
ADOPTION_SECONDS = 25.0


def test_creations_whose_answer_is_lost_are_adopted_within_seconds(
    deployment: Deployment, sink: Sink
) -> None:
    deployment.simulator.turn(
        create_drop_after={"count": 2}, create_500_after={"count": 1}, list_lag_seconds=2
    )
    asked = asks(deployment.accounts, JOBS, seed=SEED, webhook_url=sink.url("/hook"))
    load = Load(deployment.base_url, asked)
    with load.running():
        pass
    print("settled", deployment.wait_settled(ADOPTION_SECONDS))
    facts = audit(deployment, load.accepted, sink)
    assert _left(deployment, "create_drop_after", "create_500_after") == [0, 0]
    assert len(facts.simulated_batches) == len(facts.batches)
    assert not facts.orphans


def test_creations_that_never_were_are_made_again_once_the_doubt_is_over(
    deployment: Deployment, sink: Sink
) -> None:
    deployment.simulator.turn(create_drop_before={"count": 2})
    asked = asks(deployment.accounts, JOBS, seed=SEED + 1, webhook_url=sink.url("/hook"))
    load = Load(deployment.base_url, asked)
    with load.running():
        pass
    took = deployment.wait_settled(DOUBT_SECONDS + ADOPTION_SECONDS)
    print("settled", took)
    assert took > DOUBT_SECONDS, "made again before it could be known that it is not there"
    facts = audit(deployment, load.accepted, sink)
    assert _left(deployment, "create_drop_before") == [0]
    assert len(facts.simulated_batches) == len(facts.batches)


def _left(deployment: Deployment, *faults: str) -> list[int]:
    """How often each counted fault has not struck yet."""
    knobs = deployment.simulator.knobs()
    return [knobs[fault]["count"] for fault in faults]
