"""What one web process holds: the house, the writer, the readers, the bell."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field

import httpx
from flask import current_app

from gateway.calls.record import CallRecord
from gateway.house import House
from web.auth import KeyRing, WidgetKeyRing
from web.in_flight import InFlight
from web.limits import Limiter
from web.metrics import DatabaseGauges, Metrics
from web.own_keys import OwnKeys
from web.pace import Pace
from web.request_log import RequestLog
from web.shared_bell import SharedBell
from web.threads import Readers
from web.waiters import Waiters
from web.writer import Writer

log = logging.getLogger(__name__)

EXTENSION = "offpeak"


@dataclass(frozen=True, slots=True)
class State:
    """The process's parts, for the views."""

    house: House
    writer: Writer
    readers: Readers
    waiters: Waiters
    keys: KeyRing
    widget_keys: WidgetKeyRing
    own_keys: OwnKeys
    bell: SharedBell
    in_flight: InFlight
    limiter: Limiter
    metrics: Metrics
    gauges: DatabaseGauges
    request_log: RequestLog
    webhook_transport: httpx.BaseTransport
    pace: Pace = field(default_factory=Pace)
    observers: list[Callable[[CallRecord], None]] = field(default_factory=list)

    def observe(self, record: CallRecord) -> None:
        """Tells everyone who wants to know that a synchronous call is over.

        Called after the answer. An observer that fails is logged and costs nobody their answer.
        """
        for observer in self.observers:
            try:
                observer(record)
            except Exception as error:
                log.error("observer.failed", exc_info=error)

    def close(self, timeout_seconds: float) -> None:
        """Waits for what is still to be written, then lets go of database and providers."""
        self.writer.drain(timeout_seconds)
        self.request_log.close(timeout_seconds)
        self.readers.close(timeout_seconds)
        self.waiters.close()
        self.house.close()


def state() -> State:
    """The parts behind the request that is being answered."""
    found: State = current_app.extensions[EXTENSION]
    return found
