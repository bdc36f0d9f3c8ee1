"""Isolation: a batch whose workers die of it is divided, until the call at fault is alone and ends.

A worker that dies gives no lease back, which the next claim counts. What died with it may have
been innocent, so a batch of many lines is divided into smaller ones, and only a call that is
alone in its batch fails.
"""

import logging
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from gateway.lanes import endings, leases
from gateway.lanes.endings import Ending
from gateway.lanes.leases import Claim
from models import ids

log = logging.getLogger(__name__)

CRASHES_TO_DIVIDE = 2
CRASHES_AT_MOST = 4
"""After so many deaths a call that is alone fails: others can hardly be the cause."""
CRASHES_AT_RESULTS = 10
"""After so many deaths the rest of a batch's results is given up: its calls run again, and what the
provider charged for them is not known. More patience than for calls, for it costs the house."""
PARTS = 10
FATAL = "The gateway failed at this call again and again."

_LOCK_JOBS = text(
    """
    SELECT jobs.id FROM jobs JOIN lines ON lines.job_id = jobs.id
    WHERE lines.batch_id = :batch_id AND lines.status = 'open' ORDER BY jobs.id FOR UPDATE OF jobs
    """
)
_DIVIDE = text(
    """
    WITH divided AS (
        SELECT job_id, (CAST(:parts AS uuid[]))[ntile(:count) OVER (ORDER BY job_id)] AS part
        FROM lines WHERE batch_id = :batch_id AND status = 'open'
    ), moved AS (
        UPDATE lines SET batch_id = part FROM divided
        WHERE lines.batch_id = :batch_id AND lines.status = 'open'
          AND lines.job_id = divided.job_id
    ), followed AS (
        UPDATE jobs SET batch_id = part FROM divided
        WHERE jobs.id = divided.job_id AND jobs.batch_id = :batch_id
    )
    INSERT INTO provider_batches (id, lane_id, status, request_count, body_bytes)
    SELECT part, max(whole.lane_id), 'formed', count(*), sum(jobs.body_bytes)
    FROM divided JOIN jobs ON jobs.id = divided.job_id
    CROSS JOIN (SELECT lane_id FROM provider_batches WHERE id = :batch_id) AS whole
    GROUP BY part
    """
)
_FAIL_LINES = text(
    "UPDATE lines SET status = 'failed' WHERE batch_id = :batch_id AND status = 'open' "
    "RETURNING job_id"
)
_DONE = text(
    "UPDATE provider_batches SET status = 'done', done_at = now(), leased_until = NULL, "
    "last_error = 'its workers died of it' WHERE id = :batch_id"
)


def isolate(session: Session, claim: Claim) -> list[Ending] | None:
    """Divides a batch that is not at its provider yet, or fails its only call.

    None if the batch has not killed often enough for that; else it is done with, and the caller
    finishes with the endings.
    """
    if claim.crashes < CRASHES_TO_DIVIDE:
        return None
    leases.fence(session, claim)
    lines = len(session.execute(_LOCK_JOBS, {"batch_id": claim.batch_id}).all())
    if lines <= 1 and claim.crashes < CRASHES_AT_MOST:
        return None
    log.error(
        "batch.kills_workers",
        extra={"batch_id": str(claim.batch_id), "lines": lines, "alert": True},
    )
    failed: list[UUID] = []
    if lines > 1:
        parts = [ids.new() for _ in range(min(PARTS, lines))]
        session.execute(_DIVIDE, {"batch_id": claim.batch_id, "parts": parts, "count": len(parts)})
    else:
        failed = list(session.scalars(_FAIL_LINES, {"batch_id": claim.batch_id}))
    session.execute(_DONE, {"batch_id": claim.batch_id})
    return [endings.exhausted(job_id, FATAL) for job_id in failed]
