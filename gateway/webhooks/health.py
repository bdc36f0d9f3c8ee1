"""When an endpoint is given up: it said that it is gone, or it has failed for days.

Whoever changes several of an endpoint's rows locks the endpoint first, so that nobody waits for
a delivery while holding what the other one wants.
"""

from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from gateway.webhooks.bodies import disabled_data
from gateway.webhooks.events import AccountEvent, EventType, record

GONE_STATUS = 410
FAILING_DAYS_MAX = 5

REASON_GONE = "gone"
REASON_FAILING = "failing"
REASON_REQUEST = "request"

_LOCK = text("SELECT id FROM webhook_endpoints WHERE id = :endpoint_id FOR NO KEY UPDATE")
_WELL = text(
    "UPDATE webhook_endpoints SET failing_since = NULL"
    " WHERE id = :endpoint_id AND failing_since IS NOT NULL"
)
_FAILING = text(
    f"""
    UPDATE webhook_endpoints SET failing_since = coalesce(failing_since, now())
    WHERE id = :endpoint_id
    RETURNING failing_since <= now() - interval '{FAILING_DAYS_MAX} days' AS for_days
    """
)
_DISABLE = text(
    """
    UPDATE webhook_endpoints
    SET disabled_at = now(), disabled_reason = :reason, updated_at = now()
    WHERE id = :endpoint_id AND disabled_at IS NULL RETURNING account_id, name, url
    """
)
# What is in flight may still arrive; if it does not, the next claim finds its endpoint disabled.
_END_PENDING = text(
    """
    UPDATE deliveries SET status = 'failed', leased_until = NULL, finished_at = now()
    WHERE endpoint_id = :endpoint_id AND status = 'pending'
      AND (leased_until IS NULL OR leased_until <= now())
    """
)


def lock(session: Session, endpoint_id: UUID) -> bool:
    """Keeps others from changing the endpoint until the end of the transaction; if it exists."""
    return session.execute(_LOCK, {"endpoint_id": endpoint_id}).first() is not None


def note(
    session: Session, endpoint_id: UUID, *, delivered: bool, http_status: int | None
) -> str | None:
    """Takes note of an attempt on a locked endpoint; the reason, if that disabled it."""
    if delivered:
        session.execute(_WELL, {"endpoint_id": endpoint_id})
        return None
    for_days = session.scalar(_FAILING, {"endpoint_id": endpoint_id})
    reason = REASON_GONE if http_status == GONE_STATUS else REASON_FAILING if for_days else None
    if reason is None:
        return None
    return reason if disable(session, endpoint_id, reason) else None


def disable(session: Session, endpoint_id: UUID, reason: str) -> bool:
    """Sends a locked endpoint nothing more, and tells the account's others; False if it was off."""
    found = session.execute(_DISABLE, {"endpoint_id": endpoint_id, "reason": reason}).first()
    if found is None:
        return False
    end_pending(session, endpoint_id)
    if reason != REASON_REQUEST:
        data = disabled_data(endpoint_id, found.name, found.url, reason)
        record(session, [AccountEvent(found.account_id, EventType.ENDPOINT_DISABLED, data)])
    return True


def end_pending(session: Session, endpoint_id: UUID) -> None:
    """Ends what waits for a locked endpoint."""
    session.execute(_END_PENDING, {"endpoint_id": endpoint_id})
