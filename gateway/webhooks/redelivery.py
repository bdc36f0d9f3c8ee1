"""Looking at deliveries, and sending again what has failed or what is asked for."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from sqlalchemy import RowMapping, text
from sqlalchemy.orm import Session

from gateway.webhooks.endpoints import UnknownCursor
from models import ids
from models.states import DeliveryStatus

ATTEMPTS_SHOWN = 20
RECOVERED_AT_ONCE = 10_000


@dataclass(frozen=True, slots=True)
class AttemptView:
    """One POST. Without `finished_at` it is on its way, or its worker died."""

    number: int
    started_at: datetime
    finished_at: datetime | None
    http_status: int | None
    error: str | None
    excerpt: str | None


@dataclass(frozen=True, slots=True)
class DeliveryView:
    """A delivery with the last of its attempts."""

    id: UUID
    endpoint_id: UUID | None
    event_id: UUID
    event_type: str
    url: str
    status: DeliveryStatus
    due_at: datetime
    created_at: datetime
    finished_at: datetime | None
    attempts: Sequence[AttemptView]


class Resent(StrEnum):
    """What came of asking for a delivery to be sent again."""

    DONE = "done"
    IN_FLIGHT = "in_flight"
    DISABLED = "disabled"
    NOT_FOUND = "not_found"


_VIEW = """
    SELECT deliveries.id, deliveries.endpoint_id, deliveries.event_id, events.type AS event_type,
           deliveries.url, deliveries.status, deliveries.due_at, deliveries.created_at,
           deliveries.finished_at
    FROM deliveries JOIN events ON events.id = deliveries.event_id
    WHERE events.account_id = :account_id
"""
_PAGE = text(
    _VIEW
    + """
      AND deliveries.endpoint_id = :endpoint_id
      AND (CAST(:after AS uuid) IS NULL OR deliveries.id < :after)
      AND (CAST(:status AS text) IS NULL OR deliveries.status = :status)
    ORDER BY deliveries.id DESC LIMIT :limit
    """
)
_ONE = text(_VIEW + " AND deliveries.id = :delivery_id")
_ATTEMPTS = text(
    f"""
    SELECT attempt.* FROM unnest(CAST(:delivery_ids AS uuid[])) AS wanted(id)
    CROSS JOIN LATERAL (
        SELECT * FROM delivery_attempts WHERE delivery_id = wanted.id
        ORDER BY number DESC LIMIT {ATTEMPTS_SHOWN}
    ) AS attempt ORDER BY attempt.delivery_id, attempt.number
    """
)
_ENDPOINT = text(
    """
    SELECT disabled_at FROM webhook_endpoints
    WHERE id = :endpoint_id AND account_id = :account_id FOR NO KEY UPDATE
    """
)
# An attempt that is still on its way from before must not answer for the new one.
_AGAIN = """
    UPDATE deliveries SET status = 'pending', attempts_before = attempts, due_at = now(),
        epoch = epoch + 1, leased_until = NULL, finished_at = NULL,
        url = coalesce((SELECT url FROM webhook_endpoints WHERE id = endpoint_id), url)
"""
_RESEND = text(
    _AGAIN
    + """
    WHERE id = :delivery_id
      AND (status <> 'pending' OR leased_until IS NULL OR leased_until <= now()) RETURNING id
    """
)
_RECOVER = text(
    f"""
    WITH chosen AS (
        SELECT id FROM deliveries
        WHERE endpoint_id = :endpoint_id AND id >= :first AND status = 'failed'
        ORDER BY id LIMIT {RECOVERED_AT_ONCE} FOR UPDATE SKIP LOCKED
    )
    {_AGAIN} WHERE id IN (SELECT id FROM chosen) RETURNING id
    """
)


def page(
    session: Session,
    account_id: UUID,
    endpoint_id: UUID,
    *,
    limit: int,
    after: UUID | None = None,
    status: DeliveryStatus | None = None,
) -> list[DeliveryView]:
    """Up to `limit` of the endpoint's deliveries after `after`, newest first.

    Raises UnknownCursor.
    """
    if after is not None:
        cursor = get(session, account_id, after)
        if cursor is None or cursor.endpoint_id != endpoint_id:
            raise UnknownCursor
    rows = session.execute(
        _PAGE,
        {
            "account_id": account_id,
            "endpoint_id": endpoint_id,
            "after": after,
            "status": status,
            "limit": limit,
        },
    )
    return _views(session, rows.mappings().all())


def get(session: Session, account_id: UUID, delivery_id: UUID) -> DeliveryView | None:
    """The account's delivery."""
    rows = session.execute(_ONE, {"account_id": account_id, "delivery_id": delivery_id})
    return next(iter(_views(session, rows.mappings().all())), None)


def resend(session: Session, account_id: UUID, delivery_id: UUID) -> Resent:
    """Sends a delivery again under the same event id, on a schedule that begins anew.

    Its attempts are counted on. One that waits for its next attempt is due at once.
    """
    found = get(session, account_id, delivery_id)
    if found is None:
        return Resent.NOT_FOUND
    if found.endpoint_id is not None:
        obstacle = _obstacle(session, account_id, found.endpoint_id)
        if obstacle is not None:
            return obstacle
    won = session.execute(_RESEND, {"delivery_id": delivery_id}).first()
    return Resent.IN_FLIGHT if won is None else Resent.DONE


def recover(
    session: Session, account_id: UUID, endpoint_id: UUID, since: datetime
) -> tuple[Resent, int]:
    """Sends again what has failed on the way to an endpoint, of the events since then; how many.

    The oldest come first, `RECOVERED_AT_ONCE` at most: as many say that there may be more.
    """
    obstacle = _obstacle(session, account_id, endpoint_id)
    if obstacle is not None:
        return obstacle, 0
    rows = session.execute(_RECOVER, {"endpoint_id": endpoint_id, "first": ids.floor(since)})
    return Resent.DONE, len(rows.all())


def _obstacle(session: Session, account_id: UUID, endpoint_id: UUID) -> Resent | None:
    """Locks an endpoint; why nothing can be sent to it."""
    endpoint = session.execute(
        _ENDPOINT, {"endpoint_id": endpoint_id, "account_id": account_id}
    ).first()
    if endpoint is None:
        return Resent.NOT_FOUND
    return None if endpoint.disabled_at is None else Resent.DISABLED


def _views(session: Session, rows: Sequence[RowMapping]) -> list[DeliveryView]:
    attempts: dict[UUID, list[AttemptView]] = defaultdict(list)
    delivery_ids = [row["id"] for row in rows]
    for attempt in session.execute(_ATTEMPTS, {"delivery_ids": delivery_ids}).mappings():
        fields = dict(attempt)
        attempts[fields.pop("delivery_id")].append(AttemptView(**fields))
    return [
        DeliveryView(
            **{**row, "status": DeliveryStatus(row["status"])}, attempts=attempts[row["id"]]
        )
        for row in rows
    ]
