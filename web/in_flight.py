"""The requests that are being answered, so that a stopping process can end the last of them."""

import gevent

from web.errors import Stopping


class InFlight:
    """Greenlets that answer a request."""

    def __init__(self) -> None:
        self._greenlets: set[object] = set()

    def enter(self) -> None:
        """The current greenlet begins to answer a request."""
        self._greenlets.add(gevent.getcurrent())

    def leave(self) -> None:
        """The current greenlet has answered."""
        self._greenlets.discard(gevent.getcurrent())

    def interrupt(self) -> None:
        """Ends every request with the error object of a service that stops."""
        for greenlet in list(self._greenlets):
            if isinstance(greenlet, gevent.Greenlet):
                greenlet.kill(Stopping, block=False)
