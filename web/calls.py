"""The model routes: a call is parsed, and then answered now or accepted as a job."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any
from uuid import UUID

import gevent
import orjson
from flask import Blueprint, Response, request
from pydantic import BaseModel

from gateway.billing.prices import ceiling_nanos, format_usd, measure
from gateway.calls import idempotency, jobs, realtime
from gateway.calls.errors import AsyncImpossible, InvalidField
from gateway.calls.idempotency import KeyedCall, Stored
from gateway.calls.intake import Submission
from gateway.calls.options import Options, idempotency_key, take_options
from gateway.calls.realtime import HOLD_SECONDS, Call, Outcome
from gateway.calls.routing import Route, obstacle
from gateway.providers.dialect import Endpoint
from models import ids
from models.ids import Prefix
from web.auth import caller
from web.schemas import ChatRequest, EmbeddingRequest, check, read_body
from web.serialisers import accepted_json
from web.state import State, state
from workers.bell import Actor

blueprint = Blueprint("calls", __name__)

POLL_AFTER_SECONDS = 30
SCHEMAS: Mapping[Endpoint, type[BaseModel]] = {
    Endpoint.CHAT_COMPLETIONS: ChatRequest,
    Endpoint.EMBEDDINGS: EmbeddingRequest,
}


@dataclass(frozen=True, slots=True)
class Parsed:
    """A call, read and routed. `body` is what the provider will see."""

    id: UUID
    now: datetime
    endpoint: Endpoint
    route: Route
    options: Options
    body: dict[str, Any]
    digest: bytes
    key: str | None


@blueprint.post(Endpoint.CHAT_COMPLETIONS)
def chat_completions() -> Response:
    """A chat completion, now or as a job."""
    return _answer(Endpoint.CHAT_COMPLETIONS)


@blueprint.post(Endpoint.EMBEDDINGS)
def embeddings() -> Response:
    """Embeddings, now or as a job."""
    return _answer(Endpoint.EMBEDDINGS)


def _answer(endpoint: Endpoint) -> Response:
    parts = state()
    parsed = _parse(parts, endpoint)
    if not parsed.options.wants_async:
        return _run_now(parts, parsed)
    time_left = parsed.options.deadline_at - parsed.now
    why_not = obstacle(parsed.route, parsed.body, time_left, parts.house.policy.window)
    if why_not is None:
        return _accept(parts, parsed)
    if parsed.options.require_async:
        raise AsyncImpossible(f"This call cannot run asynchronously: {why_not.value}.")
    return _run_now(parts, parsed, {"X-Async-Ineligible": why_not.value})


def _parse(parts: State, endpoint: Endpoint) -> Parsed:
    body = read_body(request)
    key = idempotency_key(request.headers.get("Idempotency-Key"))
    digest = idempotency.digest(endpoint, body) if key is not None else b""
    now = datetime.now(UTC)
    allow_private = parts.house.settings.webhook_allow_private
    options = take_options(body, request.headers.get("Prefer"), now, allow_private=allow_private)
    check(SCHEMAS[endpoint], body)
    route = parts.house.router.route(endpoint, body["model"], body)
    if body.get("stream"):
        raise InvalidField("stream", "'stream' is not supported yet.")
    return Parsed(ids.new(), now, endpoint, route, options, body, digest, key)


def _keyed(parsed: Parsed, answer: Stored | None) -> KeyedCall | None:
    if parsed.key is None:
        return None
    return KeyedCall(caller().account_id, parsed.key, parsed.digest, parsed.id, answer)


def _ceiling(parts: State, parsed: Parsed, lane: str) -> int:
    prices = parsed.route.offer.prices
    rates = prices.batch if lane == "batch" else prices.standard
    assert rates is not None
    size = measure(parsed.endpoint, parsed.body, parsed.route.model.max_output_tokens)
    return ceiling_nanos(size, rates, parts.house.markup_bps)


def _accept(parts: State, parsed: Parsed) -> Response:
    """Makes a job of the call; the 202 stands whether or not the doorbell is heard."""
    submission = _submission(parts, parsed)
    stored = parts.writer.accept(submission)
    replayed = stored is not submission.answer
    if not replayed:
        parts.bell.ring_soon(Actor.CUT_LANES)
    return _from_stored(stored, replayed=replayed)


def _submission(parts: State, parsed: Parsed) -> Submission:
    identity, route = caller(), parsed.route
    inputs = parsed.body.get("input") if parsed.endpoint is Endpoint.EMBEDDINGS else None
    several = isinstance(inputs, list) and not isinstance(inputs[0], int)
    draft = Submission(
        job_id=parsed.id,
        account_id=identity.account_id,
        key_id=identity.key_id,
        lane=(route.offer.provider, route.credential.name, parsed.endpoint, route.offer.model),
        model=route.name,
        body=orjson.dumps(parsed.body),
        embedding_inputs=0 if inputs is None else len(inputs) if several else 1,
        estimated_nanos=_ceiling(parts, parsed, "batch"),
        prices=route.offer.prices,
        markup_bps=parts.house.markup_bps,
        created_at=parsed.now,
        deadline_at=parsed.options.deadline_at,
        custom_id=parsed.options.custom_id,
        metadata=parsed.options.metadata,
        webhook=parsed.options.webhook,
        answer=Stored(202, {}, b""),
    )
    job_id = ids.show(Prefix.JOB, parsed.id)
    answer = Stored(
        202,
        {
            "Location": f"/v1/jobs/{job_id}",
            "Retry-After": str(POLL_AFTER_SECONDS),
            "Preference-Applied": "respond-async",
            "X-Lane": "batch",
        },
        orjson.dumps(accepted_json(jobs.fresh(draft, route.offer.provider))),
    )
    return replace(draft, answer=answer, keyed=_keyed(parsed, answer))


def _run_now(
    parts: State, parsed: Parsed, more_headers: Mapping[str, str] = MappingProxyType({})
) -> Response:
    identity = caller()
    call = Call(
        id=parsed.id,
        account_id=identity.account_id,
        key_id=identity.key_id,
        endpoint=parsed.endpoint,
        route=parsed.route,
        body=parsed.body,
        estimated_nanos=_ceiling(parts, parsed, "standard"),
        markup_bps=parts.house.markup_bps,
        expires_at=parsed.now + timedelta(seconds=HOLD_SECONDS),
        keyed=_keyed(parsed, None),
    )

    def present(outcome: Outcome) -> Stored:
        headers = {"X-Lane": "standard", **more_headers}
        if outcome.charged_nanos is not None:
            headers["X-Cost-Usd"] = format_usd(outcome.charged_nanos)
        return Stored(200, headers, orjson.dumps(outcome.body))

    given = realtime.run(parts.writer, call, present, gevent.sleep)
    return _from_stored(given.answer, replayed=given.replayed)


def _from_stored(stored: Stored, *, replayed: bool) -> Response:
    response = Response(stored.body, stored.http_status, mimetype="application/json")
    response.headers.extend(dict(stored.headers))
    if replayed:
        response.headers["Idempotent-Replayed"] = "true"
    return response
