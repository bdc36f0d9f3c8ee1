"""Our objects as the outside reads them."""

from datetime import datetime
from typing import Any

import orjson

from gateway.billing.prices import format_usd
from gateway.calls.history import Change, History
from gateway.calls.jobs import JobView
from gateway.catalogue.catalogue import Model
from gateway.providers.dialect import Endpoint
from gateway.webhooks.endpoints import EndpointView
from gateway.webhooks.redelivery import AttemptView, DeliveryView
from models import ids
from models.ids import Prefix
from models.states import DeliveryStatus, HoldState, JobStatus

TOKENS_PER_PRICE = 1000
PICO_PER_NANO = 1000
PICO_PER_USD = 10**12


def unix(moment: datetime | None) -> int | None:
    """Whole seconds since 1970, as OpenAI's objects have them."""
    return None if moment is None else int(moment.timestamp())


def usd(nanos: int | None) -> str | None:
    """A decimal string of USD."""
    return None if nanos is None else format_usd(nanos)


def job_json(job: JobView) -> dict[str, Any]:
    """The job object, for orjson: its result or error is in there as the bytes that were stored."""
    outcome = None if job.result is None else orjson.Fragment(job.result)
    completed = job.status is JobStatus.COMPLETED
    return {
        "id": ids.show(Prefix.JOB, job.id),
        "object": "job",
        "status": job.status.value,
        "lane": job.lane,
        "endpoint": job.endpoint,
        "model": job.model,
        "completion_id": ids.show(Prefix.COMPLETION, job.id),
        "custom_id": job.custom_id,
        "metadata": job.metadata,
        "created_at": unix(job.created_at),
        "submitted_at": unix(job.submitted_at),
        "completed_at": unix(job.completed_at),
        "deadline_at": unix(job.deadline_at),
        "batch": None
        if job.batch_id is None
        else {"id": ids.show(Prefix.PROVIDER_BATCH, job.batch_id), "provider": job.provider},
        "cost": cost_json(job),
        "escalated": job.is_escalated,
        "escalation": {"at": unix(job.standard_at), "reason": job.standard_reason}
        if job.is_escalated
        else None,
        "attempts": job.attempts,
        "result": outcome if completed else None,
        "error": None if completed else outcome,
    }


def job_event_json(job: History, change: Change) -> dict[str, Any]:
    """One change of a job, shaped as webhooks tell theirs."""
    return {
        "object": "event",
        "type": f"job.{change.name}",
        "created_at": unix(change.at),
        "data": {
            "id": ids.show(Prefix.JOB, job.job_id),
            "completion_id": ids.show(Prefix.COMPLETION, job.job_id),
            "status": change.status.value,
            "custom_id": job.custom_id,
            "metadata": job.metadata,
        },
    }


def cost_json(job: JobView) -> dict[str, Any]:
    """What the job may cost, did cost, and would have cost in the standard lane."""
    savings = None
    if job.charged_nanos is not None and job.list_nanos is not None:
        savings = job.list_nanos - job.charged_nanos
    return {
        "state": _cost_state(job),
        "estimated_usd": usd(job.estimated_nanos),
        "billed_usd": usd(job.charged_nanos),
        "list_usd": usd(job.list_nanos),
        "savings_usd": usd(savings),
    }


def _cost_state(job: JobView) -> str:
    if job.unpriced:
        return "unpriced"
    return {
        HoldState.OPEN: "held",
        HoldState.POSTED: "settled",
        HoldState.VOIDED: "released",
    }[job.hold_status]


def accepted_json(job: JobView) -> dict[str, Any]:
    """What an asynchronous call is answered: shaped so that every SDK parses it.

    One choice with null content: no choice at all, or an embedding list without data, makes the
    official SDKs raise, and an empty string would look like an answer.
    """
    if job.endpoint == Endpoint.EMBEDDINGS:
        placeholder = {"object": "embedding", "index": 0, "embedding": []}
        return {**job_json(job), "data": [placeholder], "usage": None}
    return {
        "id": ids.show(Prefix.COMPLETION, job.id),
        "object": "chat.completion",
        "created": unix(job.created_at),
        "model": job.model,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": None},
                "finish_reason": None,
            }
        ],
        "usage": None,
        "status": job.status.value,
        "job": job_json(job),
    }


