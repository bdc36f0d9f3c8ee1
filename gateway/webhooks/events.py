"""What callers are told: which events there are, who asked for them, and writing them down."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Any, NamedTuple
from uuid import UUID

from psycopg.types.json import Jsonb
from sqlalchemy import text
from sqlalchemy.orm import Session

from gateway.net.guard import RefusedAddress, check_url
from models import ids
from models.bulk import copy_rows
from models.states import DeliveryStatus, JobStatus
from models.webhooks import Delivery, Event


class EventType(StrEnum):
    """Everything that an endpoint can be told of."""

    JOB_COMPLETED = "job.completed"
    JOB_FAILED = "job.failed"
    JOB_CANCELLED = "job.cancelled"
    JOB_EXPIRED = "job.expired"
    JOB_ESCALATED = "job.escalated"
    BALANCE_LOW = "balance.low"
    ENDPOINT_DISABLED = "webhook_endpoint.disabled"


JOB_EVENT_STATUS: Mapping[str, JobStatus] = MappingProxyType(
    {
        EventType.JOB_COMPLETED: JobStatus.COMPLETED,
        EventType.JOB_FAILED: JobStatus.FAILED,
        EventType.JOB_CANCELLED: JobStatus.CANCELLED,
        EventType.JOB_EXPIRED: JobStatus.EXPIRED,
        EventType.JOB_ESCALATED: JobStatus.IN_PROGRESS,
    }
)
"""The status that a job has when the event happens, and that every attempt repeats."""

JOB_EVENT_TYPES = tuple(JOB_EVENT_STATUS)

_FIELDS = ("url", "events", "include_result")
_SUBSCRIBERS = text(
    """
    SELECT id, account_id, url, event_types, include_result,
           CASE WHEN disabled_at IS NOT NULL THEN now() END AS closed_at
    FROM webhook_endpoints WHERE account_id = ANY(:account_ids) ORDER BY id
    """
)


class InvalidWebhook(ValueError):
    """A webhook that intake refuses; `param` is the path of the field at fault."""

    def __init__(self, param: str, message: str) -> None:
        super().__init__(message)
        self.param = param


def validate_webhook(value: object, *, allow_private: bool) -> dict[str, Any]:
    """A job's `webhook` as it is stored: `{"url", "events"?, "include_result"?}`.

    Without `events` the URL is told of every type. The id of an endpoint is stored as
    `{"endpoint"}`, its digits: whose it is shows at intake. Raises InvalidWebhook.
    """
    if isinstance(value, str):
        endpoint_id = ids.parse(ids.Prefix.WEBHOOK_ENDPOINT, value)
        if endpoint_id is not None:
            return {"endpoint": endpoint_id.hex}
    if not isinstance(value, dict):
        raise InvalidWebhook(
            "webhook", "webhook must be an object with a url, or the id of a webhook endpoint"
        )
    unknown = next((name for name in value if name not in _FIELDS), None)
    if unknown is not None:
        raise InvalidWebhook(f"webhook.{unknown}", f"webhook has no field named {unknown}")
    url = value.get("url")
    if not isinstance(url, str):
        raise InvalidWebhook("webhook.url", "webhook.url must be a string")
    try:
        check_url(url, allow_private=allow_private)
    except RefusedAddress as error:
        raise InvalidWebhook("webhook.url", f"webhook.url: {error}") from error
    webhook: dict[str, Any] = {"url": url}
    if "events" in value:
        webhook["events"] = _validate_types(value["events"])
    if "include_result" in value:
        if not isinstance(value["include_result"], bool):
            raise InvalidWebhook(
                "webhook.include_result", "webhook.include_result must be a boolean"
            )
        webhook["include_result"] = value["include_result"]
    return webhook


def _validate_types(value: object) -> list[str]:
    if not isinstance(value, list) or not value:
        raise InvalidWebhook("webhook.events", "webhook.events must be a list of event types")
    if not all(isinstance(item, str) and item in JOB_EVENT_STATUS for item in value):
        raise InvalidWebhook(
            "webhook.events", f"webhook.events may hold {', '.join(JOB_EVENT_TYPES)}"
        )
    return list(dict.fromkeys(value))


class JobEvent(NamedTuple):
    """Something that happened to a job; `webhook` is the job's own, as validated."""

    account_id: UUID
    job_id: UUID
    type: str
    webhook: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class AccountEvent:
    """Something else that happened to an account; `data` is what is told of it."""

    account_id: UUID
    type: EventType
    data: Mapping[str, Any]


