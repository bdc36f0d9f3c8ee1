"""What is due: the reads behind every sweep, each by a partial index on state and time."""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

AT_ONCE = 100

_DUE = text(
    f"""
    SELECT id FROM provider_batches
    WHERE status <> 'done' AND due_at <= now() AND status = ANY(:statuses)
      AND (leased_until IS NULL OR leased_until < now())
    ORDER BY due_at LIMIT {AT_ONCE}
    """
)


def batches(session: Session, *statuses: str) -> Sequence[UUID]:
    """Batches in these states that want to be looked at and that nobody holds, oldest first."""
    return session.scalars(_DUE, {"statuses": list(statuses)}).all()
