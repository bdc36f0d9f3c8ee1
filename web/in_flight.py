"""The work that requests wait for, so that a stopping process can end the last of it."""

from collections.abc import Callable
from typing import Any, Generic, TypeVar

import gevent
from gevent import Greenlet

from web.errors import Stopping

T = TypeVar("T")


class InFlight:
    """Greenlets that answer a request, or work for one."""

    def __init__(self) -> None:
        self._greenlets: set[object] = set()
        self._works: set[Greenlet[Any, Any]] = set()

    def enter(self) -> None:
        """The current greenlet begins to answer a request."""
        self._greenlets.add(gevent.getcurrent())

    def leave(self) -> None:
        """The current greenlet has answered, or waits for a work to be interrupted in its place."""
        self._greenlets.discard(gevent.getcurrent())

    def work_began(self, work: "Greenlet[Any, Any]") -> None:
        """A greenlet works for a request, and may go on after it."""
        self._works.add(work)
        work.rawlink(self._works.discard)

    def interrupt(self) -> None:
        """Ends every request with the error object of a service that stops."""
        for greenlet in [*self._greenlets, *self._works]:
            if isinstance(greenlet, Greenlet):
                greenlet.kill(Stopping, block=False)

    def finish(self, timeout_seconds: float) -> None:
        """Waits for the works that nobody waits for any more."""
        gevent.joinall(list(self._works), timeout_seconds)


class Work(Generic[T]):
    """A function that runs in a greenlet of its own, whose outcome may be waited for or not.

    `when_over` is called once it is over, however that came; it must not wait for anything.
    """

    def __init__(
        self,
        in_flight: InFlight,
        function: Callable[[], T],
        when_over: Callable[[], None] | None = None,
    ) -> None:
        self._function = function
        self._result: T | None = None
        # Stands if the greenlet is ended before it ever began.
        self._error: Exception | None = Stopping()
        self._greenlet = gevent.spawn(self._run)
        if when_over is not None:
            self._greenlet.rawlink(lambda _: when_over())
        in_flight.work_began(self._greenlet)
        in_flight.leave()

    def is_over(self, timeout_seconds: float) -> bool:
        """Waits for the end; whether it has come by then."""
        self._greenlet.join(timeout_seconds)
        return self._greenlet.ready()

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
        """Raises an error in the function, wherever it waits."""
        self._greenlet.kill(error, block=False)

    def _run(self) -> None:
        try:
            self._result = self._function()
            self._error = None
        except Exception as error:
            # gevent would write its traceback to stderr.
            self._error = error
