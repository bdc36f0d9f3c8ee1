"""One turn of the clock takes effect once, however many processes ring it.

A slot is the number of whole intervals since 1970 by the database's clock. Whoever writes the
row (task, slot) first rings; the others find it written.
"""

import logging

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import SQLAlchemyError

from models.session import transaction
from schedulers.timetable import Entry
from workers.bell import Bell

log = logging.getLogger(__name__)

LEADER_LOCK = 0x6F66_6670_6561_6B02

_TAKE_SLOT = text(
    """
    INSERT INTO ticks (task, slot)
    VALUES (:task, floor(extract(epoch FROM now()) / :every)::bigint)
    ON CONFLICT DO NOTHING RETURNING slot
    """
)


class Leadership:
    """An advisory lock on a connection of its own; it only saves the others their work."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._connection: Connection | None = None

    def held(self) -> bool:
        """Whether this process leads now; tries to if nobody does."""
        try:
            if self._connection is not None:
                self._connection.execute(text("SELECT 1"))
                self._connection.rollback()
                return True
            return self._try_lock()
        except SQLAlchemyError:
            self._drop()
            return False

    def _try_lock(self) -> bool:
        connection = self._engine.connect()
        led = connection.execute(
            text("SELECT pg_try_advisory_lock(:lock)"), {"lock": LEADER_LOCK}
        ).scalar_one()
        connection.rollback()
        if led:
            self._connection = connection
            log.info("scheduler.leads")
        else:
            connection.close()
        return bool(led)

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.invalidate()
            self._connection.close()
            self._connection = None
            log.warning("scheduler.leads_no_more")


class Clock:
    """Rings the timetable's entries, each slot once."""

    def __init__(self, engine: Engine, leadership: Leadership, bell: Bell) -> None:
        self._engine = engine
        self._leadership = leadership
        self._bell = bell

    def tick(self, entry: Entry) -> bool:
        """Whether this process took the slot."""
        if not self._leadership.held():
            return False
        try:
            with transaction(self._engine) as session:
                taken = session.execute(
                    _TAKE_SLOT, {"task": entry.actor.value, "every": entry.every_seconds}
                ).first()
        except SQLAlchemyError as error:
            log.warning(
                "tick.database_away", extra={"task": entry.actor, "error": type(error).__name__}
            )
            return False
        if taken is None:
            return False
        self._bell.ring(entry.actor)
        return True
