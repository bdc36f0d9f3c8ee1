"""Every moment of a journey at which something may go wrong: each commit, each provider call.

No code of the house knows of it. The engine tells of each commit and the fake provider of each
call; a journey without a fault counts these moments, and then one is struck at a time.
"""

import threading
from collections.abc import Callable
from enum import StrEnum

from sqlalchemy import Connection, event
from sqlalchemy.exc import OperationalError

from gateway.providers.dialect import Ambiguous, Unavailable
from tests.integration.fake_dialect import Killed, Step, failing
from tests.integration.lane_world import World

CREATING = frozenset({"upload", "create"})


class Fault(StrEnum):
    """What happens at the moment that is struck."""

    REFUSED = "refused"
    """An error, and nothing was done."""
    UNHEARD = "unheard"
    """An error, and yet it was done: the reply was lost."""
    KILLED_BEFORE = "killed before"
    KILLED_AFTER = "killed after"
    TWICE = "twice"
    """It is stopped for longer than its lease; another worker does everything meanwhile."""


class Failpoints:
    """Counts the moments of a journey, and strikes at one of them.

    A process that was killed does nothing more: until `revive`, whatever it still tries to
    commit or to send, on the way out, is refused too.
    """

    def __init__(self, world: World, another: Callable[[], None]) -> None:
        self._world = world
        self._another = another
        self._lock = threading.Lock()
        self._fault: Fault | None = None
        self._at = 0
        self._dead = False
        self._resting = True
        self.passed = 0
        self.struck = False

    def arm(self, fault: Fault | None, at: int) -> None:
        """From here on moments are counted from 1; the fault strikes at number `at`."""
        self._fault, self._at = fault, at
        self.passed, self.struck, self._resting = 0, False, False

    def rest(self) -> None:
        """Nothing is counted any more, and whoever was killed is replaced."""
        self._resting, self._dead = True, False

    def listen(self) -> None:
        event.listen(self._world.engine, "commit", self._commits)
        self._world.dialect.whim = self._calls

    def _is_struck(self) -> bool:
        # Renewing leases is nobody's journey.
        if self._resting or threading.current_thread().name == "leases":
            return False
        with self._lock:
            self.passed += 1
            if self._fault is None or self.passed != self._at:
                return False
            self.struck = True
        return True

    def _commits(self, connection: Connection) -> None:
        if self._dead:
            raise Killed
        if not self._is_struck():
            return
        if self._fault not in (Fault.REFUSED, Fault.KILLED_BEFORE):
            # It takes effect; whoever asked for it never hears so.
            connection.connection.commit()
        if self._fault is Fault.TWICE:
            self._meanwhile()
        else:
            self._strike(OperationalError("COMMIT", {}, ConnectionError("cut off")))

    def _calls(self, operation: str) -> Step | None:
        if self._dead:
            return failing(Killed(), after=False)
        # Reading a line is no moment of its own: the commits around it are.
        if operation == "parse_line" or not self._is_struck():
            return None
        after = self._fault in (Fault.UNHEARD, Fault.KILLED_AFTER)
        if self._fault is Fault.TWICE:
            return Step(self._meanwhile, after=False)
        lost = Ambiguous("lost") if after and operation in CREATING else Unavailable("away")
        return Step(lambda: self._strike(lost), after=after)

    def _strike(self, error: Exception) -> None:
        if self._fault in (Fault.KILLED_BEFORE, Fault.KILLED_AFTER):
            self._dead = True
            raise Killed
        raise error

    def _meanwhile(self) -> None:
        self._resting = True
        self._another()
        self._resting = False
