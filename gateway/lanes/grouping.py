"""Cutting lanes: queued jobs become the lines of provider batches."""

from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import select, text
from sqlalchemy.orm import Session

from gateway.lanes.cutting import LaneLoad, Waiting, cut, is_ripe
from gateway.lanes.works import Works
from gateway.providers.dialect import BatchLimits
from models import ids
from models.batches import Lane, Line, ProviderBatch
from models.bulk import copy_rows
from models.session import transaction
from models.states import BatchStatus, LineState


class _Job(NamedTuple):
    """A waiting job, locked, with the round that its next line will have."""

    waiting: Waiting
    round: int


_WAITS = "lane_id = :lane_id AND status = 'queued' AND batch_id IS NULL AND completed_at IS NULL"
_LANES_IN_USE = text(
    """
    SELECT id FROM lanes
    WHERE EXISTS (SELECT FROM jobs WHERE lane_id = lanes.id AND batch_id IS NULL
                                     AND completed_at IS NULL)
    ORDER BY id
    """
)
_LOAD = text(
    f"""
    SELECT count(*) AS requests, coalesce(sum(body_bytes), 0) AS bytes,
           min(created_at) AS oldest_at, min(deadline_at) AS nearest_deadline_at, now() AS now
    FROM (
        SELECT body_bytes, created_at, deadline_at FROM jobs
        WHERE {_WAITS}
        LIMIT :enough
    ) AS waiting
    """
)

# Accounts take turns: the first job of each, then the second of each, and so on. The recursive
# part walks from account to account in the index, so an account's backlog is not read for it.
_WAITING = text(
    f"""
    WITH RECURSIVE waiting_accounts AS (
        (SELECT account_id FROM jobs
         WHERE {_WAITS}
         ORDER BY account_id LIMIT 1)
        UNION ALL
        SELECT (SELECT account_id FROM jobs
                WHERE {_WAITS}
                  AND account_id > previous.account_id
                ORDER BY account_id LIMIT 1)
        FROM waiting_accounts AS previous WHERE previous.account_id IS NOT NULL
    )
    SELECT job.id, job.body_bytes, job.embedding_inputs, job.round
    FROM waiting_accounts CROSS JOIN LATERAL (
        SELECT id, body_bytes, embedding_inputs, round, row_number() OVER (ORDER BY id) AS turn
        FROM jobs
        WHERE {_WAITS}
          AND account_id = waiting_accounts.account_id
        ORDER BY id LIMIT :limit
    ) AS job
    ORDER BY job.turn, job.id LIMIT :limit
    """
)
# A statement of its own: the planner cannot know how many rows wait, and joining the reading to
# the locking it takes a loop within a loop.
_LOCK = text(
    """
    SELECT id FROM jobs
    WHERE id = ANY(:job_ids) AND status = 'queued' AND batch_id IS NULL
    FOR UPDATE SKIP LOCKED
    """
)
_ASSIGN = text(
    """
    UPDATE jobs SET batch_id = lines.batch_id, round = lines.round
    FROM lines WHERE lines.batch_id = :batch_id AND lines.job_id = jobs.id
    """
)


def lane_ids(session: Session) -> list[int]:
    """The lanes that jobs wait in; one look into an index for each that there is."""
    return list(session.scalars(_LANES_IN_USE))


def cut_lane(works: Works, lane_id: int) -> list[UUID]:
    """Cuts a lane whole if it is ripe; the provider batches to submit now.

    Each provider batch is a transaction of its own, so a lane of any length is cut in bounded
    time and memory, and what was cut stays cut.
    """
    formed: list[UUID] = []
    # What came in after this moment is not waited for: the lane is as ripe as when we looked.
    began: datetime | None = None
    while True:
        with transaction(works.engine) as session:
            lane = session.scalars(
                select(Lane).where(Lane.id == lane_id).with_for_update(skip_locked=True)
            ).first()
            if lane is None or lane.provider not in works.dialects:
                return formed
            limits = works.policy.within(works.dialects[lane.provider].limits)
            load, now = _load(session, lane_id, limits, works)
            if load is None:
                return formed
            if not is_ripe(load, limits, works.policy, now) and (
                began is None or load.oldest_at > began
            ):
                return formed
            began = began or now
            batch_id = _form(session, lane_id, limits)
            if batch_id is None:
                return formed
            formed.append(batch_id)


def _load(
    session: Session, lane_id: int, limits: BatchLimits, works: Works
) -> tuple[LaneLoad | None, datetime]:
    # Once the lane is ripe by count, nothing further down the index matters.
    enough = min(works.policy.ripe_requests, limits.requests)
    row = session.execute(_LOAD, {"lane_id": lane_id, "enough": enough}).one()
    if not row.requests:
        return None, row.now
    load = LaneLoad(row.requests, int(row.bytes), row.oldest_at, row.nearest_deadline_at)
    return load, row.now


def _form(session: Session, lane_id: int, limits: BatchLimits) -> UUID | None:
    """One provider batch from the head of the lane, fair between accounts."""
    rows = session.execute(_WAITING, {"lane_id": lane_id, "limit": limits.requests}).all()
    locked = set(session.scalars(_LOCK, {"job_ids": [row.id for row in rows]}))
    jobs = {
        row.id: _Job(Waiting(row.id, row.body_bytes, row.embedding_inputs), row.round)
        for row in rows
        if row.id in locked
    }
    batch = next(cut((job.waiting for job in jobs.values()), limits), None)
    if batch is None:
        return None
    batch_id = ids.new()
    session.add(
        ProviderBatch(
            id=batch_id,
            lane_id=lane_id,
            status=BatchStatus.FORMED,
            request_count=len(batch),
            body_bytes=sum(job.body_bytes for job in batch),
        )
    )
    session.flush()
    copy_rows(
        session,
        Line,
        ("job_id", "round", "batch_id", "status"),
        ((job.job_id, jobs[job.job_id].round + 1, batch_id, LineState.OPEN.value) for job in batch),
    )
    session.execute(_ASSIGN, {"batch_id": batch_id})
    return batch_id
