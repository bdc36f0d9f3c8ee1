"""`reconcile run` and `reconcile report`: both lanes, against what the simulator metered."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, time
from pathlib import Path
from typing import Any

import httpx
import pytest
from flask.testing import FlaskCliRunner
from pydantic import SecretStr
from sqlalchemy import Row, text

from gateway.billing.pricing import PriceBook
from gateway.lanes import grouping, ingestion, polling, submission
from gateway.lanes.leases import LeaseKeeper
from gateway.lanes.works import Works
from gateway.net.http import HttpClients
from gateway.reconciliation import reports
from gateway.reconciliation.comparing import Outcome, Providers
from gateway.reconciliation.reports import Reports
from gateway.reconciliation.run import reconcile
from models.session import transaction
from tests.contract.simulator_process import SimulatorProcess, eventually
from tests.integration.lane_world import PROMPT_POLICY
from tests.integration.web_world import CHAT, CHAT_BODY, Customer, Web, make_web

CLAUDE = "claude-haiku-4-5"


@pytest.fixture
def metered(database_url: str, redis_url: str, provider: SimulatorProcess) -> Iterator[Web]:
    """A web process that knows where the simulator's meter is."""
    url = f"{provider.url}/_sim/meter"
    with make_web(
        database_url,
        redis_url,
        provider,
        simulator_meter_url=url,
        reconcile_tolerance_usd=0,
        metrics_token=SecretStr("t" * 20),
    ) as web:
        yield web


class Operator:
    """Who runs the commands."""

    def __init__(self, web: Web) -> None:
        self.runner: FlaskCliRunner = web.app.test_cli_runner()

    def says(self, *command: str, exit_code: int = 0) -> Any:
        result = self.runner.invoke(args=[*command, "--json"])
        assert result.exit_code == exit_code, result.output
        return json.loads(result.stdout.splitlines()[-1])

    def report(self, exit_code: int = 0) -> dict[tuple[str, str, str], dict[str, Any]]:
        """The totals of the last day by source, provider and model."""
        found = self.says("reconcile", "report", exit_code=exit_code)
        newest_last = reversed(found["totals"])
        return {(row["source"], row["provider"], row["model"]): row for row in newest_last}


@pytest.fixture
def operator(metered: Web) -> Operator:
    return Operator(metered)


def call(web: Web, customer: Customer, **fields: Any) -> None:
    answer = web.client(customer).post(CHAT, json={**CHAT_BODY, **fields})
    assert answer.status_code == 200, answer.text


def run_batches(web: Web, folder: Path) -> None:
    """The worker's steps, until every batch is done."""
    house = web.state.house
    works = Works(
        house.engine,
        house.dialects,
        house.lane_credentials(),
        PROMPT_POLICY,
        LeaseKeeper(house.engine),
        house.catalogue.tier_prices,
        folder,
    )
    with transaction(house.engine) as session:
        lane_ids = grouping.lane_ids(session)
    for lane_id in lane_ids:
        for batch_id in grouping.cut_lane(works, lane_id):
            submission.submit(works, batch_id)
    prices = PriceBook()

    def are_done() -> bool:
        for batch_id in polling.poll_due(works):
            ingestion.ingest(works, prices, batch_id)
        return not web.column("SELECT 1 FROM provider_batches WHERE status <> 'done'")

    eventually(are_done)


def off(row: dict[str, Any]) -> tuple[int, int, int]:
    return row["unexplained_nanos"], row["excess_nanos"], row["unexplained_requests"]


def test_every_call_of_both_lanes_is_explained(
    metered: Web, operator: Operator, tmp_path: Path
) -> None:
    customer = metered.customer()
    call(metered, customer)
    call(metered, customer, model=CLAUDE)
    for model in ("gpt-4o-mini", CLAUDE):
        metered.submit(customer, model=model)
        metered.submit(customer, model=model)
    metered.settled()
    run_batches(metered, tmp_path)

    told = operator.says("reconcile", "run")
    # In a day's first hour a call may have been counted on the day before, which is compared too.
    assert told.pop("compared") in {6, 8}
    assert told == {"priced": 0, "alerts": [], "not_asked": []}
    report = operator.report()
    assert {where: row["provider_requests"] for where, row in report.items()} == {
        ("batches", "openai", "gpt-4o-mini"): 2,
        ("batches", "anthropic", CLAUDE): 2,
        ("meter", "openai", "gpt-4o-mini"): 3,
        ("meter", "anthropic", CLAUDE): 3,
    }
    assert {off(row) for row in report.values()} == {(0, 0, 0)}
    (cost,) = metered.column("SELECT sum(cost_nanos)::bigint FROM settlements")
    assert sum(row["provider_nanos"] for where, row in report.items() if where[0] == "meter") in {
        # What was settled in a day's first hour may be of the day before, and is priced as a sum.
        *range(cost - 2, cost + 3)
    }


def test_a_call_that_nobody_was_charged_for_is_unexplained(
    metered: Web, operator: Operator, provider: SimulatorProcess
) -> None:
    call(metered, metered.customer())
    metered.settled()
    with metered.engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM settlements")
    told = operator.says("reconcile", "run")
    (alert,) = told["alerts"]
    assert alert.endswith("openai/gpt-4o-mini (meter)")
    row = operator.report(exit_code=1)["meter", "openai", "gpt-4o-mini"]
    (counted,) = provider.meter()
    assert (row["provider_requests"], row["provider_input_tokens"]) == (
        1,
        counted["input_uncached"],
    )
    assert row["unexplained_nanos"] == row["provider_nanos"] > 0
    answer = metered.client(None).get("/metrics", headers={"Authorization": f"Bearer {'t' * 20}"})
    gauge = 'offpeak_unexplained_nanos{provider="openai",source="meter"}'
    assert f"{gauge} {float(row['unexplained_nanos'])}" in answer.text
    shown = operator.runner.invoke(args=["reconcile", "report"])
    assert "unexplained: " in shown.stdout
    assert "openai/gpt-4o-mini" in shown.stdout


