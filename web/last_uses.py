"""When keys were last used: noted in sets and in the background, once a minute for each."""

import time
from uuid import UUID

from gateway.access import keys_admin
from web.fresh import REMEMBERED
from web.threads import Readers, in_background

EVERY_SECONDS = 60.0


class LastUses:
    """Writes which keys are in use. What a database that is away does not take is forgotten."""

    def __init__(self, readers: Readers) -> None:
        self._readers = readers
        self._noted: dict[UUID, float] = {}
        self._waiting: set[UUID] = set()
        self._writing = False

    def note(self, key_id: UUID) -> None:
        """Remembers that a key is in use; never waits."""
        now = time.monotonic()
        if now - self._noted.get(key_id, -EVERY_SECONDS) < EVERY_SECONDS:
            return
        if len(self._noted) >= REMEMBERED:
            self._noted.clear()
        self._noted[key_id] = now
        self._waiting.add(key_id)
        if not self._writing:
            self._writing = True
            in_background(self._write)

    def _write(self) -> None:
        try:
            while self._waiting:
                group, self._waiting = self._waiting, set()
                self._readers.run(keys_admin.note_uses, group)
        finally:
            self._writing = False
