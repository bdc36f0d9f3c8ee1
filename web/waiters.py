"""Waiting for jobs to end: woken by PostgreSQL's NOTIFY, not by asking again and again.

One native thread listens. What it hears says only that something ended; one query then tells
which of the awaited jobs it was, however many wait. A look every few seconds makes up for a
notification that was lost with a connection.
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
FINISHED = "SELECT id FROM jobs WHERE id = ANY(%s) AND completed_at IS NOT NULL"


class Waiters:
    """Greenlets that wait for jobs. The listening thread starts with the first of them."""

    def __init__(self, postgres_url: str) -> None:
        self._url = postgres_url
        self._thread = ThreadPool(1)
        self._waiting: dict[UUID, set[Event]] = defaultdict(set)
        self._listening = False
        self._connection: psycopg.Connection[tuple[UUID]] | None = None

    def wait(self, job_id: UUID, timeout_seconds: float) -> None:
        """Returns when the job has ended, or the time is over."""
        event = Event()
        self._waiting[job_id].add(event)
        if not self._listening:
            self._listening = True
            in_background(self._listen)
        try:
            event.wait(timeout_seconds)
        finally:
            self._waiting[job_id].discard(event)
            if not self._waiting[job_id]:
                del self._waiting[job_id]

    def close(self) -> None:
        """Lets go of the listening connection, once nobody waits."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _listen(self) -> None:
        try:
            while self._waiting:
                try:
                    finished = on_thread(self._thread, self._hear, list(self._waiting))
                except psycopg.Error as error:
                    log.warning("waiters.database_away", extra={"error": type(error).__name__})
                    gevent.sleep(RECONNECT_SECONDS)
                    continue
                for job_id in finished:
                    for event in self._waiting.get(job_id, ()):
                        event.set()
                # Who was woken takes itself off the list before the next look.
                gevent.sleep(0)
        finally:
            self._listening = False

    def _hear(self, awaited: list[UUID]) -> list[UUID]:
        """Waits for a notification or the next look; which of the awaited jobs have ended.

        Who came after `awaited` was read is looked up the next time round, so the wait is short.
        """
        connection = self._connected()
        try:
            finished = _finished(connection, awaited)
            if finished:
                return finished
            heard = list(connection.notifies(timeout=LISTEN_SECONDS, stop_after=1))
            return _finished(connection, awaited) if heard else []
        except psycopg.Error:
            connection.close()
            self._connection = None
            raise

    def _connected(self) -> psycopg.Connection[tuple[UUID]]:
        if self._connection is None:
            connection = psycopg.connect(
                self._url, autocommit=True, application_name="offpeak-web-listen", connect_timeout=5
            )
            connection.execute(f"LISTEN {CHANNEL}")
            self._connection = connection
        return self._connection


def _finished(connection: psycopg.Connection[tuple[UUID]], awaited: list[UUID]) -> list[UUID]:
    return [row[0] for row in connection.execute(FINISHED, [awaited])]
