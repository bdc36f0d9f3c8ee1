"""One turn of the clock takes effect once, however many processes ring it.

A slot is the number of whole intervals since 1970 by the database's clock. Whoever writes the
row (task, slot) first rings; the others find it written. One process leads, which only saves the
others their work: where the leader is stopped or stuck, and slots go by, anybody takes them.
"""

import logging

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import SQLAlchemyError

from models.session import transaction
from schedulers.timetable import Entry
from workers.bell import Bell

log = logging.getLogger(__name__)

LEADER_LOCK = 0x6F66_6670_6561_6B02

SLOTS_WAITED = 2
"""How many slots a leader may leave untaken before the others take them."""

_SLOT = "floor(extract(epoch FROM clock_timestamp()) / :every)::bigint"
# A slot that lies ahead was taken before the clock was set back: from here on they come again.
_FORGET_WHAT_LIES_AHEAD = text(
    f"""
    DELETE FROM ticks WHERE task = :task AND slot >= {_SLOT}
      AND EXISTS (SELECT 1 FROM ticks WHERE task = :task AND slot > {_SLOT} + 1)
    """
)
_TAKE_SLOT = text(
    f"""
    INSERT INTO ticks (task, slot)
    SELECT :task, {_SLOT} WHERE :leads OR NOT EXISTS (
        SELECT 1 FROM ticks WHERE task = :task AND slot >= {_SLOT} - :waited)
    ON CONFLICT DO NOTHING RETURNING slot
    """
)


class Leadership:
    """An advisory lock on a connection of its own."""

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
            if self._connection is not None:
                self.resign()
            return False

    def resign(self) -> None:
        """Makes way for another process at once; the lock goes with its connection."""
        if self._connection is not None:
            self._connection.invalidate()
            self._connection.close()
            self._connection = None
            log.warning("scheduler.leads_no_more")

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


class Clock:
    """Rings the timetable's entries, each slot once."""

    def __init__(self, engine: Engine, leadership: Leadership, bell: Bell) -> None:
        self._engine = engine
        self._leadership = leadership
        self._bell = bell

    def tick(self, entry: Entry) -> bool:
        """Whether this process took the slot."""
        slot = {"task": entry.actor.value, "every": entry.every_seconds}
        leads = self._leadership.held()
        try:
            with transaction(self._engine) as session:
                session.execute(_FORGET_WHAT_LIES_AHEAD, slot)
                taken = session.execute(
                    _TAKE_SLOT, {**slot, "leads": leads, "waited": SLOTS_WAITED}
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
