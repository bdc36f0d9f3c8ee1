"""All that an auditor may know: the database, the simulator, and what the service shows."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Self

import orjson
from psycopg import Connection
from psycopg.rows import dict_row

from tests.acceptance.deployment import Deployment
from tests.acceptance.simulator import Row

AUDITORS_KEY = "sk-auditor"
"""At the simulator; what is asked with it is not the service's doing."""

_JOBS = """
    SELECT jobs.id, 'job_' || replace(jobs.id::text, '-', '') AS name, account_id, jobs.status,
           jobs.model, jobs.endpoint, jobs.failures, job_results.http_status, job_results.body
    FROM jobs LEFT JOIN job_results ON job_results.job_id = jobs.id
"""
_SETTLEMENTS = """
    SELECT settlements.id, unpriced, lane, cost_nanos, charged_nanos, list_nanos,
           holds.amount_nanos AS held_nanos
    FROM settlements JOIN holds USING (id)
"""
_BATCHES = "SELECT id, status, external_id FROM provider_batches"
_LINES = """
    SELECT job_id, batch_id, status, replace(job_id::text, '-', '') || '-' || round AS custom_id
    FROM lines ORDER BY batch_id, job_id
"""
_TRANSFERS = "SELECT kind, sum(amount_nanos)::bigint AS nanos FROM transfers GROUP BY kind"


@dataclass(frozen=True, slots=True)
class Price:
    """What one model costs its customer, in nano-USD per token, exactly."""

    batch_prompt: Fraction
    batch_completion: Fraction
    prompt: Fraction
    completion: Fraction

    @classmethod
    def shown(cls, pricing: Mapping[str, str]) -> Self:
        """Of a model's `pricing`, which is in USD per 1,000 tokens."""
        assert pricing["unit"] == "usd_per_1k_tokens"
        names = ("batch_prompt", "batch_completion", "prompt", "completion")
        return cls(*(Fraction(pricing[name]) * 10**9 / 1000 for name in names))


@dataclass(frozen=True, slots=True)
class Facts:
    """One look at everything, when all is quiet. `batch_lines` is by batch, in the file's order."""

    jobs: dict[str, Row]
    settlements: dict[Any, Row]
    batches: dict[str, Row]
    batch_lines: dict[Any, list[Row]]
    orphans: dict[str, int | None]
    transfers: dict[str, int]
    simulated_batches: list[Row]
    served: list[Row]
    prices: dict[str, Price]

    @classmethod
    def gather(cls, deployment: Deployment) -> Self:
        """Read it all."""
        with deployment.database() as connection:
            jobs = {row["name"]: row for row in _rows(connection, _JOBS)}
            batch_lines: dict[Any, list[Row]] = defaultdict(list)
            for row in _rows(connection, _LINES):
                batch_lines[row["batch_id"]].append(row)
            batches = _rows(connection, _BATCHES)
            orphans = _rows(connection, "SELECT external_id, cost_nanos FROM orphan_batches")
            settlements = _rows(connection, _SETTLEMENTS)
            transfers = _rows(connection, _TRANSFERS)
        served = deployment.simulator.lines()
        return cls(
            jobs=jobs,
            settlements={row["id"]: row for row in settlements},
            batches={row["external_id"]: row for row in batches if row["external_id"]},
            batch_lines=batch_lines,
            orphans={row["external_id"]: row["cost_nanos"] for row in orphans},
            transfers={row["kind"]: row["nanos"] for row in transfers},
            simulated_batches=deployment.simulator.batches(),
            served=[row for row in served if row["key"] != AUDITORS_KEY],
            prices=_prices(deployment, {row["model"] for row in jobs.values()}),
        )


def _rows(connection: Connection[Any], query: str) -> list[Row]:
    with connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(query.encode()).fetchall()


def _prices(deployment: Deployment, models: set[str]) -> dict[str, Price]:
    prices = {}
    with deployment.client(deployment.accounts[0].api_key) as client:
        for model in models:
            shown = client.get(f"/v1/models/{model}").raise_for_status().json()
            prices[model] = Price.shown(shown["pricing"])
    return prices


def vectors(deployment: Deployment, texts: list[str], dimensions: int) -> dict[str, list[float]]:
    """What the simulator's embedding model makes of these texts."""
    found: dict[str, list[float]] = {}
    for start in range(0, len(texts), 500):
        page = texts[start : start + 500]
        rows = deployment.simulator.embed(AUDITORS_KEY, page, dimensions)
        found.update(zip(page, rows, strict=True))
    return found


def body_of(job: Row) -> dict[str, Any]:
    """A job's stored answer."""
    body: dict[str, Any] = orjson.loads(job["body"])
    return body
