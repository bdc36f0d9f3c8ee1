"""What callers are told: which events there are, who asked for them, and what they say."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Any
from uuid import UUID

import orjson
from sqlalchemy.orm import Session

from gateway.net.guard import RefusedAddress, check_url
from models import ids
from models.bulk import copy_rows
from models.states import DeliveryStatus, JobStatus
from models.webhooks import Delivery, Event

COMPLETED = "job.completed"

JOB_EVENT_STATUS: Mapping[str, JobStatus] = MappingProxyType(
    {
        COMPLETED: JobStatus.COMPLETED,
        "job.failed": JobStatus.FAILED,
        "job.cancelled": JobStatus.CANCELLED,
        "job.expired": JobStatus.EXPIRED,
        "job.escalated": JobStatus.IN_PROGRESS,
    }
)
"""The status that a job has when the event happens, and that every attempt repeats."""

EVENT_TYPES = tuple(JOB_EVENT_STATUS)
RESULT_MAX_BYTES = 256 * 1024

_PENDING = DeliveryStatus.PENDING.value
_FIELDS = ("url", "events", "include_result")


class InvalidWebhook(ValueError):
    """A webhook that intake refuses; `param` is the path of the field at fault."""

    def __init__(self, param: str, message: str) -> None:
        super().__init__(message)
        self.param = param


def validate_webhook(value: object, *, allow_private: bool) -> dict[str, Any]:
    """A job's `webhook` as it is stored: `{"url", "events"?, "include_result"?}`.

    Raises InvalidWebhook. Without `events` the URL is told of every type.
    """
    if not isinstance(value, dict):
        raise InvalidWebhook("webhook", "webhook must be an object with a url")
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
        raise InvalidWebhook("webhook.events", f"webhook.events may hold {', '.join(EVENT_TYPES)}")
    return list(dict.fromkeys(value))


@dataclass(frozen=True, slots=True)
class JobEvent:
    """Something that happened to a job; `webhook` is the job's own, as validated."""

    account_id: UUID
    job_id: UUID
    type: str
    webhook: Mapping[str, Any] | None


def record(session: Session, finished: Sequence[JobEvent]) -> int:
    """Writes the events that somebody asked for, each with a delivery that is due at once.

    Two COPYs however many there are, in the caller's transaction. Returns the number of
    deliveries: ring for them after the commit.
    """
    asked = [(ids.new(), job_event) for job_event in finished if _is_asked_for(job_event)]
    if not asked:
        return 0
    copy_rows(
        session,
        Event,
        ("id", "account_id", "type", "job_id"),
        ((event_id, each.account_id, each.type, each.job_id) for event_id, each in asked),
    )
    copy_rows(
        session,
        Delivery,
        ("id", "event_id", "url", "include_result", "status"),
        (
            (ids.new(), event_id, webhook["url"], webhook.get("include_result", False), _PENDING)
            for event_id, each in asked
            if (webhook := each.webhook) is not None
        ),
    )
    return len(asked)


def _is_asked_for(job_event: JobEvent) -> bool:
    webhook = job_event.webhook
    return webhook is not None and job_event.type in webhook.get("events", EVENT_TYPES)


def body_of(
    *,
    event_id: UUID,
    event_type: str,
    created_at: datetime,
    job_id: UUID,
    custom_id: str | None,
    metadata: Mapping[str, Any] | None,
    include_result: bool,
    result: bytes | None,
) -> bytes:
    """The JSON that is signed and sent, byte for byte the same on every attempt.

    `result` is the stored answer, None where there is none or where it is too long to send; it
    goes out as it is, as `result` of a completed job and as `error` of any other.
    """
    data: dict[str, Any] = {
        "id": ids.show(ids.Prefix.JOB, job_id),
        "completion_id": ids.show(ids.Prefix.COMPLETION, job_id),
        "status": JOB_EVENT_STATUS[event_type],
        "custom_id": custom_id,
        "metadata": metadata or {},
    }
    if include_result:
        if result is not None:
            data["result" if event_type == COMPLETED else "error"] = orjson.Fragment(result)
        elif event_type == COMPLETED:
            data["result_omitted"] = True
    return orjson.dumps(
        {
            "id": ids.show(ids.Prefix.EVENT, event_id),
            "object": "event",
            "type": event_type,
            "created_at": int(created_at.timestamp()),
            "data": data,
        }
    )
