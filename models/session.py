"""Engines and transactions.

A function of the gateway takes a `Session` or talks to the network, never both; what it is
given is the session, not the engine, so that the caller decides what is one transaction.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from sqlalchemy import Engine, create_engine, event
from sqlalchemy.exc import DBAPIError, InvalidatePoolError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session

STATEMENT_TIMEOUT_MILLISECONDS = 60_000
LOCK_TIMEOUT_MILLISECONDS = 10_000
SILENCE_MILLISECONDS = 30_000
"""How long a server may leave unacknowledged what it was sent, probes of an idle connection too."""
_NOT_DURABLE = b"SET LOCAL synchronous_commit = off"


def connect(
    sqlalchemy_url: str, *, pool_size: int, pool_timeout_seconds: float = 10.0, name: str
) -> Engine:
    """An engine of at most `pool_size` connections. Nothing connects yet.

    `name` shows in pg_stat_activity. A connection that the server closed is noticed before use,
    so a restart of PostgreSQL costs one failed transaction at most.
    """
    engine = create_engine(
        sqlalchemy_url,
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=pool_timeout_seconds,
        pool_use_lifo=True,
        connect_args={
            "application_name": name,
            "connect_timeout": 5,
            "keepalives_idle": 30,
            "tcp_user_timeout": SILENCE_MILLISECONDS,
            "options": (
                f"-c statement_timeout={STATEMENT_TIMEOUT_MILLISECONDS} "
                f"-c lock_timeout={LOCK_TIMEOUT_MILLISECONDS} "
                "-c idle_in_transaction_session_timeout=60000"
            ),
        },
    )
    event.listen(engine, "checkout", _refuse_closed)
    return engine


def _refuse_closed(connection: psycopg.Connection, _record: object, _proxy: object) -> None:
    """Makes the pool replace its connections if the server has closed this one."""
    if is_closed(connection):
        raise InvalidatePoolError


def is_closed(connection: Any) -> bool:
    """Whether the server has closed a connection of psycopg's on which nothing is under way.

    What the server said last, and that it hung up, is there to be read: no need for a round trip.
    """
    try:
        # The first reads the server's last words, if there are any, the second the end after them.
        connection.pgconn.consume_input()
        connection.pgconn.consume_input()
    except psycopg.OperationalError:
        return True
    return False


def is_away(error: BaseException) -> bool:
    """Whether an error says that the database is not there, rather than that it refused.

    What COPY raises comes from psycopg as it is, everything else wrapped by SQLAlchemy.
    """
    if isinstance(error, DBAPIError):
        return error.connection_invalidated or isinstance(error.orig, psycopg.OperationalError)
    return isinstance(error, PoolTimeout | psycopg.OperationalError)


@contextmanager
def transaction(engine: Engine, *, durable: bool = True) -> Iterator[Session]:
    """One transaction: committed at the end of the block, rolled back if it raises.

    With `durable=False` the commit does not wait for the disk. A crash of PostgreSQL (not of
    ours) may then undo the last moments, so it is only for what would die in that crash anyway.
    """
    with Session(engine, expire_on_commit=False) as session, session.begin():
        if not durable:
            driver_connection = session.connection().connection.driver_connection
            assert isinstance(driver_connection, psycopg.Connection)
            driver_connection.execute(_NOT_DURABLE)
        yield session
