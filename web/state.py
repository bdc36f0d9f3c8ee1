"""What one web process holds: the house, the writer, the readers, the bell."""

from dataclasses import dataclass

from flask import current_app

from gateway.house import House
from web.auth import KeyRing
from web.in_flight import InFlight
from web.shared_bell import SharedBell
from web.threads import Readers
from web.waiters import Waiters
from web.writer import Writer

EXTENSION = "offpeak"


@dataclass(frozen=True, slots=True)
class State:
    """The process's parts, for the views."""

    house: House
    writer: Writer
    readers: Readers
    waiters: Waiters
    keys: KeyRing
    bell: SharedBell
    in_flight: InFlight

    def close(self, timeout_seconds: float) -> None:
        """Waits for what is still to be written, then lets go of database and providers."""
        self.writer.drain(timeout_seconds)
        self.readers.close(timeout_seconds)
        self.waiters.close()
        self.house.close()


def state() -> State:
    """The parts behind the request that is being answered."""
    found: State = current_app.extensions[EXTENSION]
    return found
