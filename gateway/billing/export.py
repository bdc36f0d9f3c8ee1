"""The books as rows for an outsider: all that it takes to compute every charge and balance again.

Everything is read in one transaction that sees the books as they were at one moment, through a
server-side cursor: memory does not grow with the books.
"""

import csv
import io
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

import orjson
from sqlalchemy import Connection, Engine, text

PAGE = 2000


class Table(StrEnum):
    """What is exported, in this order: a row names only what came before it."""

    PRICES = "prices"
    HOLDS = "holds"
    SETTLEMENTS = "settlements"
    TRANSFERS = "transfers"
    BALANCES = "balances"


QUERIES = {
    # Rates are pico-USD a token, by lane, class and tier.
    Table.PRICES: "SELECT id, snapshot, created_at FROM prices ORDER BY id",
    Table.HOLDS: (
        "SELECT id, account_id, key_id, amount_nanos, status, held_on, created_at, resolved_at "
        "FROM holds ORDER BY id"
    ),
    Table.SETTLEMENTS: (
        "SELECT id, account_id, key_id, lane, provider, model, price_id, markup_bps, unpriced, "
        "input_uncached, cache_read, cache_write_short, cache_write_long, output, reasoning, "
        "cost_nanos, charged_nanos, list_nanos, batch_id, created_at FROM settlements ORDER BY id"
    ),
    Table.TRANSFERS: (
        "SELECT id, kind, debit, credit, account_id, hold_id, batch_id, amount_nanos, note, "
        "created_at FROM transfers ORDER BY id"
    ),
    Table.BALANCES: (
        "SELECT account_id, credits_nanos, debits_nanos, held_nanos FROM balances "
        "ORDER BY account_id"
    ),
}
"""Each in the order of its primary key, by which it is read without sorting."""


def json_lines(engine: Engine) -> Iterator[bytes]:
    """All tables, a JSON object a line; `table` says which one the row is of."""
    with _books(engine) as connection:
        for table in Table:
            for row in _rows(connection, table):
                yield orjson.dumps({"table": table.value, **row}) + b"\n"


def csv_lines(engine: Engine, table: Table) -> Iterator[bytes]:
    """One table as RFC 4180 has it, the column names first; what has no value is empty."""
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer)
    with _books(engine) as connection, _open(connection, table) as result:
        writer.writerow(result.keys())
        for row in result:
            writer.writerow([_cell(value) for value in row])
            if buffer.tell() > 1 << 16:
                yield _drain(buffer)
    yield _drain(buffer)


@contextmanager
def _books(engine: Engine) -> Iterator[Connection]:
    with engine.connect().execution_options(
        isolation_level="REPEATABLE READ", postgresql_readonly=True
    ) as connection:
        # Whoever reads the lines may take any time.
        connection.execute(text("SET LOCAL statement_timeout = 0"))
        connection.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
        yield connection


@contextmanager
def _open(connection: Connection, table: Table) -> Iterator[Any]:
    with connection.execution_options(yield_per=PAGE).execute(text(QUERIES[table])) as result:
        yield result


def _rows(connection: Connection, table: Table) -> Iterator[dict[str, Any]]:
    with _open(connection, table) as result:
        for row in result.mappings():
            yield dict(row)


def _cell(value: object) -> object:
    if isinstance(value, dict):
        return orjson.dumps(value).decode()
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, date | datetime):
        return value.isoformat()
    return str(value) if isinstance(value, UUID) else value


def _drain(buffer: io.StringIO) -> bytes:
    drained = buffer.getvalue().encode()
    buffer.seek(0)
    buffer.truncate()
    return drained
