"""The timetable goes on when this machine's clock is set back.

APScheduler sleeps until a time of day. Where that time comes again it would be silent for as
long as the clock was set back, so the difference between the wall clock and the steady one is
watched, and every task is made due when it shrinks.
"""

import time
from collections.abc import Callable
from datetime import UTC, datetime

from apscheduler.schedulers.base import BaseScheduler

LOOK_SECONDS = 1.0
STEP_SECONDS = 1.0
"""A clock that is only being slewed loses far less between two looks."""


class Winder:
    """Winds a scheduler's tasks up again. `wall` and `steady` are in seconds."""

    def __init__(
        self,
        scheduler: BaseScheduler,
        wall: Callable[[], float] = time.time,
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        self._scheduler = scheduler
        self._wall = wall
        self._steady = steady
        self._ahead = wall() - steady()

    def look(self) -> bool:
        """To be called every second; whether the clock was set back since the last time."""
        before, self._ahead = self._ahead, self._wall() - self._steady()
        if self._ahead > before - STEP_SECONDS:
            return False
        now = datetime.fromtimestamp(self._wall(), UTC)
        for job in self._scheduler.get_jobs():
            job.modify(next_run_time=now)
        return True
