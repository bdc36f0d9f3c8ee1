"""The providers' usage reports: asked by day, model and lane, and nothing half understood."""

from collections.abc import Callable
from datetime import date
from typing import Any

import httpx
import pytest

from gateway.catalogue.catalogue import load
from gateway.net.http import HttpClients
from gateway.reconciliation import reports
from gateway.reconciliation.counters import CounterError
from gateway.reconciliation.reports import Report, Reports
from gateway.reconciliation.verdicts import Tokens, Told

Json = dict[str, Any]
FIRST = date(2026, 11, 21)
KEY = "sk-admin-planted"
OPENAI = reports.openai("https://api.openai.test/v1", KEY, "proj_1")
ANTHROPIC = reports.anthropic("https://api.anthropic.test", KEY, "wrkspc_1")
CATALOGUE = load()
OPENAI_ROW: Json = {
    "object": "organization.usage.completions.result",
    "input_tokens": 1000,
    "input_cached_tokens": 800,
    "output_tokens": 500,
    "num_model_requests": 5,
    "model": "gpt-4o-mini-2024-07-18",
    "batch": True,
}
ANTHROPIC_ROW: Json = {
    "uncached_input_tokens": 10,
    "cache_read_input_tokens": 20,
    "cache_creation": {"ephemeral_5m_input_tokens": 3, "ephemeral_1h_input_tokens": 4},
    "output_tokens": 50,
    "model": "claude-haiku-4-5-20251001",
    "service_tier": "batch",
}


class Provider:
    """Answers with these pages, one after the other, and remembers what it was asked."""

    def __init__(self, *pages: Json | httpx.Response) -> None:
        self._pages = list(pages)
        self.asked: list[httpx.Request] = []

    def answer(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        page = self._pages.pop(0)
        return page if isinstance(page, httpx.Response) else httpx.Response(200, json=page)

    def read(self, report: Report, days: int = 2) -> Any:
        http = HttpClients(transport=httpx.MockTransport(self.answer))
        try:
            return Reports(http, CATALOGUE, report).read(FIRST, days)
        finally:
            http.close()


def openai_bucket(*rows: Json, start: int = 1795219200) -> Json:
    return {"object": "bucket", "start_time": start, "end_time": start + 86400, "results": [*rows]}


def anthropic_bucket(*rows: Json) -> Json:
    return {"starting_at": "2026-11-21T00:00:00Z", "results": [*rows]}


def page(*buckets: Json, after: str | None = None) -> Json:
    return {"data": [*buckets], "has_more": after is not None, "next_page": after}


def test_openais_report_is_asked_by_model_and_lane_for_one_project() -> None:
    provider = Provider(page())
    assert provider.read(OPENAI) == {}
    (request,) = provider.asked
    assert request.url.path == "/v1/organization/usage/completions"
    assert request.headers["Authorization"] == f"Bearer {KEY}"
    assert request.url.params.multi_items() == [
        ("start_time", "1795219200"),
        ("end_time", "1795392000"),
        ("bucket_width", "1d"),
        ("limit", "2"),
        ("group_by", "model"),
        ("group_by", "batch"),
        ("project_ids", "proj_1"),
    ]


def test_anthropics_report_is_asked_by_model_and_tier_for_one_workspace() -> None:
    provider = Provider(page())
    assert provider.read(ANTHROPIC) == {}
    (request,) = provider.asked
    assert request.url.path == "/v1/organizations/usage_report/messages"
    assert (request.headers["X-Api-Key"], request.headers["anthropic-version"]) == (
        KEY,
        "2023-06-01",
    )
    assert request.url.params.multi_items() == [
        ("starting_at", "2026-11-21T00:00:00Z"),
        ("ending_at", "2026-11-23T00:00:00Z"),
        ("bucket_width", "1d"),
        ("limit", "2"),
        ("group_by[]", "model"),
        ("group_by[]", "service_tier"),
        ("workspace_ids[]", "wrkspc_1"),
    ]


def test_rows_are_summed_by_day_model_and_lane_over_all_pages() -> None:
    undated = {**OPENAI_ROW, "model": "gpt-4o-mini"}
    at_once = {**OPENAI_ROW, "batch": False}
    provider = Provider(
        page(openai_bucket(OPENAI_ROW, at_once), after="page_2"),
        page(openai_bucket(undated), openai_bucket(undated, start=1795305600)),
    )
    counted = provider.read(OPENAI)
    one = Told(5, Tokens(200, 800, 500))
    assert counted == {
        date(2026, 11, 21): {
            ("openai", "gpt-4o-mini", "batch"): Told(10, Tokens(400, 1600, 1000)),
            ("openai", "gpt-4o-mini", "standard"): one,
        },
        date(2026, 11, 22): {("openai", "gpt-4o-mini", "batch"): one},
    }
    assert provider.asked[1].url.params["page"] == "page_2"


def test_anthropics_tiers_are_lanes_and_what_was_written_to_the_cache_is_uncached() -> None:
    priority = {**ANTHROPIC_ROW, "service_tier": "priority"}
    standard = {**ANTHROPIC_ROW, "service_tier": "standard"}
    counted = Provider(page(anthropic_bucket(ANTHROPIC_ROW, priority, standard))).read(ANTHROPIC)
    assert counted == {
        FIRST: {
            ("anthropic", "claude-haiku-4-5", "batch"): Told(None, Tokens(17, 20, 50)),
            ("anthropic", "claude-haiku-4-5", "standard"): Told(None, Tokens(34, 40, 100)),
        }
    }


def test_embeddings_are_not_counted() -> None:
    counter = Reports(HttpClients(), CATALOGUE, OPENAI)
    assert counter.counts("gpt-4o-mini")
    assert counter.counts("something-new")
    assert not counter.counts("text-embedding-3-small")


def _refuse(_request: httpx.Request) -> httpx.Response:
    raise httpx.ConnectError(f"no way with {KEY}")


@pytest.mark.parametrize(
    ("report", "answer"),
    [
        (OPENAI, page(openai_bucket({**OPENAI_ROW, "batch": None}))),
        (OPENAI, page(openai_bucket({**OPENAI_ROW, "model": None}))),
        (OPENAI, page(openai_bucket({**OPENAI_ROW, "output_tokens": "5"}))),
        (OPENAI, page({"results": [OPENAI_ROW]})),
        (ANTHROPIC, page(anthropic_bucket({**ANTHROPIC_ROW, "service_tier": None}))),
        (ANTHROPIC, page(anthropic_bucket({**ANTHROPIC_ROW, "cache_creation": None}))),
        (ANTHROPIC, page({"starting_at": "yesterday", "results": []})),
        (OPENAI, httpx.Response(401, json={"error": {"message": f"{KEY} is no key"}})),
        (OPENAI, httpx.Response(200, content=b"[]")),
    ],
)
def test_what_cannot_be_understood_is_an_error_without_the_key(
    report: Report, answer: Json | httpx.Response
) -> None:
    with pytest.raises(CounterError) as raised:
        Provider(answer).read(report)
    assert KEY not in f"{raised.value!r} {raised.value.__cause__!r} {report!r}"


@pytest.mark.parametrize("fail", [_refuse])
def test_a_provider_that_is_away_is_an_error_without_the_key(
    fail: Callable[[httpx.Request], httpx.Response],
) -> None:
    http = HttpClients(transport=httpx.MockTransport(fail))
    with pytest.raises(CounterError) as raised:
        Reports(http, CATALOGUE, OPENAI).read(FIRST, 1)
    assert KEY not in repr(raised.value)
    http.close()
