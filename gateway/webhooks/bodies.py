"""What an event says: the JSON that is signed and sent, the same bytes on every attempt."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson

from gateway.webhooks.events import JOB_EVENT_STATUS, EventType
from models import ids
from models.states import FINAL_JOB_STATUSES

RESULT_MAX_BYTES = 256 * 1024
TYPES_WITH_RESULT = tuple(
    kind for kind, status in JOB_EVENT_STATUS.items() if status in FINAL_JOB_STATUSES
)


def body_of(
    event_id: UUID, event_type: str, created_at: datetime, data: Mapping[str, Any]
) -> bytes:
    """The event object; `data` for orjson."""
    return orjson.dumps(
        {
            "id": ids.show(ids.Prefix.EVENT, event_id),
            "object": "event",
            "type": event_type,
            "created_at": int(created_at.timestamp()),
            "data": data,
        }
    )


def job_data(
    event_type: str,
    job_id: UUID,
    *,
    custom_id: str | None = None,
    metadata: Mapping[str, Any] | None = None,
    include_result: bool = False,
    result: bytes | None = None,
) -> dict[str, Any]:
    """The `data` of an event that happened to a job.

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
    completed = event_type == EventType.JOB_COMPLETED
    if include_result and result is not None:
        data["result" if completed else "error"] = orjson.Fragment(result)
    elif include_result and completed:
        data["result_omitted"] = True
    return data


def disabled_data(endpoint_id: UUID, name: str, url: str, reason: str) -> dict[str, Any]:
    """The `data` of an endpoint that was disabled."""
    shown = ids.show(ids.Prefix.WEBHOOK_ENDPOINT, endpoint_id)
    return {"id": shown, "name": name, "url": url, "disabled_reason": reason}


def low_balance_data(*, available_usd: str, held_usd: str, threshold_usd: str) -> dict[str, Any]:
    """The `data` of a balance that has fallen below its account's threshold."""
    return {
        "object": "balance",
        "available_usd": available_usd,
        "held_usd": held_usd,
        "threshold_usd": threshold_usd,
    }


def sample_data(event_type: EventType, endpoint_id: UUID, name: str, url: str) -> dict[str, Any]:
    """`data` of that type, about a job that does not exist, a balance, or the endpoint itself."""
    if event_type in JOB_EVENT_STATUS:
        return job_data(event_type, ids.new(), custom_id="sample")
    if event_type is EventType.BALANCE_LOW:
        return low_balance_data(available_usd="4.2", held_usd="0.8", threshold_usd="5")
    return disabled_data(endpoint_id, name, url, "sample")