def list_json(objects: list[dict[str, Any]], *, has_more: bool) -> dict[str, Any]:
    """A page, as OpenAI's lists have it."""
    return {
        "object": "list",
        "data": objects,
        "first_id": objects[0]["id"] if objects else None,
        "last_id": objects[-1]["id"] if objects else None,
        "has_more": has_more,
    }


def endpoint_json(endpoint: EndpointView) -> dict[str, Any]:
    """OpenAI's webhook endpoint, and what became of it."""
    return {
        "id": ids.show(Prefix.WEBHOOK_ENDPOINT, endpoint.id),
        "object": "webhook_endpoint",
        "name": endpoint.name,
        "url": endpoint.url,
        "event_types": list(endpoint.event_types),
        "include_result": endpoint.include_result,
        "enabled": endpoint.disabled_at is None,
        "disabled_at": unix(endpoint.disabled_at),
        "disabled_reason": endpoint.disabled_reason,
        "failing_since": unix(endpoint.failing_since),
        "signing_secret_hint": endpoint.secret_hint,
        "created_at": unix(endpoint.created_at),
        "updated_at": unix(endpoint.updated_at),
    }


def delivery_json(delivery: DeliveryView) -> dict[str, Any]:
    """One event's way to one URL, with the last of its attempts."""
    pending = delivery.status is DeliveryStatus.PENDING
    endpoint_id = delivery.endpoint_id
    return {
        "id": ids.show(Prefix.DELIVERY, delivery.id),
        "object": "webhook_delivery",
        "webhook_endpoint_id": None
        if endpoint_id is None
        else ids.show(Prefix.WEBHOOK_ENDPOINT, endpoint_id),
        "event_id": ids.show(Prefix.EVENT, delivery.event_id),
        "event_type": delivery.event_type,
        "url": delivery.url,
        "status": delivery.status,
        "next_attempt_at": unix(delivery.due_at) if pending else None,
        "created_at": unix(delivery.created_at),
        "finished_at": unix(delivery.finished_at),
        "attempts": [_attempt_json(each) for each in delivery.attempts],
    }


def _attempt_json(attempt: AttemptView) -> dict[str, Any]:
    return {
        "number": attempt.number,
        "started_at": unix(attempt.started_at),
        "finished_at": unix(attempt.finished_at),
        "status_code": attempt.http_status,
        "error": attempt.error,
        "response_excerpt": attempt.excerpt,
    }


def model_json(model: Model, markup_bps: int) -> dict[str, Any]:
    """OpenAI's model object with prices, window and abilities. Prices are what is charged."""
    prices = model.offers[0].prices
    batch = prices.batch

    def per_thousand(pico: int) -> str:
        # Exact to the pico-dollar per token: rounding to nanos would lose the cheapest models.
        scaled = pico * TOKENS_PER_PRICE * (10_000 + markup_bps)
        return _decimal(scaled, PICO_PER_USD * 10_000)

    return {
        "id": model.id,
        "object": "model",
        "created": model.created,
        "owned_by": model.maker,
        "name": model.name,
        "pricing": {
            "prompt": per_thousand(prices.standard.input),
            "completion": per_thousand(prices.standard.output),
            "batch_prompt": None if batch is None else per_thousand(batch.input),
            "batch_completion": None if batch is None else per_thousand(batch.output),
            "unit": "usd_per_1k_tokens",
        },
        "context_length": model.context_length,
        "max_output_tokens": model.max_output_tokens,
        "supported_features": list(model.features),
    }


def _decimal(numerator: int, denominator: int) -> str:
    """An exact decimal string; the denominator is a power of ten."""
    digits = len(str(denominator)) - 1
    whole, fraction = divmod(numerator, denominator)
    tail = f"{fraction:0{digits}d}".rstrip("0")
    return f"{whole}.{tail}" if tail else str(whole)
