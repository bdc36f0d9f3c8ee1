"""Look-ups that are made with almost every request, each at most once in a moment."""

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

FRESH_SECONDS = 2.0
"""How long a look-up is believed: a revoked key is refused everywhere within this time."""
REMEMBERED = 10_000


class Fresh(Generic[K, V]):
    """Remembers what was found, but not that nothing was."""

    def __init__(self, look_up: Callable[[K], V | None]) -> None:
        self._look_up = look_up
        self._found: OrderedDict[K, tuple[float, V]] = OrderedDict()

    def forget(self, key: K) -> None:
        """Looks up anew, the next time: this process has changed what there is."""
        self._found.pop(key, None)

    def get(self, key: K) -> V | None:
        """What is found under a key, now or in the last `FRESH_SECONDS`."""
        now = time.monotonic()
        remembered = self._found.get(key)
        if remembered is not None and now - remembered[0] < FRESH_SECONDS:
            return remembered[1]
        found = self._look_up(key)
        if found is None:
            self._found.pop(key, None)
            return None
        self._found[key] = (now, found)
        self._found.move_to_end(key)
        if len(self._found) > REMEMBERED:
            self._found.popitem(last=False)
        return found
