"""/metrics: who may read it, and that it tells what has happened."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr
from sqlalchemy import text

from gateway.analytics import gauges
from models import ids
from tests.contract.simulator_process import SimulatorProcess
from tests.integration.plans import scans
from tests.integration.web_world import CHAT, CHAT_BODY, Web, error_of, make_web
from workers.bell import Actor

TOKEN = "t" * 20
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


@pytest.fixture
def measured(database_url: str, redis_url: str, provider: SimulatorProcess) -> Iterator[Web]:
    """A web process with a metrics token and counters that nobody has used."""
    with make_web(database_url, redis_url, provider, metrics_token=SecretStr(TOKEN)) as made:
        yield made


def scrape(web: Web, token: str = TOKEN) -> Samples:
    response = web.client(None).get("/metrics", headers={"Authorization": f"Bearer {token}"})
    assert response.status_code == 200, response.text
    assert response.mimetype == "text/plain"
    families = text_string_to_metric_families(response.text)
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }


def of(samples: Samples, name: str, **labels: str) -> float:
    """The sum of a metric's samples that have these labels."""
    found = [
        value
        for (sample, given), value in samples.items()
        if sample == f"offpeak_{name}" and labels.items() <= dict(given).items()
    ]
    assert found, (name, labels, sorted({sample for sample, _ in samples}))
    return sum(found)


def test_without_a_token_set_there_are_no_metrics(web: Web) -> None:
    assert error_of(web.client(None).get("/metrics"))["code"] == 403


def test_a_wrong_token_reads_nothing(measured: Web) -> None:
    client = measured.client(None)
    for header in ("", "Bearer ", "Bearer wrong", f"Basic {TOKEN}"):
        answer = client.get("/metrics", headers={"Authorization": header})
        assert error_of(answer)["code"] == 401
    assert error_of(measured.client(measured.customer()).get("/metrics"))["code"] == 401


@pytest.mark.promise("M33")
def test_requests_calls_tokens_and_money_are_counted(measured: Web) -> None:
    client = measured.client(measured.customer())
    answer = client.post(CHAT, json=CHAT_BODY)
    assert answer.status_code == 200
    client.get("/v1/nowhere")
    measured.settled()
    samples = scrape(measured)
    assert of(samples, "requests_total", route=CHAT, method="POST", status="200") == 1
    assert of(samples, "requests_total", route="none", status="404") == 1
    assert of(samples, "request_seconds_count", route=CHAT) == 1
    assert of(samples, "calls_total", provider="openai", lane="standard", status="200") == 1
    usage = answer.get_json()["usage"]
    tokens = dict.fromkeys(("output", "input_uncached"), 0.0)
    for name in tokens:
        tokens[name] = of(samples, "tokens_total", **{"class": name})
    assert tokens == {
        "output": usage["completion_tokens"],
        "input_uncached": usage["prompt_tokens"],
    }
    (charged,) = measured.column("SELECT charged_nanos FROM settlements")
    assert of(samples, "nanos_total", kind="charged") == charged
    assert of(samples, "balance_nanos", kind="charged") == charged
    assert of(samples, "writer_group_size_count", kind="begin") == 1
    assert of(samples, "writer_group_size_count", kind="settle") == 1
    assert of(samples, "request_log_dropped_total") == 0
    assert of(samples, "limits_shared") == 1
    assert of(samples, "breaker_state", provider="openai") == 0
    assert of(samples, "database_up") == 1


