"""The writer: one native thread that commits together what arrived together.

While one transaction commits, whatever comes in waits and shares the next of its kind; what nobody
waits for is kept a moment longer, for more to share its transaction with. A group that one
statement can write is written on the event loop instead. Greenlets only ever touch the queues from
the event loop's own thread, so the queues need no lock.
"""

import itertools
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gevent
from gevent.event import AsyncResult, Event
from gevent.pool import Group
from gevent.threadpool import ThreadPool
from sqlalchemy import Engine

from gateway.billing.ledger import Charge
from gateway.calls.errors import CallError
from gateway.calls.idempotency import Stored
from gateway.calls.intake import Submission
from gateway.calls.realtime import HOLD_SECONDS, Call
from models.session import is_away
from web.threads import DatabaseAway, in_background, on_thread
from web.writes import Kind, Payload, Settled, Writes

log = logging.getLogger(__name__)

GROUP_SIZE = 256
RETRY_SECONDS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
PATIENCE_SECONDS = {Kind.SETTLE: HOLD_SECONDS, Kind.ABANDON: 60.0}
"""How long the database is tried; a sweep releases the holds that have expired."""
LINGER_SECONDS = 0.1
"""How long what nobody waits for is kept for others to share its transaction."""
ANSWER_SECONDS = 2.0
"""How long a keyed call's answer waits for what is to be written with it."""


@dataclass(frozen=True, slots=True)
class Item:
    """One thing to write, and who waits for its outcome."""

    payload: Payload
    outcome: "AsyncResult[Any]"


class Writer:
    """Commits calls and jobs; the `Books` of synchronous calls.

    `told_group` hears the kind and the size of each transaction.
    """

    def __init__(
        self, engine: Engine, told_group: Callable[[str, int], None] = lambda _kind, _size: None
    ) -> None:
        self._told_group = told_group
        self._thread = ThreadPool(1)
        self._writes = Writes(engine, self._thread)
        self._waiting: dict[Kind, list[Item]] = {kind: [] for kind in Kind}
        self._draining = False
        self._lingering: dict[Kind, list[Payload]] = {kind: [] for kind in PATIENCE_SECONDS}
        self._hurry = Event()
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
        except BaseException as error:
            # The commit may go through unheard: the key would stay in flight, and the hold open.
            if call.keyed is not None or not isinstance(error, DatabaseAway):
                self._later(Kind.ABANDON, call, is_awaited=False)
            raise
        if isinstance(told, CallError):
            raise told
        return told

    def abandon(self, call: Call) -> None:
        """Releases a call's hold and key; who repeats a keyed call finds its key free."""
        self._later(Kind.ABANDON, call, is_awaited=call.keyed is not None)

    def settle(self, call: Call, charge: Charge, answer: Stored) -> None:
        """Charges a call, tried until the database takes it; a keyed one's answer with it.

        Both are one transaction: were the charge written and the answer not, the key would stay
        in flight for ever.
        """
        settled = Settled(call, charge, answer)
        self._later(Kind.SETTLE, settled, is_awaited=call.keyed is not None)

    def drain(self, timeout_seconds: float) -> bool:
        """Waits for what is written in the background; whether all of it is."""
        self._hurry.set()
        try:
            return bool(self._background.join(timeout_seconds))
        finally:
            self._hurry.clear()
            if not self._draining:
                self._writes.let_go()

    def _written(self, kind: Kind, payload: Payload) -> Any:
        if self._draining:
            return self._put(kind, payload).get()
        # Nobody else is writing, so there is no need of a greenlet that does it for several.
        item = Item(payload, AsyncResult())
        self._draining = True
        try:
            self._write(kind, [item])
        finally:
            self._draining = False
            self._start_draining()
        return item.outcome.get()

    def _put(self, kind: Kind, payload: Payload) -> "AsyncResult[Any]":
        """Queues it; its outcome to be is what `Writes.commit` says or raises, or DatabaseAway."""
        item = Item(payload, AsyncResult())
        self._waiting[kind].append(item)
        self._start_draining()
        return item.outcome

    def _start_draining(self) -> None:
        if not self._draining and any(self._waiting.values()):
            self._draining = True
            in_background(self._drain)

    def _later(self, kind: Kind, payload: Payload, *, is_awaited: bool) -> None:
        """Writes in the background, after a while in which others may join unless it is awaited."""
        if is_awaited:
            writing = in_background(self._until_written, kind, [payload])
            self._background.add(writing)
            writing.join(ANSWER_SECONDS)
            return
        self._lingering[kind].append(payload)
        if len(self._lingering[kind]) == 1:
            self._background.add(in_background(self._linger, kind))

    def _linger(self, kind: Kind) -> None:
        self._hurry.wait(LINGER_SECONDS)
        payloads, self._lingering[kind] = self._lingering[kind], []
        self._until_written(kind, payloads)

    def _until_written(self, kind: Kind, payloads: Sequence[Payload]) -> None:
        end = time.monotonic() + PATIENCE_SECONDS[kind]
        for seconds in itertools.chain(RETRY_SECONDS, itertools.repeat(RETRY_SECONDS[-1])):
            payloads = self._still_away(kind, payloads)
            if not payloads:
                return
            if time.monotonic() + seconds > end:
                break
            gevent.sleep(seconds)
        gave_up = {"kind": kind.value, "calls": len(payloads), "alert": True}
        log.error("writer.gave_up", extra=gave_up)

    def _still_away(self, kind: Kind, payloads: Sequence[Payload]) -> list[Payload]:
        """Tries to write; those for which the database was away."""
        away = []
        outcomes = [self._put(kind, payload) for payload in payloads]
        for payload, outcome in zip(payloads, outcomes, strict=True):
            try:
                outcome.get()
            except DatabaseAway:
                away.append(payload)
            except Exception as error:
                fields = {"kind": kind.value, "alert": True}
                log.error("writer.refused", exc_info=error, extra=fields)
        return away

    def _drain(self) -> None:
        try:
            while any(self._waiting.values()):
                for kind, waiting in self._waiting.items():
                    group, self._waiting[kind] = waiting[:GROUP_SIZE], waiting[GROUP_SIZE:]
                    if group:
                        self._write(kind, group)
        finally:
            self._draining = False

    def _write(self, kind: Kind, group: Sequence[Item]) -> None:
        self._told_group(kind.value, len(group))
        self._deliver(group, self._commit(kind, [item.payload for item in group]))

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
            if self._writes.commit_at_once(kind, payloads):
                return [None for _ in payloads]
            self._writes.let_go()
            return on_thread(self._thread, self._writes.commit, kind, payloads)
        except Exception as error:
            if is_away(error):
                return [DatabaseAway() for _ in payloads]
            if len(payloads) == 1:
                return [error]
            log.warning("writer.group_split", extra={"error": type(error).__name__})
        half = len(payloads) // 2
        return [*self._commit(kind, payloads[:half]), *self._commit(kind, payloads[half:])]
