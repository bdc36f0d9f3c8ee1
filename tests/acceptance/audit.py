"""The auditor: everything that must hold when all is quiet again, checked from outside.

It shares no code with the service and reads its database, not its word. Each check answers with
sentences about what is wrong.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from typing import Any

import pytest
from openai import OpenAI
from standardwebhooks.webhooks import Webhook

from tests.acceptance.deployment import MARKUP_PERCENT, Account, Deployment
from tests.acceptance.facts import Facts, Price, body_of, vectors
from tests.acceptance.load import DIMENSIONS, EMBEDDINGS, PLANTED, Accepted
from tests.acceptance.simulator import Row
from tests.integration.webhook_sink import Received, Sink

ENDS = frozenset({"completed", "failed", "cancelled", "expired"})
SHOWN = 10
OTHER_CLASSES = ("cache_read", "cache_write_short", "cache_write_long")
TOLERANCE = 1e-6
MARKUP = 1 + Fraction(MARKUP_PERCENT) / 100


def audit(
    deployment: Deployment,
    accepted: Sequence[Accepted],
    sink: Sink,
    *,
    failing: frozenset[int] = frozenset(),
) -> Facts:
    """Checks all of it; AssertionError with what is wrong. The facts, for a test's own questions.

    Jobs may fail with the HTTP statuses in `failing`, and must complete otherwise.
    """
    facts, wrong = violations(deployment, accepted, failing=failing)
    wrong += _webhooks(facts, accepted, sink)
    assert not wrong, f"{len(wrong)} things are wrong: " + "\n".join(wrong[:SHOWN])
    return facts


def violations(
    deployment: Deployment, accepted: Sequence[Accepted], *, failing: frozenset[int]
) -> tuple[Facts, list[str]]:
    """The facts, and what is wrong with them; the webhooks are left to whoever received them."""
    with ThreadPoolExecutor(1) as pool:
        # A process of its own, and slow to start: it runs beside the other checks.
        verified = pool.submit(deployment.command, "ledger", "verify")
        facts = Facts.gather(deployment)
        wrong = [*_all_but_ledger(deployment, facts, accepted, failing)]
    return facts, [*wrong, *_ledger(*verified.result())]


def _all_but_ledger(
    deployment: Deployment,
    facts: Facts,
    accepted: Sequence[Accepted],
    failing: frozenset[int],
) -> Iterable[str]:
    return [
        *_jobs(facts, accepted, failing),
        *_answers(deployment, facts, accepted),
        *_charges(facts),
        *_costs(facts),
        *_batches(facts),
        *_logs(deployment),
        *(
            f"{name} has died"
            for name in deployment.formation
            if not deployment.processes.alive(name)
        ),
    ]


def _jobs(facts: Facts, accepted: Sequence[Accepted], failing: frozenset[int]) -> Iterator[str]:
    """Every accepted call is one job, every job was accepted, and each is at its one end."""
    named = Counter(each.job_id for each in accepted)
    yield from (f"{job} was given to {count} calls" for job, count in named.items() if count > 1)
    yield from (f"{job} is lost" for job in named.keys() - facts.jobs.keys())
    yield from (f"{job} was never told to a caller" for job in facts.jobs.keys() - named.keys())
    for name, job in facts.jobs.items():
        if job["status"] not in ENDS or job["body"] is None:
            yield f"{name} is {job['status']} and has no end"
        elif job["status"] != "completed" and job["http_status"] not in failing:
            yield f"{name} {job['status']} with {job['http_status']}: {body_of(job)}"


def _answers(deployment: Deployment, facts: Facts, accepted: Sequence[Accepted]) -> Iterator[str]:
    """Every completed job has the answer to its own question."""
    embedded = [each.ask.text for each in accepted if each.ask.path == EMBEDDINGS]
    vector_of = vectors(deployment, embedded, DIMENSIONS)
    for each in accepted:
        job = facts.jobs.get(each.job_id)
        if job is None or job["status"] != "completed":
            continue
        body = body_of(job)
        if body["model"] != each.ask.body["model"]:
            yield f"{each.job_id} answers as {body['model']}"
        if each.ask.path == EMBEDDINGS:
            found = [row["embedding"] for row in body.get("data", [])]
            if found != [pytest.approx(vector_of[each.ask.text], abs=TOLERANCE)]:
                yield f"{each.job_id} has another text's vector"
            continue
        mark = "echo:" + hashlib.sha256(each.ask.text.encode()).hexdigest()[:12]
        said = "".join(choice["message"]["content"] for choice in body.get("choices", []))
        if mark not in said:
            yield f"{each.job_id} has another call's answer"
        if body.get("id") != each.job_id.replace("job_", "chatcmpl-"):
            yield f"{each.job_id} answers as {body.get('id')}"


def _charges(facts: Facts) -> Iterator[str]:
    """Every charge, computed again from what the simulator served and the price that is shown."""
    served = {(row["batch_id"], row["custom_id"]): row for row in facts.served}
    total = charged = 0
    settled = set()
    for external_id, batch in facts.batches.items():
        for line in facts.batch_lines[batch["id"]]:
            if line["status"] != "succeeded":
                continue
            name = line["custom_id"]
            job = facts.jobs.get(f"job_{line['job_id'].hex}")
            settlement = facts.settlements.get(line["job_id"])
            row = served.get((external_id, name))
            if job is None or settlement is None or row is None or line["job_id"] in settled:
                yield f"line {name} is settled twice or never, was not served, or has no job"
                continue
            settled.add(line["job_id"])
            if settlement["unpriced"] != row["unreported"]:
                yield f"line {name}: unpriced and unreported are not the same"
            if row["unreported"]:
                continue
            wanted = _amounts(row, facts.prices[job["model"]])
            found = tuple(settlement[f"{each}_nanos"] for each in ("cost", "charged", "list"))
            if found != wanted:
                yield f"line {name} came to {found} and not to {wanted}"
            total += wanted[1]
            charged += settlement["charged_nanos"]
    yield from (f"{each} is settled without a line" for each in facts.settlements.keys() - settled)
    paid = facts.transfers.get("charge", 0) + facts.transfers.get("overrun_loss", 0)
    if not total == charged == paid:
        yield f"the charges are {charged}, transferred {paid}, recomputed {total}"


def _costs(facts: Facts) -> Iterator[str]:
    """What is booked as owed to the providers is what they would bill, late and doubled work too.

    Each line is rounded for itself. Lines whose usage was not reported are not booked yet.
    """
    booked = facts.transfers.get("provider_cost", 0) + facts.transfers.get("unbilled_cost", 0)
    jobs = {job["name"].removeprefix("job_"): job for job in facts.jobs.values()}
    metered = 0
    for row in facts.served:
        if row["unreported"]:
            continue
        job = jobs.get(row["custom_id"].partition("-")[0])
        if job is None:
            yield f"the simulator served {row['custom_id']}, which is no job"
        else:
            metered += _amounts(row, facts.prices[job["model"]])[0]
    if booked != metered:
        yield f"the provider's cost is booked as {booked}, the meter says {metered}"


def _amounts(row: Row, price: Price) -> tuple[int, int, int]:
    """Our cost, the charge and the charge in the standard lane, each rounded once, half up."""
    assert not any(row[name] for name in OTHER_CLASSES), "these calls use no cache"
    batch = row["input_uncached"] * price.batch_prompt + row["output"] * price.batch_completion
    standard = row["input_uncached"] * price.prompt + row["output"] * price.completion
    return _round(batch / MARKUP), _round(batch), _round(standard)


def _round(exact: Fraction) -> int:
    return (2 * exact.numerator + exact.denominator) // (2 * exact.denominator)


def _batches(facts: Facts) -> Iterator[str]:
    """At the simulator there is one batch for each of ours, with its lines; the rest is known.

    Lines are unique in the database, so batches of exactly those lines share none.
    """
    for batch in facts.simulated_batches:
        if batch["status"] == "failed" or batch["id"] in facts.orphans:
            continue
        ours = facts.batches.get(batch["id"])
        if ours is None:
            yield f"{batch['id']} runs at the simulator and nobody knows it"
            continue
        if batch["custom_ids_sha256"] is None:
            # Cancelled before the simulator had looked into its file, so nothing of it has run.
            if batch["status"] != "cancelled" or batch["done"]:
                yield f"{batch['id']} was never looked into, and is {batch['status']}"
            continue
        lines = [line for line in facts.batch_lines[ours["id"]] if line["status"] != "withdrawn"]
        names = "".join(f"{line['custom_id']}\n" for line in lines)
        if hashlib.sha256(names.encode()).hexdigest() != batch["custom_ids_sha256"]:
            served = {row["custom_id"] for row in facts.served if row["batch_id"] == batch["id"]}
            sent = {line["custom_id"]: line["status"] for line in facts.batch_lines[ours["id"]]}
            strange = served - sent.keys()
            gone = {name: status for name, status in sent.items() if name not in served}
            yield (
                f"{batch['id']} does not hold the lines of {ours['id']}: of {len(sent)} it served "
                f"{len(served)}, strange {sorted(strange)}, not served {gone}, withdrawn and "
                f"served {[n for n in served if sent.get(n) == 'withdrawn']}"
            )
    yield from (
        f"batch {each['id']} is {each['status']}"
        for each in facts.batches.values()
        if each["status"] != "done"
    )
    yield from (
        f"orphan {each} is not booked" for each, cost in facts.orphans.items() if cost is None
    )


def _webhooks(facts: Facts, accepted: Sequence[Accepted], sink: Sink) -> Iterator[str]:
    """Every job's end was told at least once, under one id, signed for its account."""
    accounts = {each.job_id: each.ask.account for each in accepted}
    readers = {account: _Reader(account) for account in set(accounts.values())}
    seen: dict[str, str] = {}
    for received in sink.at("/hook"):
        event = json.loads(received.body)
        job_id = event["data"]["id"]
        account, job = accounts.get(job_id), facts.jobs.get(job_id)
        if account is None or job is None:
            continue  # An earlier test's.
        if received.headers["webhook-id"] != seen.setdefault(job_id, event["id"]):
            yield f"{job_id} was told under two ids"
        if event["type"] != f"job.{job['status']}":
            yield f"{job_id} was told as {event['type']}"
        if readers[account].event_id(received) != event["id"]:
            yield f"{job_id} was told as another event than the SDK reads"
    yield from (f"nobody was told of {job_id}" for job_id in accounts.keys() - seen.keys())


