"""The request log: one narrow row a call or job that is over, kept by the day."""

from datetime import date, datetime, timedelta
from uuid import UUID

from sqlalchemy import SmallInteger
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, Nanos


class RequestLog(Base):
    """What was asked of whom, how it ended, what it took and what it cost; no texts.

    `created_at` is when it ended, by which the table is partitioned. `surface` is `sync` for a
    call that was answered at once, `async` for a job; `lane` is whose price it had. `model` is the
    provider's name for it. Tokens are zero where nobody counted them, `charged_nanos` and
    `cost_nanos` null where nothing was charged. `attempts` are tries at providers, or lines.
    `source` is what the caller calls the place that the call came from. Nothing reads it but
    people who look for something, so there is no index but the primary key.
    """

    __tablename__ = "request_log"
    __table_args__ = ({"postgresql_partition_by": "RANGE (created_at)"},)

    id: Mapped[UUID] = mapped_column(primary_key=True)
    created_at: Mapped[datetime] = mapped_column(primary_key=True)
    account_id: Mapped[UUID]
    key_id: Mapped[UUID]
    surface: Mapped[str]
    endpoint: Mapped[str]
    model: Mapped[str]
    provider: Mapped[str | None]
    lane: Mapped[str]
    http_status: Mapped[int] = mapped_column(SmallInteger)
    attempts: Mapped[int] = mapped_column(SmallInteger)
    input_uncached: Mapped[int]
    cache_read: Mapped[int]
    cache_write: Mapped[int]
    output: Mapped[int]
    reasoning: Mapped[int]
    charged_nanos: Mapped[int | None] = mapped_column(Nanos)
    cost_nanos: Mapped[int | None] = mapped_column(Nanos)
    latency_milliseconds: Mapped[int]
    first_token_milliseconds: Mapped[int | None]
    source: Mapped[str | None]


REQUEST_LOG_COLUMNS = tuple(column.name for column in RequestLog.__table__.columns)

REQUEST_LOG_DEFAULT = """
CREATE TABLE request_log_default PARTITION OF request_log DEFAULT
"""
"""Takes the rows of a day that nobody has made a partition for, so that none is ever refused."""


def partition_name(day: date) -> str:
    """The partition of a UTC day."""
    return f"request_log_{day:%Y%m%d}"


def create_partition(day: date) -> str:
    """SQL that makes the partition of a UTC day, if it is not there."""
    return (
        f"CREATE TABLE IF NOT EXISTS {partition_name(day)} PARTITION OF request_log "
        f"FOR VALUES FROM ('{day} 00:00:00+00') TO ('{day + timedelta(days=1)} 00:00:00+00')"
    )
