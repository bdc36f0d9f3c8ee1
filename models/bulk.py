"""Reading and writing many rows at once, inside the caller's transaction.

All of it in PostgreSQL's binary format, which costs both sides half of what text does.
"""

import struct
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any
from uuid import UUID

from psycopg import Cursor, adapters, postgres, sql
from psycopg.types.string import BytesBinaryDumper
from sqlalchemy import Dialect
from sqlalchemy.orm import Session

from models.base import Base

_UUID = postgres.types["uuid"]
_ARRAY_HEAD = struct.Struct("!iiIii")
"""Dimensions, whether there are nulls, the elements' type, their number, the first's index."""
_BEFORE_UUID = struct.pack("!i", 16)
_NO_UUIDS = struct.pack("!iiI", 0, 0, _UUID.oid)


def copy_rows(
    session: Session, table: type[Base], columns: Sequence[str], rows: Iterable[Sequence[Any]]
) -> None:
    """COPY `rows` into `table`. Values are in the order of `columns`; JSON ones as `Jsonb`."""
    statement, types = _copy_statement(table, tuple(columns), session.connection().dialect)
    with cursor(session) as driver_cursor, driver_cursor.copy(statement) as copy:
        copy.set_types(types)
        for row in rows:
            copy.write_row(row)


@cache
def _copy_statement(
    table: type[Base], columns: tuple[str, ...], dialect: Dialect
) -> tuple[sql.Composed, list[str]]:
    """The statement, and the columns' types as PostgreSQL names them."""
    statement = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT BINARY)").format(
        sql.Identifier(table.__tablename__), sql.SQL(", ").join(map(sql.Identifier, columns))
    )
    declared = (table.__table__.columns[name].type.compile(dialect) for name in columns)
    return statement, [name.lower().partition("(")[0] for name in declared]


def fetch_rows(
    session: Session, statement: str, parameters: Mapping[str, Any] | Sequence[Any]
) -> list[tuple[Any, ...]]:
    """All rows of a query in psycopg's own terms: `%(name)s` or `%s` where a parameter goes."""
    with cursor(session, binary=True) as driver_cursor:
        return driver_cursor.execute(statement.encode(), parameters).fetchall()


def array(words: Iterable[str]) -> str:
    """A parameter for an array of words that need no quoting, written out.

    As a list it would take psycopg several times as long, for it looks at each element.
    """
    return "{" + ",".join(words) + "}"


class UuidArray(bytes):
    """A parameter for `uuid[]`, as PostgreSQL keeps it: it need not read each element's digits."""


class _UuidArrayDumper(BytesBinaryDumper):
    oid = _UUID.array_oid


adapters.register_dumper(UuidArray, _UuidArrayDumper)


def uuid_array(values: Iterable[UUID]) -> UuidArray:
    """A parameter for `uuid[]` of a statement in psycopg's own terms."""
    return _uuid_array([value.bytes for value in values])


def hex_array(digits: Iterable[str]) -> UuidArray:
    """The same of UUIDs that are written out."""
    return _uuid_array(list(map(bytes.fromhex, digits)))


def _uuid_array(elements: Sequence[bytes]) -> UuidArray:
    if not elements:
        return UuidArray(_NO_UUIDS)
    head = _ARRAY_HEAD.pack(1, 0, _UUID.oid, len(elements), 1)
    return UuidArray(_BEFORE_UUID.join((head, *elements)))


def run(session: Session, statement: str, parameters: Mapping[str, Any]) -> None:
    """Executes a statement in psycopg's own terms that returns nothing; see `fetch_rows`."""
    with cursor(session) as driver_cursor:
        driver_cursor.execute(statement.encode(), parameters)


def cursor(session: Session, *, binary: bool = False) -> Cursor[Any]:
    """A psycopg cursor on the session's own connection, for what SQLAlchemy has no word for."""
    connection = session.connection().connection.driver_connection
    assert connection is not None
    driver_cursor: Cursor[Any] = connection.cursor(binary=binary)
    return driver_cursor
