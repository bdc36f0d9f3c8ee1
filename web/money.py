"""The account's money: its balance, and its statement as pages or as CSV."""

import csv
from collections.abc import Iterator
from datetime import UTC, datetime
from io import StringIO
from typing import Any, Literal
from uuid import UUID

import orjson
from flask import Blueprint, Response, request

from gateway.billing import balance, statement
from gateway.billing.balance import Cap
from gateway.billing.spending import seconds_left
from gateway.billing.statement import KINDS, Entry, StatementFilter, UnknownCursor
from models import ids
from models.accounts import Period
from models.ids import Prefix
from models.states import TransferKind
from web.auth import caller
from web.documented import Answer, Parameter, documented
from web.errors import ApiError
from web.filters import Moment, key_id, moment, one_of, several
from web.money_objects import AccountBalance, AnyKeyId, TransactionId, TransactionPage
from web.parameters import LIMIT, page_after, page_limit
from web.serialisers import list_json, unix, usd
from web.state import State, state

blueprint = Blueprint("money", __name__)

CSV = "text/csv"
ROWS_AT_ONCE = 1_000
COLUMNS = (
    "id",
    "created_at",
    "kind",
    "amount_usd",
    "balance_usd",
    "job_id",
    "completion_id",
    "key_id",
    "provider",
    "model",
    "lane",
    "note",
)


@blueprint.get("/v1/balance")
@documented("Billing", {200: Answer("The balance.", AccountBalance)})
def get_balance() -> Response:
    """What is available and held, what was charged lately, and what the key may still spend."""
    identity, now = caller(), datetime.now(UTC)
    found = state().readers.run(balance.read, identity.account_id, identity.key_id)
    return _json(
        {
            "object": "balance",
            "available_usd": usd(found.available_nanos),
            "held_usd": usd(found.held_nanos),
            "settled": {
                "today_usd": usd(found.today_nanos),
                "this_month_usd": usd(found.month_nanos),
            },
            "low_balance_usd": usd(found.low_below_nanos),
            "key": {
                "id": ids.show(Prefix.KEY, identity.key_id),
                "daily": _cap_json(found.daily_cap, Period.DAY, now),
                "monthly": _cap_json(found.monthly_cap, Period.MONTH, now),
            },
        }
    )


@blueprint.get("/v1/transactions")
@documented(
    "Billing",
    {200: Answer("A page, or the whole statement as CSV.", TransactionPage, more=(CSV,))},
    errors=(404,),
    parameters=(
        Parameter("since", Moment, "From this time on: Unix seconds or RFC 3339."),
        Parameter("until", Moment, "Before this time."),
        Parameter(
            "kind",
            list[Literal["deposit", "charge", "suspense", "suspense_return"]],
            "Only these, separated by commas.",
            style={"style": "form", "explode": False},
        ),
        Parameter("key_id", AnyKeyId, "Only what was charged to this key."),
        Parameter(
            "after", TransactionId, "Begin after this one, the `last_id` of the page before."
        ),
        LIMIT,
        Parameter("order", Literal["asc", "desc"], "`desc`, newest first, unless said."),
        Parameter(
            "format",
            Literal["json", "csv"],
            "`csv`, or `Accept: text/csv`: all that the filters let through, oldest first, "
            "without pages.",
        ),
    ),
)
def list_transactions() -> Response:
    """The statement: every amount that was given or charged, and the balance after it.

    Amounts and balances are exact. What was written within the last seconds may still be joined
    by something a little older.
    """
    limit, after = page_limit(), page_after(Prefix.TRANSACTION, "transaction")
    kinds = several("kind", tuple(each.value for each in KINDS))
    wanted = StatementFilter(
        since=moment("since"),
        until=moment("until"),
        kinds=tuple(map(TransferKind, kinds)),
        key_id=key_id(),
    )
    ascending = one_of("order", "desc", ("asc", "desc")) == "asc"
    usual = "csv" if request.accept_mimetypes.best == CSV else "json"
    if one_of("format", usual, ("json", "csv")) == "csv":
        return _csv_response(state(), wanted)
    try:
        # One more than asked for tells whether there is a next page.
        page = state().readers.run(
            statement.page,
            caller().account_id,
            limit=limit + 1,
            wanted=wanted,
            after=after,
            ascending=ascending,
        )
    except UnknownCursor as error:
        raise ApiError(404, "There is no such transaction.", param="after") from error
    shown = [_entry_json(each) for each in page[:limit]]
    return _json(list_json(shown, has_more=len(page) > limit))


def _csv_response(parts: State, wanted: StatementFilter) -> Response:
    account_id = caller().account_id
    first = _read(parts, account_id, wanted, None)
    response = Response(_csv(parts, account_id, wanted, first), mimetype=CSV)
    response.headers["Content-Disposition"] = 'attachment; filename="transactions.csv"'
    return response


def _csv(
    parts: State, account_id: UUID, wanted: StatementFilter, entries: list[Entry]
) -> Iterator[str]:
    """A chunk of lines a chunk of entries, each read in a transaction of its own."""
    yield _lines([COLUMNS])
    while entries:
        yield _lines([_cells(each) for each in entries])
        is_last = len(entries) < ROWS_AT_ONCE
        entries = [] if is_last else _read(parts, account_id, wanted, entries[-1])


def _read(
    parts: State, account_id: UUID, wanted: StatementFilter, last: Entry | None
) -> list[Entry]:
    return parts.readers.run(
        statement.page,
        account_id,
        limit=ROWS_AT_ONCE,
        wanted=wanted,
        after=None if last is None else last.id,
        ascending=True,
        balance_nanos=None if last is None else last.balance_nanos,
    )


def _lines(rows: list[tuple[Any, ...]]) -> str:
    buffer = StringIO()
    csv.writer(buffer).writerows(rows)
    return buffer.getvalue()


def _cells(entry: Entry) -> tuple[Any, ...]:
    created_at = entry.created_at.astimezone(UTC).isoformat(timespec="milliseconds")
    shown = {**_entry_json(entry), "created_at": created_at}
    return tuple(shown[name] for name in COLUMNS)


def _entry_json(entry: Entry) -> dict[str, Any]:
    call_id, key = entry.call_id, Prefix.WIDGET_KEY if entry.is_widget_key else Prefix.KEY
    is_job = call_id is not None and entry.is_job
    return {
        "id": ids.show(Prefix.TRANSACTION, entry.id),
        "object": "transaction",
        "kind": entry.kind.value,
        "amount_usd": usd(entry.amount_nanos),
        "balance_usd": usd(entry.balance_nanos),
        "created_at": unix(entry.created_at),
        "job_id": ids.show(Prefix.JOB, call_id) if call_id and is_job else None,
        "completion_id": ids.show(Prefix.COMPLETION, call_id) if call_id else None,
        "key_id": ids.show(key, entry.key_id) if entry.key_id else None,
        "provider": entry.provider,
        "model": entry.model,
        "lane": entry.lane,
        "note": entry.note,
    }


def _cap_json(cap: Cap, period: Period, now: datetime) -> dict[str, Any]:
    return {
        "limit_usd": usd(cap.limit_nanos),
        "left_usd": usd(cap.left_nanos),
        "resets_in_seconds": seconds_left(period, now),
    }


def _json(body: object) -> Response:
    return Response(orjson.dumps(body), 200, mimetype="application/json")
