"""What the account has used and paid, by UTC days."""

from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Any, Literal

import orjson
from flask import Blueprint, Response, request

from gateway.analytics import usage
from gateway.analytics.usage import (
    COLUMNS,
    MOST_ROWS,
    Dimension,
    Row,
    Sums,
    TooManyRows,
    UsageFilter,
)
from models import ids
from models.ids import Prefix
from web.auth import caller
from web.documented import Answer, Parameter, documented
from web.errors import ApiError
from web.filters import key_id, several, storable
from web.money_objects import AnyKeyId, CostsReport, UsageReport, UtcDay
from web.objects import Storable
from web.serialisers import usd
from web.state import state

blueprint = Blueprint("usage", __name__)

USUAL_DAYS, MOST_DAYS = 30, 366
PARAMETERS = (
    Parameter("start", UtcDay, f"The first UTC day; {USUAL_DAYS} days before `end` unless said."),
    Parameter("end", UtcDay, f"The last UTC day, today unless said; {MOST_DAYS} days at most."),
    Parameter(
        "group_by",
        list[Literal["day", "model", "provider", "key", "lane", "surface"]],
        "What sums are told apart by, separated by commas; `day` unless said, nothing if empty.",
        style={"style": "form", "explode": False},
    ),
    Parameter("key_id", AnyKeyId, "Only what was called with this key."),
    Parameter("model", Storable, "Only this model, by its provider's name for it."),
)


@blueprint.get("/v1/usage")
@documented("Billing", {200: Answer("Calls and tokens.", UsageReport)}, parameters=PARAMETERS)
def get_usage() -> Response:
    """Calls and tokens by day, model, provider, key, lane and surface.

    Days are UTC's, and those on which calls were settled. The numbers are exact and up to the
    moment.
    """
    return _report("usage", _used_json)


@blueprint.get("/v1/costs")
@documented("Billing", {200: Answer("Costs.", CostsReport)}, parameters=PARAMETERS)
def get_costs() -> Response:
    """What was paid, and saved, by day, model, provider, key, lane and surface.

    Days are UTC's, and those on which calls were settled. The numbers are exact and up to the
    moment: the charges of the statement, summed.
    """
    return _report("costs", _paid_json)


def _report(name: str, shown: Callable[[Sums], dict[str, Any]]) -> Response:
    end = _day("end") or datetime.now(UTC).date()
    start = _day("start") or end - timedelta(days=USUAL_DAYS - 1)
    if not start <= end <= start + timedelta(days=MOST_DAYS - 1):
        message = f"'start' must lie before 'end', and {MOST_DAYS} days are the most."
        raise ApiError(400, message, param="start")
    by = tuple(map(Dimension, several("group_by", tuple(Dimension), usual=Dimension.DAY)))
    wanted = UsageFilter(start, end, key_id(), storable("model"))
    try:
        rows = state().readers.run(usage.read, caller().account_id, wanted, by)
    except TooManyRows as error:
        message = f"That is more than {MOST_ROWS} sums: ask for fewer days or groups."
        raise ApiError(400, message, param="group_by") from error
    body = {
        "object": name,
        "start": start,
        "end": end,
        "group_by": by,
        "data": [{**_bucket_json(row), **shown(row.sums)} for row in rows],
        "total": shown(usage.total(rows)),
    }
    return Response(orjson.dumps(body), mimetype="application/json")


def _day(name: str) -> date | None:
    given = request.args.get(name)
    if given is None:
        return None
    try:
        return datetime.strptime(given, "%Y-%m-%d").date()
    except ValueError as error:
        raise ApiError(400, f"'{name}' must be a day such as 2026-11-22.", param=name) from error


def _bucket_json(row: Row) -> Mapping[str, Any]:
    shown: dict[str, Any] = {COLUMNS[each]: row.values.get(each) for each in Dimension}
    if shown["key_id"] is not None:
        prefix = Prefix.WIDGET_KEY if row.is_widget_key else Prefix.KEY
        shown["key_id"] = ids.show(prefix, shown["key_id"])
    return shown


def _used_json(sums: Sums) -> dict[str, Any]:
    return {
        "calls": sums.calls,
        "unpriced_calls": sums.unpriced_calls,
        "input_tokens": sums.input_total,
        "cached_input_tokens": sums.cache_read,
        "cache_write_tokens": sums.cache_write,
        "output_tokens": sums.output,
        "reasoning_tokens": sums.reasoning,
    }


def _paid_json(sums: Sums) -> dict[str, Any]:
    return {
        "calls": sums.calls,
        "unpriced_calls": sums.unpriced_calls,
        "paid_usd": usd(sums.paid_nanos),
        "list_usd": usd(sums.list_nanos),
        "savings_usd": usd(sums.savings_nanos),
    }
