"""One statement on the event loop itself, without a native thread.

To hand something to a thread and to be woken by it costs as much as the statement. What every call
waits for is one statement of one round trip, so its answer is awaited as one from Redis is: the
loop watches the socket. Longer transactions stay on threads; see `web.threads`.
"""

from collections.abc import Sequence

import gevent
import psycopg
from psycopg import errors, pq
from sqlalchemy import Engine

_READABLE, _WRITABLE = 1, 2  # libev's own numbers


def ask(engine: Engine, statement: bytes, parameters: Sequence[str]) -> bytes | None:
    """The first value that a statement answers, as text. It is a transaction of its own.

    Its parameters are `$1`, `$2` and so on. The pool must have a connection to spare, for waiting
    for one would stop every other greenlet. Raises psycopg.Error.
    """
    pooled = engine.raw_connection()
    try:
        connection = pooled.driver_connection
        assert isinstance(connection, psycopg.Connection)
        encoded = [each.encode() for each in parameters]
        result = _exchange(connection.pgconn, statement, encoded)
    except BaseException:
        # Its answer may still be under way.
        pooled.invalidate()
        raise
    pooled.close()
    return result.get_value(0, 0)


def _exchange(
    connection: pq.abc.PGconn, statement: bytes, parameters: Sequence[bytes]
) -> pq.abc.PGresult:
    connection.send_query_params(statement, parameters)
    while connection.flush():
        _wait(connection.socket, _READABLE | _WRITABLE)
        connection.consume_input()
    while connection.is_busy():
        _wait(connection.socket, _READABLE)
        connection.consume_input()
    result = connection.get_result()
    assert result is not None  # one statement has one
    while connection.get_result() is not None:
        continue
    if result.status != pq.ExecStatus.TUPLES_OK:
        raise errors.error_from_result(result)
    return result


def _wait(socket: int, events: int) -> None:
    """Lets other greenlets run until something can be done with the socket."""
    hub = gevent.get_hub()
    watcher = hub.loop.io(socket, events)
    try:
        hub.wait(watcher)
    finally:
        watcher.close()
