"""Reading and writing many rows at once, inside the caller's transaction.

All of it in PostgreSQL's binary format, which costs both sides half of what text does.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any
from uuid import UUID

from psycopg import Cursor, sql
from sqlalchemy import Dialect
from sqlalchemy.orm import Session

from models.base import Base


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


def uuid_array(values: Iterable[UUID]) -> str:
    """A parameter for `uuid[]`; see `array`."""
    return array([value.hex for value in values])


def cursor(session: Session, *, binary: bool = False) -> Cursor[Any]:
    """A psycopg cursor on the session's own connection, for what SQLAlchemy has no word for."""
    connection = session.connection().connection.driver_connection
    assert connection is not None
    driver_cursor: Cursor[Any] = connection.cursor(binary=binary)
    return driver_cursor
