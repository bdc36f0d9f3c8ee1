"""What time takes away: texts, idempotency keys, holds of dead processes, money in suspense.

Each function takes a bounded set per transaction and says how much it found.
"""

import logging

from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from gateway.access import credentials
from gateway.billing import ledger, suspense
from models.session import transaction

log = logging.getLogger(__name__)

AT_ONCE = 1000
KEY_DAYS = 7
SUSPENSE_DAYS = 30
TICK_DAYS = 2

_OLD_TEXTS = text(
    f"""
    SELECT id FROM jobs
    WHERE completed_at IS NOT NULL AND NOT texts_deleted
      AND completed_at < now() - make_interval(days => :days)
    ORDER BY completed_at LIMIT {AT_ONCE} FOR UPDATE SKIP LOCKED
    """
)
_DELETE_BODIES = text("DELETE FROM job_bodies WHERE job_id = ANY(:job_ids)")
_DELETE_RESULTS = text("DELETE FROM job_results WHERE job_id = ANY(:job_ids)")
_MARK_DELETED = text("UPDATE jobs SET texts_deleted = true WHERE id = ANY(:job_ids)")
_EXPIRED_HOLDS = text(
    f"""
    SELECT id FROM holds WHERE status = 'open' AND expires_at <= now()
    ORDER BY expires_at LIMIT {AT_ONCE}
    """
)
_FREE_KEYS = text(
    "DELETE FROM idempotency_keys WHERE hold_id = ANY(:hold_ids) AND response IS NULL"
)
_OLD_KEYS = text(
    f"""
    DELETE FROM idempotency_keys WHERE (account_id, key) IN (
        SELECT account_id, key FROM idempotency_keys
        WHERE created_at < now() - interval '{KEY_DAYS} days' AND response IS NOT NULL
        ORDER BY created_at LIMIT {AT_ONCE})
    """
)
_OLD_TICKS = text(f"DELETE FROM ticks WHERE created_at < now() - interval '{TICK_DAYS} days'")
_OLD_SUSPENSE = text(
    f"""
    SELECT id FROM settlements
    WHERE unpriced AND created_at < now() - interval '{SUSPENSE_DAYS} days'
      AND NOT EXISTS (
          SELECT 1 FROM transfers
          WHERE hold_id = settlements.id AND kind = 'suspense_return')
    ORDER BY created_at LIMIT {AT_ONCE}
    """
)


def delete_texts(session: Session, job_ids: list[object]) -> None:
    """Removes what was said and answered in final jobs; their rows and their bill stay."""
    session.execute(_DELETE_BODIES, {"job_ids": job_ids})
    session.execute(_DELETE_RESULTS, {"job_ids": job_ids})
    session.execute(_MARK_DELETED, {"job_ids": job_ids})


def delete_old_texts(engine: Engine, retention_days: int) -> int:
    """Removes the texts of jobs that ended longer ago than the retention."""
    with transaction(engine) as session:
        job_ids = list(session.scalars(_OLD_TEXTS, {"days": retention_days}))
        if job_ids:
            delete_texts(session, job_ids)
    return len(job_ids)


def release_expired_holds(engine: Engine) -> int:
    """Releases what dead processes held for synchronous calls, and frees their keys.

    Their providers may bill them nevertheless, so the log tells of it.
    """
    with transaction(engine) as session:
        hold_ids = list(session.scalars(_EXPIRED_HOLDS))
        released = ledger.void(session, hold_ids)
        if hold_ids:
            session.execute(_FREE_KEYS, {"hold_ids": hold_ids})
    if released:
        log.warning("holds.released", extra={"holds": len(released)})
    return len(hold_ids)


def return_old_suspense(engine: Engine) -> int:
    """Gives back what was held for calls whose usage nobody ever reported."""
    with transaction(engine) as session:
        hold_ids = list(session.scalars(_OLD_SUSPENSE))
        suspense.give_back(session, hold_ids)
    return len(hold_ids)


def forget(engine: Engine) -> None:
    """Deletes idempotency keys past their week, old turns of the clock, and replaced keys."""
    with transaction(engine) as session:
        session.execute(_OLD_KEYS)
        session.execute(_OLD_TICKS)
        credentials.destroy_unused(session)
