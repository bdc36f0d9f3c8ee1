"""Room for long pieces of work, so that short ones always find a thread."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

PAUSE_SECONDS = 1.0


class Room:
    """So many places. Who finds none is turned away, and is not left to the next sweep:

    when a place is free again `ask_again` is called, though once a `pause_seconds` at most, for
    it may bring many back of whom most are turned away once more.
    """

    def __init__(
        self,
        places: int,
        ask_again: Callable[[], object],
        *,
        pause_seconds: float = PAUSE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._places = places
        self._ask_again = ask_again
        self._pause_seconds = pause_seconds
        self._clock = clock
        self._turned_away = False
        self._asked_at = -pause_seconds
        self._lock = threading.Lock()

    @contextmanager
    def place(self) -> Iterator[bool]:
        """Whether there was a place; it is taken while the block runs."""
        if not self._enter():
            yield False
            return
        try:
            yield True
        finally:
            if self._leave():
                self._ask_again()

    def _enter(self) -> bool:
        with self._lock:
            has_place = self._places > 0
            self._places -= has_place
            self._turned_away |= not has_place
            return has_place

    def _leave(self) -> bool:
        """Whether it is time to ask again."""
        with self._lock:
            self._places += 1
            now = self._clock()
            if not self._turned_away or now - self._asked_at < self._pause_seconds:
                return False
            self._turned_away, self._asked_at = False, now
            return True
