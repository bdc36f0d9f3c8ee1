"""What time takes away of events and their deliveries."""

from datetime import UTC, datetime, timedelta

from sqlalchemy import Engine, text

from models import ids
from models.session import transaction

AT_ONCE = 1000

_OLD = text(
    f"""
    SELECT id FROM events
    WHERE id < :first_kept AND NOT EXISTS (
        SELECT FROM deliveries WHERE event_id = events.id AND status = 'pending')
    ORDER BY id LIMIT {AT_ONCE} FOR UPDATE SKIP LOCKED
    """
)
_DELETE = (
    text(
        "DELETE FROM delivery_attempts WHERE delivery_id IN"
        " (SELECT id FROM deliveries WHERE event_id = ANY(:event_ids))"
    ),
    text("DELETE FROM deliveries WHERE event_id = ANY(:event_ids)"),
    text("DELETE FROM events WHERE id = ANY(:event_ids)"),
)


def forget_old_events(engine: Engine, retention_days: int) -> int:
    """Deletes a bounded set of old events whose deliveries have all ended; how many."""
    first_kept = ids.floor(datetime.now(UTC) - timedelta(days=retention_days))
    with transaction(engine) as session:
        event_ids = list(session.scalars(_OLD, {"first_kept": first_kept}))
        if event_ids:
            for statement in _DELETE:
                session.execute(statement, {"event_ids": event_ids})
    return len(event_ids)
