"""The work that requests wait for, so that a stopping process can end the last of it."""

from collections.abc import Callable
from typing import Any, Generic, TypeVar

import gevent
from gevent import Greenlet
from gevent.event import Event

from web.errors import Stopping
from web.hands import Hands

T = TypeVar("T")


class InFlight:
    """Greenlets that answer a request, and what else is done for one."""

    def __init__(self) -> None:
        self.hands = Hands()
        self._greenlets: set[object] = set()
        self._works: set[Work[Any]] = set()

    def enter(self) -> None:
        """The current greenlet begins to answer a request."""
        self._greenlets.add(gevent.getcurrent())

    def leave(self) -> None:
        """The current greenlet has answered, or waits for a work to be interrupted in its place."""
        self._greenlets.discard(gevent.getcurrent())

    def work_began(self, work: "Work[Any]") -> None:
        """A work is done for a request, and may go on after it."""
        self._works.add(work)

    def work_ended(self, work: "Work[Any]") -> None:
        """It is over."""
        self._works.discard(work)

    def interrupt(self) -> None:
        """Ends every request with the error object of a service that stops."""
        for greenlet in list(self._greenlets):
            if isinstance(greenlet, Greenlet):
                greenlet.kill(Stopping, block=False)
        for work in list(self._works):
            work.end(Stopping())

    def finish(self, timeout_seconds: float) -> None:
        """Waits for the works that nobody waits for any more."""
        gevent.wait([work.over for work in self._works], timeout_seconds)


class Work(Generic[T]):
    """A function that runs in a greenlet of its own, whose outcome may be waited for or not.

    `over` is set once it is over, however that came, and then `when_over` is called; it must not
    wait for anything.
    """

    def __init__(
        self,
        in_flight: InFlight,
        function: Callable[[], T],
        when_over: Callable[[], None] = lambda: None,
    ) -> None:
        self.over = Event()
        self._in_flight = in_flight
        self._function = function
        self._when_over = when_over
        self._result: T | None = None
        # Stands if the greenlet is ended by what is no error.
        self._error: Exception | None = Stopping()
        self._ended_by: Exception | None = None
        in_flight.work_began(self)
        in_flight.leave()
        self._hand = in_flight.hands.begin(self._run)

    def is_over(self, timeout_seconds: float) -> bool:
        """Waits for the end; whether it has come by then."""
        return self.over.wait(timeout_seconds)

    @property
    def error(self) -> Exception | None:
        """What the function raised; to be asked once it is over."""
        return self._error

    def result(self) -> T:
        """What the function returned; raises what it raised. To be asked once it is over."""
        if self._error is not None:
            raise self._error
        result: T = self._result  # type: ignore[assignment]  # it is there, or there is an error
        return result

    def end(self, error: Exception) -> None:
        """Raises an error in the function, wherever it waits; or in its place, before it began."""
        self._ended_by = error
        gevent.get_hub().loop.run_callback(self._throw, error)

    def _throw(self, error: Exception) -> None:
        # Its greenlet may have another task by now.
        if not self.over.is_set():
            self._hand.throw(error)

    def _run(self) -> None:
        try:
            if self._ended_by is not None:
                raise self._ended_by
            self._result = self._function()
            self._error = None
        except Exception as error:
            self._error = error
        finally:
            self._in_flight.work_ended(self)
            self.over.set()
            self._when_over()
