"""Writing many rows at once, inside the caller's transaction."""

from collections.abc import Iterable, Sequence
from typing import Any

from psycopg import Cursor, sql
from sqlalchemy.orm import Session

from models.base import Base


def copy_rows(
    session: Session, table: type[Base], columns: Sequence[str], rows: Iterable[Sequence[Any]]
) -> None:
    """COPY `rows` into `table`. Values are in the order of `columns`; JSON ones as `Jsonb`."""
    statement = sql.SQL("COPY {} ({}) FROM STDIN").format(
        sql.Identifier(table.__tablename__), sql.SQL(", ").join(map(sql.Identifier, columns))
    )
    with cursor(session) as driver_cursor, driver_cursor.copy(statement) as copy:
        for row in rows:
            copy.write_row(row)


def cursor(session: Session) -> Cursor[Any]:
    """A psycopg cursor on the session's own connection, for what SQLAlchemy has no word for."""
    connection = session.connection().connection.driver_connection
    assert connection is not None
    driver_cursor: Cursor[Any] = connection.cursor()
    return driver_cursor
