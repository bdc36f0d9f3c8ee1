"""The file of a provider batch, written to disk before anything is sent."""

import logging
from pathlib import Path
from uuid import UUID

import orjson
from sqlalchemy import Engine, text

from gateway.lanes.records import BatchRecord, Target, custom_id
from models.bulk import cursor
from models.session import transaction

log = logging.getLogger(__name__)

_SPOOL = """
    COPY (
        SELECT lines.job_id, lines.round, job_bodies.body
        FROM lines JOIN job_bodies USING (job_id)
        WHERE lines.batch_id = %s AND lines.status = 'open'
        ORDER BY lines.job_id
    ) TO STDOUT (FORMAT BINARY)
"""


def write(engine: Engine, batch: BatchRecord, target: Target, spool: Path) -> list[UUID]:
    """Writes the provider's lines, a row at a time: memory does not grow with the batch.

    Returns the jobs whose calls could not be written; the file is of use only if there are none.
    """
    framing = target.dialect.framing
    unwritable: list[UUID] = []
    with transaction(engine) as session, spool.open("wb") as out:
        session.execute(text("SET LOCAL statement_timeout = '10min'"))
        out.write(framing.opening)
        separator = b""
        with cursor(session) as driver_cursor, driver_cursor.copy(_SPOOL, [batch.id]) as copy:
            copy.set_types(["uuid", "int2", "bytea"])
            for job_id, round_number, body in copy.rows():
                line = _encode(target, job_id, round_number, body)
                if line is None:
                    unwritable.append(job_id)
                    continue
                out.write(separator + line)
                separator = framing.separator
        out.write(framing.closing)
    return unwritable


def _encode(target: Target, job_id: UUID, round_number: int, body: bytes) -> bytes | None:
    """One line; None if the dialect fails at it, which must not hold up the other lines."""
    try:
        return target.dialect.encode_line(
            custom_id(job_id, round_number), target.endpoint, target.model, orjson.loads(body)
        )
    except Exception as error:
        # Intake let through what the dialect cannot say: a fault of ours, whatever its class. Its
        # text may quote the call, so only its class is told.
        log.error(
            "line.not_writable",
            extra={"job_id": str(job_id), "error": type(error).__name__, "alert": True},
        )
        return None
