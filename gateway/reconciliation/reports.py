"""The usage reports that OpenAI and Anthropic keep for an organization's administrators.

Read with an administrator's key, by UTC day, model and lane; chats only, for embeddings are told
without their lane. A report counts all that the organization uses, or one project or workspace of
it. Sources: https://developers.openai.com/api/reference (organization/usage/completions) and
https://platform.claude.com/docs/en/api/admin/usage_report/retrieve_messages
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta

import httpx

from gateway.catalogue.catalogue import DATED_NAME, Catalogue
from gateway.net.http import HttpClients
from gateway.providers.fields import (
    JsonObject,
    decode_object,
    items,
    mapping,
    moment,
    text,
    total,
)
from gateway.reconciliation.counters import TIMEOUT_SECONDS, CounterError, Where
from gateway.reconciliation.verdicts import NO_TOKENS, Tokens, Told
from models.reconciliation import TotalsSource

PAGES_AT_MOST = 1_000
DAYS_A_PAGE = 31
LAG = timedelta(hours=2)
"""Both show a call within minutes, as a rule; what is younger is believed without them."""

Parameters = list[tuple[str, str | int | float | bool | None]]
"""Of a query, as httpx types them."""


@dataclass(frozen=True, slots=True)
class Report:
    """One provider's report: where it is, what is asked of it, and how a row of it is read.

    `day_of` reads the day of a bucket, `row_of` the model, the lane and the counts of a row; both
    give None for what they do not understand.
    """

    provider: str
    url: str
    headers: Mapping[str, str] = field(repr=False)
    span: Callable[[datetime, datetime], Parameters]
    parameters: Parameters
    day_of: Callable[[JsonObject], date | None]
    row_of: Callable[[JsonObject], tuple[str, str, Told] | None]


def openai(base_url: str, admin_key: str, project_id: str | None) -> Report:
    """OpenAI's, of one project if it is named."""

    def span(start: datetime, end: datetime) -> Parameters:
        return [
            ("start_time", str(int(start.timestamp()))),
            ("end_time", str(int(end.timestamp()))),
        ]

    def day_of(bucket: JsonObject) -> date | None:
        began = total(bucket.get("start_time"))
        return None if began is None else datetime.fromtimestamp(began, UTC).date()

    def row_of(row: JsonObject) -> tuple[str, str, Told] | None:
        model, is_batch = text(row.get("model")), row.get("batch")
        names = ("input_tokens", "input_cached_tokens", "output_tokens", "num_model_requests")
        counts = _counts(row, names)
        if model is None or not isinstance(is_batch, bool) or counts is None:
            return None
        read, cached, written, requests = counts
        tokens = Tokens(max(0, read - cached), cached, written)
        return model, "batch" if is_batch else "standard", Told(requests, tokens)

    return Report(
        provider="openai",
        url=f"{base_url}/organization/usage/completions",
        headers={"Authorization": f"Bearer {admin_key}"},
        span=span,
        parameters=[
            ("group_by", "model"),
            ("group_by", "batch"),
            *([("project_ids", project_id)] if project_id else []),
        ],
        day_of=day_of,
        row_of=row_of,
    )


def anthropic(base_url: str, admin_key: str, workspace_id: str | None) -> Report:
    """Anthropic's, of one workspace if it is named. It counts tokens, but no calls."""

    def span(start: datetime, end: datetime) -> Parameters:
        return [("starting_at", _rfc3339(start)), ("ending_at", _rfc3339(end))]

    def day_of(bucket: JsonObject) -> date | None:
        began = moment(bucket.get("starting_at"))
        return None if began is None else began.astimezone(UTC).date()

    def row_of(row: JsonObject) -> tuple[str, str, Told] | None:
        model, tier = text(row.get("model")), text(row.get("service_tier"))
        counts = _counts(row, ("uncached_input_tokens", "cache_read_input_tokens", "output_tokens"))
        created = _counts(
            mapping(row.get("cache_creation")),
            ("ephemeral_5m_input_tokens", "ephemeral_1h_input_tokens"),
        )
        if model is None or tier is None or counts is None or created is None:
            return None
        uncached, cached, written = counts
        tokens = Tokens(uncached + sum(created), cached, written)
        return model, "batch" if tier == "batch" else "standard", Told(None, tokens)

    return Report(
        provider="anthropic",
        url=f"{base_url}/v1/organizations/usage_report/messages",
        headers={"X-Api-Key": admin_key, "anthropic-version": "2023-06-01"},
        span=span,
        parameters=[
            ("group_by[]", "model"),
            ("group_by[]", "service_tier"),
            *([("workspace_ids[]", workspace_id)] if workspace_id else []),
        ],
        day_of=day_of,
        row_of=row_of,
    )


