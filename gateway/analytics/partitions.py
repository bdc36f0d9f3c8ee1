"""The days of the request log: partitions are made ahead, and dropped when they are old."""

import logging
import re
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta

from sqlalchemy import Connection, Engine, text

from models.requests import create_partition, partition_name

log = logging.getLogger(__name__)

DAYS_AHEAD = 7
LOG_DAYS = 90
"""How long the rows of the request log are kept."""
AT_ONCE = 10_000

_NAME = re.compile(r"request_log_(\d{8})")
_PARTITIONS = text(
    "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'request_log'::regclass"
)
_BY_DEFAULT = text(
    """
    SELECT EXISTS (
        SELECT 1 FROM request_log_default WHERE created_at >= :begin AND created_at < :end)
    """
)
_OLD_BY_DEFAULT = text(
    f"""
    DELETE FROM request_log_default WHERE (id, created_at) IN (
        SELECT id, created_at FROM request_log_default
        WHERE created_at < now() - interval '{LOG_DAYS} days' LIMIT {AT_ONCE})
    """
)


def keep(engine: Engine, today: date | None = None) -> tuple[int, int]:
    """Makes the partitions from today on, drops the old ones; how many of each.

    Each in a transaction of its own, for each locks the whole log for a moment. What cannot have
    its lock within a second gives way, and is done the next time.
    """
    today = today or datetime.now(UTC).date()
    with engine.connect() as connection:
        connection.execute(text("SET lock_timeout = '1s'"))
        try:
            known = set(connection.scalars(_PARTITIONS))
            connection.commit()
            made = sum(
                _make(connection, day)
                for day in (today + timedelta(days=ahead) for ahead in range(DAYS_AHEAD + 1))
                if partition_name(day) not in known
            )
            dropped = [_drop(connection, name) for name in _older(known, today)]
            connection.execute(_OLD_BY_DEFAULT)
            connection.commit()
        finally:
            connection.rollback()
            connection.execute(text("RESET lock_timeout"))
            connection.commit()
    return made, len(dropped)


def _make(connection: Connection, day: date) -> bool:
    """Whether the day has a new partition. Rows that came before it stay where they are."""
    begin = datetime(day.year, day.month, day.day, tzinfo=UTC)
    between = {"begin": begin, "end": begin + timedelta(days=1)}
    if connection.execute(_BY_DEFAULT, between).scalar_one():
        connection.rollback()
        return False
    connection.execute(text(create_partition(day)))
    connection.commit()
    return True


def _older(names: set[str], today: date) -> Iterator[str]:
    """The partitions whose last row is too old."""
    for name in sorted(names):
        match = _NAME.fullmatch(name)
        if match and datetime.strptime(match[1], "%Y%m%d").date() < today - timedelta(
            days=LOG_DAYS
        ):
            yield name


def _drop(connection: Connection, name: str) -> str:
    connection.execute(text(f"DROP TABLE {name}"))
    connection.commit()
    log.info("request_log.dropped", extra={"partition": name})
    return name
