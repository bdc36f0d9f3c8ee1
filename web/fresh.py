"""Look-ups that are made with almost every request, each at most once in a moment."""

import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Hashable, Mapping
from typing import Generic, TypeVar

from gevent.event import AsyncResult

from web.threads import in_background

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

FRESH_SECONDS = 2.0
"""How long a look-up is believed: a revoked key is refused everywhere within this time."""
REMEMBERED = 10_000


class Fresh(Generic[K, V]):
    """Remembers what was found, but not that nothing was.

    `look_up` finds what there is under some keys. What is asked while it looks shares the next
    look, so that many callers who are due together cost one.
    """

    def __init__(self, look_up: Callable[[Collection[K]], Mapping[K, V]]) -> None:
        self._look_up = look_up
        self._found: OrderedDict[K, tuple[float, V]] = OrderedDict()
        self._awaited: dict[K, AsyncResult[V | None]] = {}
        self._is_looking = False

    def forget(self, key: K) -> None:
        """Looks up anew, the next time: this process has changed what there is."""
        self._found.pop(key, None)

    def get(self, key: K) -> V | None:
        """What is found under a key, now or in the last `FRESH_SECONDS`.

        Raises what `look_up` raises.
        """
        remembered = self._found.get(key)
        if remembered is not None and time.monotonic() - remembered[0] < FRESH_SECONDS:
            return remembered[1]
        awaited = self._awaited.setdefault(key, AsyncResult())
        if not self._is_looking:
            self._is_looking = True
            in_background(self._look)
        found: V | None = awaited.get()
        return found

    def _look(self) -> None:
        try:
            while self._awaited:
                group, self._awaited = self._awaited, {}
                self._look_for(group)
        finally:
            self._is_looking = False

    def _look_for(self, group: Mapping[K, "AsyncResult[V | None]"]) -> None:
        began = time.monotonic()
        try:
            found = self._look_up(list(group))
        except Exception as error:
            for awaited in group.values():
                awaited.set_exception(error)
            return
        for key, awaited in group.items():
            self._remember(key, found.get(key), began)
            awaited.set(found.get(key))

    def _remember(self, key: K, value: V | None, now: float) -> None:
        if value is None:
            self._found.pop(key, None)
            return
        self._found[key] = (now, value)
        self._found.move_to_end(key)
        if len(self._found) > REMEMBERED:
            self._found.popitem(last=False)
