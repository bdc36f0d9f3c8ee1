"""Jobs whose batches take too long, on the Procfile's processes: answered before their deadline."""

import json
from collections import Counter
from fractions import Fraction

from tests.acceptance.audit import MARKUP
from tests.acceptance.deployment import Deployment
from tests.acceptance.facts import Facts
from tests.acceptance.load import MODELS, Load, asks
from tests.acceptance.simulator import Row
from tests.integration.webhook_sink import Sink

SEED = 20261204
JOBS = 24
DEADLINE_SECONDS = 16
SETTLE_SECONDS = 60.0


def test_jobs_whose_batch_takes_too_long_are_answered_in_the_standard_lane_before_their_deadline(
    deployment: Deployment, sink: Sink
) -> None:
    deployment.simulator.turn(batch_seconds=600)
    asked = asks(
        deployment.accounts, JOBS, seed=SEED, webhook_url=sink.url("/hook"), kinds=("openai",)
    )
    for ask in asked:
        ask.body["deadline"] = DEADLINE_SECONDS
    load = Load(deployment.base_url, asked)
    with load.running():
        pass
    print("settled", deployment.wait_settled(SETTLE_SECONDS))
    facts = Facts.gather(deployment)
    assert Counter(job["status"] for job in facts.jobs.values()) == {"completed": JOBS}
    assert {each["lane"] for each in facts.settlements.values()} == {"standard"}
    assert {row["status"] for row in facts.simulated_batches} == {"cancelled"}
    # Each was called once, and its charge is what the simulator's meter makes of that call.
    price = facts.prices[MODELS["openai"]]

    def list_price(row: Row) -> Fraction:
        nanos: Fraction = row["input_uncached"] * price.prompt + row["output"] * price.completion
        return nanos

    charged = sorted(each["charged_nanos"] for each in facts.settlements.values())
    assert charged == sorted(_rounded(list_price(row)) for row in facts.served)
    costs = [_rounded(list_price(row) / MARKUP) for row in facts.served]
    assert facts.transfers["provider_cost"] == sum(costs)
    told = Counter(
        (event["type"], event["data"]["id"])
        for received in sink.at("/hook")
        if (event := json.loads(received.body))["data"]["id"] in facts.jobs
    )
    for job_id in facts.jobs:
        assert told["job.escalated", job_id] >= 1
        assert told["job.completed", job_id] >= 1
    accepted = load.accepted[0]
    with deployment.client(accepted.ask.account.api_key) as client:
        job = client.get(f"/v1/jobs/{accepted.job_id}").raise_for_status().json()
    assert (job["lane"], job["escalated"], job["escalation"]["reason"]) == (
        "standard",
        True,
        "deadline",
    )
    assert job["completed_at"] <= job["deadline_at"]
    status, report = deployment.command("ledger", "verify")
    assert (status, report["violations"]) == (0, [])


def _rounded(exact: Fraction) -> int:
    """To whole nano-USD, half up."""
    return (2 * exact.numerator + exact.denominator) // (2 * exact.denominator)
