"""Synchronous calls in the request log. Jobs come into it when they end; see `lanes.endings`."""

from collections.abc import Sequence
from datetime import timedelta

import orjson
from sqlalchemy.orm import Session

from gateway.calls.record import CallRecord
from gateway.catalogue.usage import Usage
from models.bulk import cursor
from models.requests import REQUEST_LOG_COLUMNS

_NOTHING_USED = Usage()
_COLUMNS = ", ".join(REQUEST_LOG_COLUMNS)
# As JSON: of all ways to hand over rows some of which may be there, it costs this side least.
_WRITE = f"""
    INSERT INTO request_log ({_COLUMNS})
    SELECT {_COLUMNS} FROM json_populate_recordset(NULL::request_log, %s)
    ON CONFLICT DO NOTHING
""".encode()


def write(session: Session, records: Sequence[CallRecord]) -> None:
    """One row a call. What was written before is left as it is: the set may be repeated."""
    rows = [dict(zip(REQUEST_LOG_COLUMNS, _row(record), strict=True)) for record in records]
    with cursor(session) as driver_cursor:
        driver_cursor.execute(_WRITE, [orjson.dumps(rows).decode()])


def _row(record: CallRecord) -> tuple[object, ...]:
    usage = record.usage or _NOTHING_USED
    last = record.attempts[-1] if record.attempts else None
    return (
        record.call_id,
        record.created_at + timedelta(milliseconds=record.latency_milliseconds),
        record.account_id,
        record.key_id,
        "sync",
        record.endpoint.value,
        record.model if last is None else last.model,
        record.provider,
        record.lane,
        record.http_status,
        len(record.attempts),
        usage.input_uncached,
        usage.cache_read,
        usage.cache_write_short + usage.cache_write_long,
        usage.output,
        usage.reasoning,
        record.charged_nanos,
        record.cost_nanos,
        record.latency_milliseconds,
        record.first_token_milliseconds,
        record.source,
    )
