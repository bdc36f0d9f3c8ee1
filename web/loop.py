"""One statement on the event loop itself, without a native thread.

To hand something to a thread and to be woken by it costs as much as the statement. What every call
waits for is one statement of one round trip, so its answer is awaited as one from Redis is: the
loop watches the socket. Longer transactions stay on threads; see `web.threads`.
"""

from collections.abc import Sequence

import gevent
import psycopg
from gevent.threadpool import ThreadPool
from psycopg import errors, pq
from sqlalchemy import Engine, PoolProxiedConnection

from models.session import is_closed
from web.threads import on_thread

_READABLE, _WRITABLE = 1, 2  # libev's own numbers


class Statements:
    """Statements on one of the pool's connections, one at a time.

    It is kept from one to the next until it is given back: to take it out and to put it back took
    longer than a statement takes. It is taken out on `thread`, for it may have to be made, and
    whatever is slow to be reached must not stop every other greenlet.
    """

    def __init__(self, engine: Engine, thread: ThreadPool) -> None:
        self._engine = engine
        self._thread = thread
        self._kept: PoolProxiedConnection | None = None

    def ask(self, statement: bytes, parameters: Sequence[str]) -> bytes | None:
        """The first value that a statement answers, as text. It is a transaction of its own.

        Its parameters are `$1`, `$2` and so on. Raises psycopg.Error, or SQLAlchemy's for what
        goes wrong before there is a connection.
        """
        kept = self._connected()
        try:
            connection = kept.driver_connection
            assert isinstance(connection, psycopg.Connection)
            encoded = [each.encode() for each in parameters]
            result = _exchange(connection.pgconn, statement, encoded)
        except BaseException:
            # Its answer may still be under way.
            self._kept = None
            kept.invalidate()
            raise
        return result.get_value(0, 0)

    def give_back(self) -> None:
        """Lets others have the connection; not while an answer is awaited."""
        kept, self._kept = self._kept, None
        if kept is not None:
            kept.close()

    def _connected(self) -> PoolProxiedConnection:
        kept = self._kept
        if kept is not None and is_closed(kept.driver_connection):
            kept.invalidate()
            kept = self._kept = None
        return kept or on_thread(self._thread, self._take_out)

    def _take_out(self) -> PoolProxiedConnection:
        # Kept at once: who waits for it may be gone by then.
        taken = self._kept = self._engine.raw_connection()
        return taken


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