def test_what_was_used_today_is_told_of_calls_and_of_jobs(measured: Web) -> None:
    answer = measured.client(measured.customer()).post(CHAT, json=CHAT_BODY)
    measured.settled()
    sums = (
        "calls, unpriced_calls, input_uncached, cache_read, cache_write, output, reasoning,"
        " held_nanos, paid_nanos, list_nanos"
    )
    for day, lane, surface in (("day", "batch", "async"), ("day - 1", "standard", "sync")):
        with measured.engine.begin() as connection:
            connection.execute(
                text(
                    f"INSERT INTO daily_usage (account_id, day, key_id, provider, model, lane,"
                    f" surface, {sums}) SELECT account_id, {day}, key_id, provider, model,"
                    f" '{lane}', '{surface}', {sums} FROM daily_usage WHERE surface = 'sync'"
                )
            )
    samples = scrape(measured)
    (charged,) = measured.column("SELECT charged_nanos FROM settlements")
    output = answer.get_json()["usage"]["completion_tokens"]
    for lane, surface in (("standard", "sync"), ("batch", "async")):
        labels = {"provider": "openai", "lane": lane, "surface": surface}
        assert of(samples, "today_calls", **labels) == 1
        assert of(samples, "today_tokens", **labels, **{"class": "output"}) == output
        assert of(samples, "today_nanos", **labels, kind="charged") == charged


def test_a_provider_that_fails_shows_in_its_errors(
    measured: Web, provider: SimulatorProcess
) -> None:
    provider.turn(server_error=1, server_error_status=500)
    measured.client(measured.customer()).post(CHAT, json=CHAT_BODY)
    samples = scrape(measured)
    assert of(samples, "provider_errors_total", provider="openai") >= 1


def test_queues_holds_and_ticks_are_read_from_the_database(measured: Web) -> None:
    customer = measured.customer()
    for _ in range(3):
        measured.submit(customer)
    with measured.engine.begin() as connection:
        connection.execute(text("UPDATE jobs SET created_at = created_at - interval '1 hour'"))
        connection.execute(
            text("INSERT INTO ticks (task, slot, created_at) VALUES ('cut_lanes', 1, now())")
        )
        connection.execute(
            text(
                "INSERT INTO provider_batches (id, lane_id, status, request_count, body_bytes,"
                " due_at) SELECT :id, id, 'formed', 1, 1, now() - interval '90 s' FROM lanes"
            ),
            {"id": ids.new()},
        )
    samples = scrape(measured)
    assert of(samples, "jobs_waiting", provider="openai", endpoint=CHAT) == 3
    assert 3600 <= of(samples, "jobs_waiting_age_seconds", provider="openai") < 3700
    assert of(samples, "holds_open") == 3
    assert of(samples, "balance_nanos", kind="held") > 0
    assert of(samples, "provider_batches", status="formed") == 1
    assert of(samples, "provider_batches_overdue_seconds") >= 90
    assert of(samples, "tick_age_seconds", task="cut_lanes") < 60
    assert of(samples, "webhook_lag_seconds") == 0
    assert of(samples, "settlements_unpriced") == 0


LARGE = {
    "jobs",
    "holds",
    "ticks",
    "settlements",
    "deliveries",
    "provider_batches",
    "transfers",
    "reconciliations",
    "daily_usage",
}


@pytest.mark.parametrize(
    "name", ["WAITING", "BATCHES", "TICKS", "COUNT", "WEBHOOK_LAG", "UNEXPLAINED", "TODAY"]
)
def test_what_grows_is_read_by_an_index(web: Web, name: str) -> None:
    query = getattr(gauges, name)
    parameters = {"tasks": [actor.value for actor in Actor]} if name == "TICKS" else {}
    large = [scan for scan in scans(web.engine, query.text, parameters) if scan.table in LARGE]
    assert large
    # A whole index that is filtered afterwards is no better than the table.
    assert [scan for scan in large if scan.index is None or scan.passes_over] == []


def test_the_processes_of_one_machine_count_together(tmp_path: Path) -> None:
    code = (
        "from gateway.providers.breaker import Breakers\n"
        "from web.metrics import Metrics\n"
        "m = Metrics(Breakers())\n"
        "m.observe_response('/v1/models', 'GET', 200, 0.2)\n"
        "print(m.text().decode())\n"
    )
    environ = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    for expected in (1, 2):
        done = subprocess.run(
            [sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True
        )
        line = 'offpeak_requests_total{method="GET",route="/v1/models",status="200"}'
        assert f"{line} {float(expected)}" in done.stdout
