"""Greenlets that stay for the next task.

A new greenlet maps memory for its Python frames and unmaps it at its end. With the page faults in
between, that takes longer than all else that is done to begin a task and to hear of its end.
"""

from collections.abc import Callable
from contextvars import Context

import gevent
from gevent.event import AsyncResult

MOST_IDLE = 256
"""Those that are more end with their task."""

Task = Callable[[], None]


class Hand:
    """One greenlet, for one task at a time. `is_free` hears when it may be given the next."""

    def __init__(self, is_free: Callable[["Hand"], bool]) -> None:
        self._is_free = is_free
        self._task: AsyncResult[Task] = AsyncResult()
        # A greenlet keeps a copy of the context that it was made in: here, a request's.
        self._greenlet = Context().run(gevent.spawn, self._work)

    def begin(self, task: Task) -> None:
        """Runs a task, which must let no exception out, from the event loop's next turn on."""
        self._task.set(task)

    def throw(self, error: Exception) -> None:
        """Raises an error where the task waits. Only the event loop itself may call it."""
        self._greenlet.throw(error)

    def _work(self) -> None:
        is_kept = True
        while is_kept:
            self._take()()
            is_kept = self._is_free(self)

    def _take(self) -> Task:
        task: Task | None = self._task.get()
        assert task is not None  # without a timeout it waits until there is one
        self._task = AsyncResult()
        return task


class Hands:
    """Those that are idle; who was busy last is taken first."""

    def __init__(self) -> None:
        self._idle: list[Hand] = []

    def begin(self, task: Task) -> Hand:
        """Runs a task; in whose hands it is."""
        hand = self._idle.pop() if self._idle else Hand(self._is_free)
        hand.begin(task)
        return hand

    def _is_free(self, hand: Hand) -> bool:
        """Keeps a hand, if there are not too many; whether it does."""
        if len(self._idle) >= MOST_IDLE:
            return False
        self._idle.append(hand)
        return True
