"""Waiting for jobs to end, or to change: woken by PostgreSQL's NOTIFY, not by asking and asking.

One native thread listens. What it hears says only that something ended; one query then tells
which of the awaited jobs it was, however many wait. A look every few seconds makes up for a
notification that was lost with a connection, and for changes that nobody announces.
"""

import logging
from collections import defaultdict
from uuid import UUID

import gevent
import psycopg
from gevent.event import Event
from gevent.threadpool import ThreadPool

from gateway.lanes.endings import CHANNEL
from web.threads import in_background, on_thread

log = logging.getLogger(__name__)

LISTEN_SECONDS = 3.0
RECONNECT_SECONDS = 1.0
STALE = """
    SELECT awaited.id, awaited.version
    FROM unnest(%s::uuid[], %s::text[]) AS awaited (id, version) JOIN jobs USING (id)
    WHERE completed_at IS NOT NULL OR jobs.xmin::text <> awaited.version
"""
Awaited = tuple[UUID, str | None]
"""A job, and the version of its row that is known already; None: only the end is waited for."""


class Waiters:
    """Greenlets that wait for jobs. The listening thread starts with the first of them."""

    def __init__(self, postgres_url: str) -> None:
        self._url = postgres_url
        self._thread = ThreadPool(1)
        self._waiting: dict[Awaited, set[Event]] = defaultdict(set)
        self._listening = False
        self._connection: psycopg.Connection[Awaited] | None = None
        self.dismissed = False
        """Whether nobody is to wait any more, since the process stops."""

    def wait(self, job_id: UUID, timeout_seconds: float, version: str | None = None) -> None:
        """Returns when the job has ended, its row is no longer of `version`, or the time is over.

        At once if `dismissed`.
        """
        if self.dismissed:
            return
        event, awaited = Event(), (job_id, version)
        self._waiting[awaited].add(event)
        if not self._listening:
            self._listening = True
            in_background(self._listen)
        try:
            event.wait(timeout_seconds)
        finally:
            self._waiting[awaited].discard(event)
            if not self._waiting[awaited]:
                del self._waiting[awaited]

    def dismiss(self) -> None:
        """Wakes everybody, for good."""
        self.dismissed = True
        for events in list(self._waiting.values()):
            for event in events:
                event.set()

    def close(self) -> None:
        """Lets go of the listening connection, once nobody waits."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _listen(self) -> None:
        try:
            while self._waiting:
                try:
                    stale = on_thread(self._thread, self._hear, list(self._waiting))
                except psycopg.Error as error:
                    log.warning("waiters.database_away", extra={"error": type(error).__name__})
                    gevent.sleep(RECONNECT_SECONDS)
                    continue
                for awaited in stale:
                    for event in self._waiting.get(awaited, ()):
                        event.set()
                # Who was woken takes itself off the list before the next look.
                gevent.sleep(0)
        finally:
            self._listening = False

    def _hear(self, awaited: list[Awaited]) -> list[Awaited]:
        """Waits for a notification or the next look; which of those awaited have come about.

        Who came after `awaited` was read is looked up the next time round, so the wait is short.
        """
        connection = self._connected()
        try:
            stale = _stale(connection, awaited)
            if stale:
                return stale
            heard = list(connection.notifies(timeout=LISTEN_SECONDS, stop_after=1))
            return _stale(connection, awaited) if heard else []
        except psycopg.Error:
            connection.close()
            self._connection = None
            raise

    def _connected(self) -> psycopg.Connection[Awaited]:
        if self._connection is None:
            connection = psycopg.connect(
                self._url, autocommit=True, application_name="offpeak-web-listen", connect_timeout=5
            )
            connection.execute(f"LISTEN {CHANNEL}")
            self._connection = connection
        return self._connection


def _stale(connection: psycopg.Connection[Awaited], awaited: list[Awaited]) -> list[Awaited]:
    job_ids, versions = [each[0] for each in awaited], [each[1] for each in awaited]
    return connection.execute(STALE, [job_ids, versions]).fetchall()