class _Reader:
    """A customer's receiver, by the reference library and by the official SDK."""

    def __init__(self, account: Account) -> None:
        self._webhook = Webhook(account.webhook_secret)
        self._openai = OpenAI(api_key="unused", webhook_secret=account.webhook_secret)

    def event_id(self, received: Received) -> str:
        """The event's id, once both have verified it; they raise if it does not verify."""
        self._webhook.verify(received.body, received.headers)
        event: Any = self._openai.webhooks.unwrap(received.body, received.headers)
        return str(event.id)


def _ledger(status: int, report: dict[str, Any]) -> Iterator[str]:
    """The service's own check of its books."""
    if status != 0 or report["violations"] or report["imbalance_nanos"] or report["open_holds"]:
        yield f"ledger verify exits with {status}: {report}"


def _logs(deployment: Deployment) -> Iterator[str]:
    """Every process of the Procfile writes JSON lines, and nothing that is not its to tell."""
    secrets = [PLANTED, "echo:", *deployment.secrets()]
    for path in sorted(deployment.logs.glob("*.log")):
        if path.stem == "simulator":
            continue
        log = path.read_text()
        yield from (f"{path.name} tells a secret" for secret in secrets if secret in log)
        for line in log.splitlines():
            try:
                json.loads(line)
            except ValueError:
                yield f"{path.name} has a line that is no JSON: {line[:200]}"