def test_a_call_without_usage_is_explained_by_what_lies_in_suspense(
    metered: Web, operator: Operator, provider: SimulatorProcess
) -> None:
    provider.turn(missing_usage=1)
    call(metered, metered.customer())
    metered.settled()
    assert metered.column("SELECT unpriced FROM settlements") == [True]
    assert operator.says("reconcile", "run")["alerts"] == []
    row = operator.report()["meter", "openai", "gpt-4o-mini"]
    assert row["explained_nanos"] == row["provider_nanos"] > 0


def test_what_others_used_at_the_same_meter_is_theirs(
    metered: Web, operator: Operator, provider: SimulatorProcess
) -> None:
    web = metered
    body = {"model": "gpt-4o-mini", "messages": CHAT_BODY["messages"]}
    answer = web.state.house.http.request(
        "POST",
        f"{provider.openai_url}/chat/completions",
        headers={"Authorization": "Bearer sk-other", "Content-Type": "application/json"},
        content=json.dumps(body).encode(),
        timeout_seconds=10,
    )
    assert answer.is_success
    assert operator.says("reconcile", "run")["compared"] == 0
    assert operator.report() == {}


def test_a_meter_that_cannot_be_read_is_named_and_fails_the_run(
    database_url: str, redis_url: str, provider: SimulatorProcess
) -> None:
    url = f"{provider.url}/_sim/nowhere"
    with make_web(database_url, redis_url, provider, simulator_meter_url=url) as web:
        told = Operator(web).says("reconcile", "run", exit_code=1)
    assert told["not_asked"] == ["meter"]


class Accounting:
    """The administrators' side of both providers: reports of what the settlements say, and more."""

    def __init__(self, web: Web) -> None:
        self._web = web
        self.surplus = 0

    def answer(self, request: httpx.Request) -> httpx.Response:
        with self._web.engine.connect() as connection:
            settled = connection.execute(
                text(
                    "SELECT provider, lane, count(*) AS calls, sum(input_uncached) AS read, "
                    "sum(output) AS written FROM settlements GROUP BY provider, lane"
                )
            ).all()
        is_openai = request.url.path == "/v1/organization/usage/completions"
        start = datetime.combine(datetime.now(UTC).date(), time.min, UTC)
        rows = [
            self._openai(row) if is_openai else self._anthropic(row)
            for row in settled
            if (row.provider == "openai") is is_openai
        ]
        bucket = {
            "start_time": int(start.timestamp()),
            "starting_at": start.isoformat(),
            "results": rows,
        }
        return httpx.Response(200, json={"data": [bucket], "has_more": False, "next_page": None})

    def _openai(self, row: Row[Any]) -> dict[str, Any]:
        return {
            "model": "gpt-4o-mini-2024-07-18",
            "batch": row.lane == "batch",
            "input_tokens": row.read,
            "input_cached_tokens": 0,
            "output_tokens": row.written + self.surplus,
            "num_model_requests": row.calls,
        }

    def _anthropic(self, row: Row[Any]) -> dict[str, Any]:
        return {
            "model": f"{CLAUDE}-20251001",
            "service_tier": row.lane,
            "uncached_input_tokens": row.read,
            "cache_read_input_tokens": 0,
            "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0},
            "output_tokens": row.written,
        }


def test_the_providers_reports_are_compared_by_model_and_lane(
    web: Web, customer: Customer, tmp_path: Path
) -> None:
    call(web, customer)
    call(web, customer, model=CLAUDE)
    web.submit(customer)
    web.submit(customer, model=CLAUDE)
    web.settled()
    run_batches(web, tmp_path)
    accounting = Accounting(web)
    http = HttpClients(transport=httpx.MockTransport(accounting.answer))
    house = web.state.house
    providers = Providers(
        dialects={},
        credentials={},
        catalogue=house.catalogue,
        note_strays=polling.note_strays,
        counters=[
            Reports(http, house.catalogue, reports.openai("http://openai.test/v1", "k", None)),
            Reports(http, house.catalogue, reports.anthropic("http://anthropic.test", "k", None)),
        ],
    )

    def run() -> Outcome:
        return reconcile(house.engine, PriceBook(), providers, tolerance_nanos=0)

    first = run()
    assert first.compared in {4, 6}, "the day before too, in a day's first hour"
    assert first.alerts == []
    # More than what was settled lately, which a report need not show yet.
    accounting.surplus = 1_000_000
    (alert,) = run().alerts
    assert alert.endswith("openai/gpt-4o-mini (reports)")
    http.close()


def test_an_administrators_key_is_all_that_the_reports_need(
    database_url: str, redis_url: str, provider: SimulatorProcess
) -> None:
    key = SecretStr("sk-admin-planted")
    with make_web(
        database_url, redis_url, provider, openai_admin_key=key, anthropic_admin_key=key
    ) as web:
        # The simulator has no administrators.
        told = Operator(web).says("reconcile", "run", exit_code=1)
    assert told["not_asked"] == ["openai reports", "anthropic reports"]
