"""The request log: calls that are over, written in sets and out of the way of those that go on."""

import logging
from collections import deque
from collections.abc import Callable

import gevent
from gevent import Greenlet

from gateway.calls import request_log
from gateway.calls.record import CallRecord
from web.threads import DatabaseAway, Readers, in_background

log = logging.getLogger(__name__)

BUFFERED = 20_000
"""Rows that are kept for a database that is away; then the oldest are dropped."""
GROUP_SIZE = 500
PAUSE_SECONDS = 1.0
AWAY_SECONDS = 5.0


class RequestLog:
    """An observer of calls. `dropped` is told how many rows were given up."""

    def __init__(self, readers: Readers, dropped: Callable[[int], None]) -> None:
        self._readers = readers
        self._dropped = dropped
        self._waiting: deque[CallRecord] = deque()
        self._flushing: Greenlet[..., object] | None = None

    def __call__(self, record: CallRecord) -> None:
        """Remembers a call; never waits."""
        if record.replayed:
            return
        if len(self._waiting) >= BUFFERED:
            self._waiting.popleft()
            self._dropped(1)
        self._waiting.append(record)
        if self._flushing is None or self._flushing.dead:
            self._flushing = in_background(self._flush_soon)

    def close(self, timeout_seconds: float) -> None:
        """Writes what is left, if the database takes it in that time."""
        if self._flushing is not None:
            self._flushing.kill()
        gevent.with_timeout(timeout_seconds, self._flush, timeout_value=None)
        if self._waiting:
            self._dropped(len(self._waiting))
            log.error("request_log.dropped_at_exit", extra={"rows": len(self._waiting)})

    def _flush_soon(self) -> None:
        gevent.sleep(PAUSE_SECONDS)
        while not self._flush():
            gevent.sleep(AWAY_SECONDS)

    def _flush(self) -> bool:
        """Whether everything is written that the database takes."""
        while self._waiting:
            group = [self._waiting.popleft() for _ in range(min(GROUP_SIZE, len(self._waiting)))]
            try:
                self._readers.run(request_log.write, group)
            except DatabaseAway:
                self._put_back(group)
                return False
            except Exception as error:
                # A row that the database will never take must not keep the others.
                self._dropped(len(group))
                log.error("request_log.refused", exc_info=error, extra={"rows": len(group)})
            except BaseException:
                # Stopped in the middle. What was written may be written again.
                self._put_back(group)
                raise
        return True

    def _put_back(self, group: list[CallRecord]) -> None:
        room = BUFFERED - len(self._waiting)
        self._dropped(max(0, len(group) - room))
        self._waiting.extendleft(reversed(group[-room:] if room else []))
