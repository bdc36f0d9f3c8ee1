"""What one attempt sends: where to, signed with which secrets, and the body made from the rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import Row, Select, and_, case, func, or_, select
from sqlalchemy.orm import Session

from gateway.webhooks.bodies import RESULT_MAX_BYTES, TYPES_WITH_RESULT, body_of, job_data
from models.accounts import Account
from models.jobs import Job, JobResult
from models.webhooks import Delivery, Event, WebhookEndpoint


@dataclass(frozen=True, slots=True)
class Parcel:
    """One attempt that has been begun: what to send, where to, and under which epoch.

    `attempt` counts all of the delivery's attempts, `turn` those of the schedule that it is on.
    """

    delivery_id: UUID
    epoch: int
    attempt: int
    turn: int
    url: str
    event_id: UUID
    endpoint_id: UUID | None
    secrets_owner: UUID
    sealed_secrets: tuple[bytes, ...]
    body: bytes


def read(session: Session, delivery_ids: Sequence[UUID]) -> list[Parcel]:
    """The parcels of deliveries that have been leased.

    An endpoint may be deleted at this very moment: its deliveries are left out, and the next claim
    gives them up.
    """
    return [_parcel(row) for row in session.execute(_contents(delivery_ids))]


def _contents(delivery_ids: Sequence[UUID]) -> Select[*tuple[Any, ...]]:
    wants_result = and_(Delivery.include_result, Event.type.in_(TYPES_WITH_RESULT))
    short_result = case((func.octet_length(JobResult.body) <= RESULT_MAX_BYTES, JobResult.body))
    return (
        select(
            Delivery.id,
            Delivery.epoch,
            Delivery.attempts,
            Delivery.attempts_before,
            Delivery.endpoint_id,
            func.coalesce(WebhookEndpoint.url, Delivery.url).label("url"),
            Delivery.include_result,
            Event.id.label("event_id"),
            Event.type,
            Event.data,
            Event.created_at,
            func.coalesce(WebhookEndpoint.id, Account.id).label("secrets_owner"),
            func.coalesce(WebhookEndpoint.secret, Account.webhook_secret).label("secret"),
            case((WebhookEndpoint.old_secret_until > func.now(), WebhookEndpoint.old_secret)).label(
                "old_secret"
            ),
            Job.id.label("job_id"),
            Job.custom_id,
            Job.job_metadata,
            short_result.label("result"),
        )
        .join(Event, Event.id == Delivery.event_id)
        .join(Account, Account.id == Event.account_id)
        .outerjoin(WebhookEndpoint, WebhookEndpoint.id == Delivery.endpoint_id)
        .outerjoin(Job, Job.id == Event.job_id)
        .outerjoin(JobResult, and_(JobResult.job_id == Job.id, wants_result))
        .where(Delivery.id.in_(delivery_ids))
        .where(or_(Delivery.endpoint_id.is_(None), WebhookEndpoint.id.is_not(None)))
    )


def _parcel(row: Row[Any]) -> Parcel:
    data = row.data
    if data is None:
        data = job_data(
            row.type,
            row.job_id,
            custom_id=row.custom_id,
            metadata=row.job_metadata,
            include_result=row.include_result,
            result=row.result,
        )
    return Parcel(
        delivery_id=row.id,
        epoch=row.epoch,
        attempt=row.attempts,
        turn=row.attempts - row.attempts_before,
        url=row.url,
        event_id=row.event_id,
        endpoint_id=row.endpoint_id,
        secrets_owner=row.secrets_owner,
        sealed_secrets=(row.secret,) if row.old_secret is None else (row.secret, row.old_secret),
        body=body_of(row.event_id, row.type, row.created_at, data),
    )
