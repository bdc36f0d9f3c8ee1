"""Where a web process touches PostgreSQL: a few native threads beside the event loop.

Under gevent a wait inside psycopg is expensive, and a blocking one would stop every other
request. So no greenlet runs a transaction: reads go to a small pool of native threads, and
everything that is written goes to one, which commits together what arrived together. Only what is
a single statement, a hold, is asked on the loop itself; see `web.loop`.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Concatenate, ParamSpec, TypeVar

import gevent
from gevent import Greenlet
from gevent.threadpool import ThreadPool
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from models.session import is_away, transaction

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

READERS = 2
PATIENCE_SECONDS = 10.0
"""How long a request waits for a read before its caller is told to come back."""


class DatabaseAway(Exception):
    """PostgreSQL cannot be asked right now; the caller may try again shortly."""


@dataclass(frozen=True, slots=True)
class _Raised:
    error: Exception


def on_thread(threads: ThreadPool, function: Callable[P, T], *args: P.args, **named: P.kwargs) -> T:
    """Calls a function on one of the threads; what it raises is raised here.

    gevent writes a traceback to stderr for whatever a thread raises, so nothing may leave one.
    """
    outcome = threads.apply(_guarded, (function, args, named))
    if isinstance(outcome, _Raised):
        raise outcome.error
    result: T = outcome
    return result


def _guarded(function: Callable[..., T], args: tuple[Any, ...], named: dict[str, Any]) -> Any:
    try:
        return function(*args, **named)
    except Exception as error:
        return _Raised(error)


def in_background(
    function: Callable[P, object], *args: P.args, **named: P.kwargs
) -> "Greenlet[..., object]":
    """Calls a function in a greenlet of its own; what it raises is logged."""
    return gevent.spawn(_logged, function, args, named)


def _logged(function: Callable[..., object], args: tuple[Any, ...], named: dict[str, Any]) -> None:
    try:
        function(*args, **named)
    except DatabaseAway:
        log.warning("background.database_away", extra={"function": function.__qualname__})
    except Exception as error:
        log.error("background.failed", exc_info=error, extra={"function": function.__qualname__})


class Readers:
    """Runs short transactions on native threads."""

    def __init__(self, engine: Engine, patience_seconds: float = PATIENCE_SECONDS) -> None:
        self._engine = engine
        self._patience_seconds = patience_seconds
        self._threads = ThreadPool(READERS)

    def close(self, timeout_seconds: float) -> None:
        """Waits for the reads that nobody waits for any more."""
        gevent.with_timeout(timeout_seconds, self._threads.join, timeout_value=None)

    def run(
        self, read: Callable[Concatenate[Session, P], T], *args: P.args, **named: P.kwargs
    ) -> T:
        """`read(session, *args, **named)` in a transaction of its own; its result.

        Raises DatabaseAway.
        """

        def in_transaction() -> T:
            with transaction(self._engine) as session:
                return read(session, *args, **named)

        try:
            with gevent.Timeout(self._patience_seconds, DatabaseAway):
                return on_thread(self._threads, in_transaction)
        except Exception as error:
            if is_away(error):
                raise DatabaseAway from error
            raise
