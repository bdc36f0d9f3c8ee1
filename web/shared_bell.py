"""Rings that many requests share: what every call asks for has as much effect once."""

import gevent

from settings import Settings
from web.threads import in_background
from workers.bell import Actor, Bell

SOON_SECONDS = 0.5


class SharedBell(Bell):
    """A bell for one event loop."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._soon: set[Actor] = set()

    def ring_soon(self, actor: Actor) -> None:
        """Rings in a moment, in the background; who asks in the meantime shares that ring."""
        if actor not in self._soon:
            self._soon.add(actor)
            in_background(self._ring_for_all, actor)

    def _ring_for_all(self, actor: Actor) -> None:
        gevent.sleep(SOON_SECONDS)
        self._soon.discard(actor)
        self.ring(actor)
