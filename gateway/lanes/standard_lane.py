"""The threads of the standard lane: so many calls at once, and no more, whatever is due.

Each thread holds a database connection only to write down what came of its call, so that a storm
of deadlines needs no more of them than anything else.
"""

import logging
import threading
import time
from collections.abc import Callable

from sqlalchemy.exc import SQLAlchemyError

from gateway.billing.pricing import PriceBook
from gateway.lanes import runs, standard
from gateway.lanes.leases import RENEWAL_SECONDS
from gateway.lanes.runs import Run
from gateway.lanes.standard import Ask
from gateway.lanes.works import Works
from models.session import transaction

log = logging.getLogger(__name__)

AT_ONCE = 32
CLOSE_SECONDS = 15.0


class StandardLane:
    """Makes the calls of due runs. One a process; safe to call from any thread.

    `answered` is called after each run, for whoever delivers what it led to.
    """

    def __init__(
        self,
        works: Works,
        prices: PriceBook,
        ask: Ask,
        *,
        answered: Callable[[], object],
        at_once: int = AT_ONCE,
    ) -> None:
        self._works = works
        self._prices = prices
        self._ask = ask
        self._answered = answered
        self._at_once = at_once
        self._claiming = threading.Lock()
        self._state = threading.Condition()
        self._in_flight: set[Run] = set()
        self._renewer: threading.Thread | None = None
        self._closed = False

    def start_due(self) -> int:
        """Starts as many due runs as there is room for; each that ends makes room for the next."""
        with self._claiming:
            with self._state:
                room = 0 if self._closed else self._at_once - len(self._in_flight)
            if room <= 0:
                return 0
            with transaction(self._works.engine) as session:
                claimed = runs.claim(session, room)
            with self._state:
                self._in_flight.update(claimed)
        if claimed:
            self._renew_from_now_on()
        for run in claimed:
            threading.Thread(
                target=self._run, args=(run,), name="standard-call", daemon=True
            ).start()
        return len(claimed)

    def close(self, timeout_seconds: float = CLOSE_SECONDS) -> bool:
        """Starts nothing more; whether all that is in flight ended in time.

        What did not is made again by another worker, when its lease has ended.
        """
        with self._state:
            self._closed = True
        # Whoever is claiming has its runs in flight once it is done.
        with self._claiming, self._state:
            is_done = self._state.wait_for(lambda: not self._in_flight, timeout_seconds)
            if timeout_seconds and not is_done:
                log.warning("runs.left_behind", extra={"runs": len(self._in_flight)})
            return is_done

    def _run(self, run: Run) -> None:
        try:
            standard.perform(self._works, self._prices, self._ask, run)
        except Exception as error:
            # Nothing was recorded: the run is due again when its lease ends, and an answer is lost.
            fields = {"job_id": str(run.job_id), "alert": True}
            log.error("run.broke_off", exc_info=error, extra=fields)
        finally:
            with self._state:
                self._in_flight.discard(run)
                self._state.notify_all()
        self._answered()
        self._start_next()

    def _start_next(self) -> None:
        try:
            self.start_due()
        except SQLAlchemyError as error:
            # The next ring starts what is due.
            log.warning("runs.not_claimed", extra={"error": type(error).__name__})

    def _renew_from_now_on(self) -> None:
        with self._state:
            if self._renewer is None:
                self._renewer = threading.Thread(target=self._renew, name="run-leases", daemon=True)
                self._renewer.start()

    def _renew(self) -> None:
        while True:
            time.sleep(RENEWAL_SECONDS)
            with self._state:
                held = list(self._in_flight)
            if not held:
                continue
            try:
                with transaction(self._works.engine) as session:
                    runs.renew(session, held)
            except SQLAlchemyError:
                # The next round tries again; a run whose lease ends meanwhile finds out by itself.
                log.warning("runs.not_renewed")
