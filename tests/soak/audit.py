"""What must hold whenever the faults pause: all of the acceptance tests' audit, and more."""

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from tests.acceptance.audit import violations
from tests.acceptance.deployment import NotSettled
from tests.acceptance.facts import Facts
from tests.acceptance.load import PLANTED, Accepted
from tests.soak.deployment import SoakDeployment
from tests.soak.receiver import Receiver

SETTLE_SECONDS = 420.0
ORPHANS_SECONDS = 90.0
FAILING = frozenset({400, 409, 502})
"""Refused by the provider's validation, and not answered by it in three rounds."""
LOOK_SECONDS = 1.0

_HURRY = """
    UPDATE deliveries SET due_at = now()
    WHERE status = 'pending' AND attempts > 1 AND leased_until IS NULL AND due_at > now()
"""
_UNKNOWN = """
    SELECT external_id FROM provider_batches WHERE external_id IS NOT NULL
    UNION SELECT external_id FROM orphan_batches
"""


def settle(deployment: SoakDeployment) -> str | None:
    """Waits until nothing is left to do; what is left, if it does not come to an end.

    Deliveries that failed twice would come again after minutes: their time is brought forward.
    Batches that exist twice at the provider are looked for once a minute, and waited for.
    """
    ends_at = time.monotonic() + SETTLE_SECONDS
    left: str | None = "nothing was looked at"
    while left is not None and time.monotonic() < ends_at:
        with deployment.database() as connection:
            connection.execute(_HURRY)
        try:
            deployment.wait_settled(LOOK_SECONDS)
            left = None
        except NotSettled as error:
            left = str(error)
    _wait_for_orphans(deployment)
    return left


def _wait_for_orphans(deployment: SoakDeployment) -> None:
    """Until every batch at the provider is known, and booked if it is an orphan; or not."""
    ends_at = time.monotonic() + ORPHANS_SECONDS
    with deployment.database() as connection:
        while time.monotonic() < ends_at:
            known = {row[0] for row in connection.execute(_UNKNOWN)}
            rows = deployment.simulator.batches()
            if all(row["status"] == "failed" or row["id"] in known for row in rows):
                break
            time.sleep(LOOK_SECONDS)
    try:
        deployment.wait_settled(ends_at - time.monotonic())
    except NotSettled:
        return  # The audit says what is not booked.


def audit(
    deployment: SoakDeployment,
    accepted: Sequence[Accepted],
    cancellations: Mapping[str, bool],
    receiver: Receiver,
) -> tuple[Counter[str], list[str]]:
    """How many jobs ended how, and everything that is wrong."""
    facts, wrong = violations(deployment, accepted, failing=FAILING)
    wrong += _cancellations(facts, cancellations)
    wrong += receiver.violations(facts, accepted)
    wrong += _in_redis(deployment)
    ends = Counter(f"{job['status']} {job['http_status']}" for job in facts.jobs.values())
    ends["charged nano-USD"] = facts.transfers.get("charge", 0)
    ends["provider batches"] = len(facts.simulated_batches)
    ends["orphans booked"] = len(facts.orphans)
    ends["unpriced"] = sum(each["unpriced"] for each in facts.settlements.values())
    return ends, wrong


def _cancellations(facts: Facts, cancellations: Mapping[str, bool]) -> Iterator[str]:
    """Only what its customer cancelled is cancelled, what was told so is, and it is free."""
    for name, job in facts.jobs.items():
        is_cancelled = job["status"] == "cancelled"
        if is_cancelled and name not in cancellations:
            yield f"{name} was cancelled by nobody"
        if is_cancelled and job["id"] in facts.settlements:
            yield f"{name} was cancelled and charged"
        if cancellations.get(name) and not is_cancelled:
            yield f"{name} was told to be cancelled and is {job['status']}"


def _in_redis(deployment: SoakDeployment) -> Iterator[str]:
    """The doorbell knows ids only; its append-only file has all that it was ever told."""
    secrets = [PLANTED, *(account.api_key for account in deployment.accounts)]
    for path in deployment.redis_files():
        content = path.read_bytes()
        yield from (f"Redis was told {each}" for each in secrets if each.encode() in content)