@dataclass(frozen=True, slots=True)
class Reports:
    """Reads one report; see `Counter`. Models are told under the names of their dated snapshots,
    whatever they were called by, so they are compared without their dates.
    """

    http: HttpClients
    catalogue: Catalogue
    report: Report
    source = TotalsSource.REPORTS
    lag = LAG

    @property
    def name(self) -> str:
        """What an operator knows it by."""
        return f"{self.report.provider} reports"

    @property
    def providers(self) -> Collection[str]:
        """The one whose report it is."""
        return {self.report.provider}

    def counts(self, model: str) -> bool:
        """Whether it is a chat model, or one that is not known here."""
        known = self.catalogue.resolve(model)
        return known is None or known.kind == "chat"

    def name_of(self, model: str) -> str:
        """The model without the date of its snapshot."""
        dated = DATED_NAME.fullmatch(model)
        return dated["stem"] if dated else model

    def read(self, first: date, days: int) -> dict[date, dict[Where, Told]]:
        """What was counted in so many UTC days from the first on. Raises CounterError."""
        counted: dict[date, dict[Where, Told]] = defaultdict(dict)
        for bucket in self._buckets(first, days):
            day = self.report.day_of(bucket)
            if day is None:
                raise CounterError("a bucket has no day")
            for row in map(mapping, items(bucket.get("results"))):
                found = self.report.row_of(row)
                if found is None:
                    raise CounterError("a row lacks a field")
                model, lane, told = found
                where = (self.report.provider, self.name_of(model), lane)
                counted[day][where] = _sum(counted[day].get(where), told)
        return counted

    def _buckets(self, first: date, days: int) -> Iterator[JsonObject]:
        start = datetime.combine(first, time.min, UTC)
        asked = [
            *self.report.span(start, start + timedelta(days=days)),
            ("bucket_width", "1d"),
            ("limit", str(min(days, DAYS_A_PAGE))),
            *self.report.parameters,
        ]
        page: str | None = None
        for _ in range(PAGES_AT_MOST):
            answer = self._ask([*asked, *([("page", page)] if page else [])])
            yield from map(mapping, items(answer.get("data")))
            page = text(answer.get("next_page"))
            if answer.get("has_more") is not True or page is None:
                return
        raise CounterError("the report has no end")

    def _ask(self, parameters: Parameters) -> JsonObject:
        try:
            response = self.http.request(
                "GET",
                f"{self.report.url}?{httpx.QueryParams(parameters)}",
                headers=self.report.headers,
                timeout_seconds=TIMEOUT_SECONDS,
                read_timeout_seconds=TIMEOUT_SECONDS,
            )
            return decode_object(response.raise_for_status().content)
        except (httpx.HTTPError, ValueError) as error:
            # Without the cause, which names what was asked with which key.
            raise CounterError(type(error).__name__) from None


def _counts(row: JsonObject, names: tuple[str, ...]) -> list[int] | None:
    """The counts of these names; None if one is missing or is no count."""
    found = [count for name in names if (count := total(row.get(name))) is not None]
    return found if len(found) == len(names) else None


def _sum(before: Told | None, told: Told) -> Told:
    """Both together: snapshots of one model, tiers of one lane."""
    if before is None:
        return told
    requests = None
    if before.requests is not None and told.requests is not None:
        requests = before.requests + told.requests
    return Told(requests, (before.tokens or NO_TOKENS).plus(told.tokens or NO_TOKENS))


def _rfc3339(at: datetime) -> str:
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")
