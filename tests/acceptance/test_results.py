"""Results that come shuffled, twice, not at all, half, unpriced, for nobody or not in time."""

from collections import Counter

from tests.acceptance.audit import audit
from tests.acceptance.deployment import Deployment, until
from tests.acceptance.load import Load, asks
from tests.acceptance.simulator import Simulator
from tests.integration.webhook_sink import Sink

SEED = 20261130
JOBS = 300
REFUSED_LINES = [2, 5]
SETTLE_SECONDS = 60.0
_WAITING_FOR_QUOTA = "SELECT 1 FROM provider_batches WHERE status = 'formed' AND refusals > 0"


def test_faulty_results_are_delivered_once_charged_exactly_and_never_guessed(
    deployment: Deployment, sink: Sink
) -> None:
    print(f"seed {SEED}")
    simulator = deployment.simulator
    simulator.turn(
        seed=SEED,
        batch_seconds=16,
        shuffle=True,
        duplicate_lines=0.1,
        unknown_lines=0.1,
        missing_lines=0.05,
        missing_usage=0.1,
        truncate_download={"count": 1},
        validation_failure={"count": 1, "lines": REFUSED_LINES},
        expire_after_fraction=0.5,
    )
    asked = asks(deployment.accounts, JOBS, seed=SEED, webhook_url=sink.url("/hook"))
    first = Load(deployment.base_url, asked[: JOBS // 2])
    with first.running():
        pass
    # 1. While a batch runs, the next one is over the limit; it waits until the first has ended.
    until(lambda: _runs(simulator, "gpt-4o-mini"), SETTLE_SECONDS, "a batch of chat calls runs")
    simulator.turn(token_limit={"gpt-4o-mini": 1})
    second = Load(deployment.base_url, asked[JOBS // 2 :])
    with second.running(), deployment.database() as connection:
        until(
            lambda: connection.execute(_WAITING_FOR_QUOTA).fetchone() is not None,
            SETTLE_SECONDS,
            "a batch over the token limit waits",
        )
    simulator.turn(token_limit=None, batch_seconds=1)
    # 2. Every batch expires half-way, until three failures would begin to end jobs.
    until(
        lambda: _expired(simulator) == {"openai", "anthropic"},
        SETTLE_SECONDS,
        "a batch of each provider expired",
    )
    simulator.turn(expire_after_fraction=None, missing_lines=None)
    print("settled", deployment.wait_settled(SETTLE_SECONDS))

    accepted = [*first.accepted, *second.accepted]
    facts = audit(deployment, accepted, sink, failing=frozenset({400}))
    ends = Counter(job["status"] for job in facts.jobs.values())
    assert ends == {"completed": JOBS - len(REFUSED_LINES), "failed": len(REFUSED_LINES)}
    assert any(job["failures"] for job in facts.jobs.values())
    codes = {error["code"] for row in facts.simulated_batches for error in row["errors"]}
    assert codes == {"invalid_json_line", "token_limit_exceeded"}
    unpriced = [each for each in facts.settlements.values() if each["unpriced"]]
    assert unpriced
    assert facts.transfers["suspense"] == sum(each["held_nanos"] for each in unpriced)
    assert simulator.knobs()["truncate_download"]["count"] == 0


def _runs(simulator: Simulator, model: str) -> bool:
    return any(
        row["status"] == "in_progress" and row["model"] == model for row in simulator.batches()
    )


def _expired(simulator: Simulator) -> set[str]:
    """The providers of which a batch has expired."""
    return {row["provider"] for row in simulator.batches() if row["status"] == "expired"}
