"""Deadlines: a job that is not done in time expires, and its hold is released."""

from sqlalchemy import Engine, text

from gateway.lanes import cancellation, endings
from models.session import transaction

AT_ONCE = 500

_OVERDUE = text(
    f"""
    SELECT id, batch_id FROM jobs WHERE deadline_at <= now() AND completed_at IS NULL
    ORDER BY deadline_at LIMIT {AT_ONCE} FOR UPDATE SKIP LOCKED
    """
)


def expire_overdue(engine: Engine) -> int:
    """Expires what is overdue, a set at a time; how many jobs that were."""
    total = 0
    while True:
        with transaction(engine) as session:
            overdue = session.execute(_OVERDUE).all()
            cancellation.left(session, {job.batch_id for job in overdue} - {None})
            endings.finish(session, [endings.expired(job.id) for job in overdue])
        if not overdue:
            return total
        endings.announce(engine)
        total += len(overdue)