class _Way(NamedTuple):
    """Where one event is to go; to a closed endpoint it goes no further than the records."""

    endpoint_id: UUID | None
    url: str
    include_result: bool
    closed_at: datetime | None = None


class _Subscriber(NamedTuple):
    event_types: frozenset[str]
    way: _Way


def record(session: Session, happened: Sequence[JobEvent | AccountEvent]) -> int:
    """Writes the events that somebody asked for, each with deliveries that are due at once.

    One query and two COPYs however many there are, in the caller's transaction. An endpoint that
    is disabled gets its deliveries too, failed from the start, so that it can recover them.
    Returns the number of deliveries: ring for them after the commit.
    """
    if not happened:
        return 0
    subscribers = _subscribers(session, {each.account_id for each in happened})
    told = [
        (ids.new(), each, ways)
        for each in happened
        if subscribers or (isinstance(each, JobEvent) and each.webhook)
        if (ways := list(_ways(each, subscribers.get(each.account_id, ()))))
    ]
    if not told:
        return 0
    copy_rows(
        session,
        Event,
        ("id", "account_id", "type", "job_id", "data"),
        (_event_row(event_id, each) for event_id, each, _ in told),
    )
    rows = [_delivery_row(event_id, way) for event_id, _, ways in told for way in ways]
    copy_rows(
        session,
        Delivery,
        ("id", "event_id", "endpoint_id", "url", "include_result", "status", "finished_at"),
        rows,
    )
    return len(rows)


def _subscribers(session: Session, account_ids: set[UUID]) -> dict[UUID, list[_Subscriber]]:
    subscribers: dict[UUID, list[_Subscriber]] = defaultdict(list)
    for row in session.execute(_SUBSCRIBERS, {"account_ids": list(account_ids)}):
        way = _Way(row.id, row.url, row.include_result, row.closed_at)
        subscribers[row.account_id].append(_Subscriber(frozenset(row.event_types), way))
    return subscribers


def _ways(each: JobEvent | AccountEvent, subscribers: Iterable[_Subscriber]) -> Iterator[_Way]:
    webhook = (each.webhook if isinstance(each, JobEvent) else None) or {}
    named = webhook.get("endpoint")
    for event_types, way in subscribers:
        # An endpoint that the job names hears of it whatever it subscribes to, and only once.
        by_name = way.endpoint_id is not None and way.endpoint_id.hex == named
        if by_name or each.type in event_types:
            yield way
    if "url" in webhook and each.type in webhook.get("events", JOB_EVENT_TYPES):
        yield _Way(None, webhook["url"], webhook.get("include_result", False))


def _event_row(event_id: UUID, each: JobEvent | AccountEvent) -> tuple[object, ...]:
    # A type that nobody can subscribe to is a mistake of ours.
    kind = EventType(each.type).value
    if isinstance(each, JobEvent):
        return event_id, each.account_id, kind, each.job_id, None
    return event_id, each.account_id, kind, None, Jsonb(dict(each.data))


def _delivery_row(event_id: UUID, way: _Way) -> tuple[object, ...]:
    status = DeliveryStatus.PENDING if way.closed_at is None else DeliveryStatus.FAILED
    return (
        ids.new(),
        event_id,
        way.endpoint_id,
        way.url,
        way.include_result,
        status.value,
        way.closed_at,
    )
