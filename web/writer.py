"""The writer: one native thread that commits together what arrived together.

While one transaction commits, whatever comes in waits and shares the next of its kind. Greenlets
only ever touch the queues from the event loop's own thread, so the queues need no lock.
"""

import itertools
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gevent
from gevent import Greenlet
from gevent.event import AsyncResult
from gevent.pool import Group
from gevent.threadpool import ThreadPool
from sqlalchemy import Engine

from gateway.billing.ledger import Charge
from gateway.calls.errors import CallError
from gateway.calls.idempotency import Stored
from gateway.calls.intake import Submission
from gateway.calls.realtime import HOLD_SECONDS, Call
from web.threads import DatabaseAway, in_background, is_away, on_thread
from web.writes import Kind, Payload, Settled, Writes

log = logging.getLogger(__name__)

GROUP_SIZE = 256
RETRY_SECONDS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
ABANDON_SECONDS = 60.0
"""How long a release is tried; a sweep releases what has expired."""
ANSWER_SECONDS = 2.0
"""How long a keyed call's answer waits for what is to be written with it."""


@dataclass(frozen=True, slots=True)
class Item:
    """One thing to write, and who waits for its outcome."""

    payload: Payload
    outcome: "AsyncResult[Any]"


class Writer:
    """Commits calls and jobs; the `Books` of synchronous calls."""

    def __init__(self, engine: Engine) -> None:
        self._writes = Writes(engine)
        self._thread = ThreadPool(1)
        self._waiting: dict[Kind, list[Item]] = {kind: [] for kind in Kind}
        self._draining = False
        self._background = Group()

    def accept(self, submission: Submission) -> Stored:
        """Makes a job of a submission, durably; what its caller is told.

        Raises CallError and DatabaseAway.
        """
        told: Stored | CallError = self._written(Kind.ACCEPT, submission)
        if isinstance(told, CallError):
            raise told
        return told

    def begin(self, call: Call) -> Stored | None:
        """Holds a synchronous call's ceiling; see `realtime.Books`. Raises DatabaseAway too."""
        try:
            told: Stored | CallError | None = self._written(Kind.BEGIN, call)
        except DatabaseAway:
            # The commit may have gone through unheard, and the key would stay in flight.
            if call.keyed is not None:
                self._later(Kind.ABANDON, call, ABANDON_SECONDS)
            raise
        if isinstance(told, CallError):
            raise told
        return told

    def abandon(self, call: Call) -> None:
        """Releases a call's hold and key; who repeats a keyed call finds its key free."""
        writing = self._later(Kind.ABANDON, call, ABANDON_SECONDS)
        if call.keyed is not None:
            writing.join(ANSWER_SECONDS)

    def settle(self, call: Call, charge: Charge, answer: Stored) -> None:
        """Charges a call, tried until the database takes it; a keyed one's answer with it.

        Both are one transaction: were the charge written and the answer not, the key would stay
        in flight for ever.
        """
        writing = self._later(Kind.SETTLE, Settled(call, charge, answer), HOLD_SECONDS)
        if call.keyed is not None:
            writing.join(ANSWER_SECONDS)

    def drain(self, timeout_seconds: float) -> bool:
        """Waits for what is written in the background; whether all of it is."""
        return bool(self._background.join(timeout_seconds))

    def _written(self, kind: Kind, payload: Payload) -> Any:
        item = Item(payload, AsyncResult())
        self._waiting[kind].append(item)
        if not self._draining:
            self._draining = True
            in_background(self._drain)
        return item.outcome.get()

    def _later(
        self, kind: Kind, payload: Payload, patience_seconds: float
    ) -> "Greenlet[..., object]":
        greenlet = in_background(self._until_written, kind, payload, patience_seconds)
        self._background.add(greenlet)
        return greenlet

    def _until_written(self, kind: Kind, payload: Payload, patience_seconds: float) -> None:
        end = time.monotonic() + patience_seconds
        for seconds in itertools.chain(RETRY_SECONDS, itertools.repeat(RETRY_SECONDS[-1])):
            try:
                self._written(kind, payload)
                return
            except DatabaseAway:
                if time.monotonic() + seconds > end:
                    break
                gevent.sleep(seconds)
        log.error("writer.gave_up", extra={"kind": kind.value, "alert": True})

    def _drain(self) -> None:
        try:
            while any(self._waiting.values()):
                for kind, waiting in self._waiting.items():
                    group, self._waiting[kind] = waiting[:GROUP_SIZE], waiting[GROUP_SIZE:]
                    if group:
                        self._deliver(group, self._commit(kind, [item.payload for item in group]))
        finally:
            self._draining = False

    @staticmethod
    def _deliver(group: Sequence[Item], outcomes: Sequence[Any]) -> None:
        for item, outcome in zip(group, outcomes, strict=True):
            if isinstance(outcome, Exception) and not isinstance(outcome, CallError):
                item.outcome.set_exception(outcome)
            else:
                item.outcome.set(outcome)

    def _commit(self, kind: Kind, payloads: Sequence[Payload]) -> Sequence[Any]:
        """The group's outcomes. One that spoils the transaction is parted from the others."""
        try:
            return on_thread(self._thread, self._writes.commit, kind, payloads)
        except Exception as error:
            if is_away(error):
                return [DatabaseAway() for _ in payloads]
            if len(payloads) == 1:
                return [error]
            log.warning("writer.group_split", extra={"error": type(error).__name__})
        half = len(payloads) // 2
        return [*self._commit(kind, payloads[:half]), *self._commit(kind, payloads[half:])]
