"""The model routes: a call is parsed, and then answered now or accepted as a job."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import orjson
from flask import Blueprint, Response, request
from pydantic import BaseModel

from gateway.billing.prices import ceiling_nanos, measure
from gateway.calls import idempotency, jobs
from gateway.calls.errors import AsyncImpossible, InvalidField
from gateway.calls.idempotency import KeyedCall, Stored
from gateway.calls.intake import Submission, with_unknown_endpoint
from gateway.calls.jobs import JobView
from gateway.calls.options import Options, check_cost, idempotency_key, take_options
from gateway.calls.realtime import HOLD_SECONDS, Call
from gateway.calls.routing import Ineligible, Route, obstacle
from gateway.providers.dialect import Endpoint
from models import ids
from models.ids import Prefix
from web import answers, conversions, quotes, streams
from web.auth import caller, require_model, widget_key
from web.call_schemas import documented_chat, documented_embeddings
from web.errors import ApiError
from web.schemas import ChatRequest, EmbeddingRequest, check, read_body
from web.serialisers import accepted_json
from web.state import State, state
from web.surfaces import OPENAI, Surface
from workers.bell import Actor

blueprint = Blueprint("calls", __name__)

POLL_AFTER_SECONDS = 30
SCHEMAS: Mapping[Endpoint, type[BaseModel]] = {
    Endpoint.CHAT_COMPLETIONS: ChatRequest,
    Endpoint.EMBEDDINGS: EmbeddingRequest,
}


@dataclass(frozen=True, slots=True)
class Parsed:
    """A call, read and routed. `body` is what the provider will see.

    `route` is who is asked first, `fallbacks` who may be asked after it, at once and never later.
    `surface` words its answer; `source` is what its caller calls the place that it came from.
    """

    id: UUID
    now: datetime
    endpoint: Endpoint
    route: Route
    fallbacks: tuple[Route, ...]
    options: Options
    body: dict[str, Any]
    digest: bytes
    key: str | None
    surface: Surface
    source: str | None


@blueprint.post(Endpoint.CHAT_COMPLETIONS)
@documented_chat
def chat_completions() -> Response:
    """A chat completion, now or as a job."""
    return respond(Endpoint.CHAT_COMPLETIONS)


@blueprint.post(Endpoint.EMBEDDINGS)
@documented_embeddings
def embeddings() -> Response:
    """Embeddings, now or as a job."""
    return respond(Endpoint.EMBEDDINGS)


def respond(endpoint: Endpoint, surface: Surface = OPENAI, source: str | None = None) -> Response:
    """Answers the request, which calls that endpoint in the words of that surface."""
    parts = state()
    parsed = _parse(parts, endpoint, surface, source)
    if not (parsed.options.wants_async or parsed.options.dry_run):
        return _run_now(parts, parsed)
    time_left = parsed.options.deadline_at - parsed.now
    why_not = obstacle(parsed.route, parsed.body, time_left, parts.house.policy.window)
    if widget_key() is not None:
        # Whoever reads the page has this key, and could read what became of others' jobs.
        why_not = Ineligible.KEY
    if parsed.options.dry_run:
        return quotes.answer(parts, _asked(parts, parsed, why_not))
    if why_not is None and parsed.options.wait_seconds:
        return _wait(parts, parsed)
    if why_not is None:
        return _accept(parts, parsed)
    if parsed.options.require_async:
        raise AsyncImpossible(f"This call cannot run asynchronously: {why_not.value}.")
    return _run_now(parts, parsed, {"X-Async-Ineligible": why_not.value})


def _parse(parts: State, endpoint: Endpoint, surface: Surface, source: str | None) -> Parsed:
    asked = read_body(request)
    key = idempotency_key(request.headers.get("Idempotency-Key"))
    digest = idempotency.digest(request.path, asked) if key is not None else b""
    body = surface.read(endpoint, asked)
    now = datetime.now(UTC)
    allow_private = parts.house.settings.webhook_allow_private
    options = take_options(body, request.headers.get("Prefer"), now, allow_private=allow_private)
    check(SCHEMAS[endpoint], body)
    if endpoint is Endpoint.EMBEDDINGS and body.get("stream"):
        raise InvalidField("stream", "Embeddings are not streamed.")
    own = parts.own_keys.of_caller()
    route, *fallbacks = parts.house.router.routes(endpoint, body["model"], body, own)
    require_model(route.model.id, route.name)
    return Parsed(
        id=ids.new(),
        now=now,
        endpoint=endpoint,
        route=route,
        fallbacks=tuple(fallbacks),
        options=options,
        body=body,
        digest=digest,
        key=key,
        surface=surface,
        source=source,
    )


def _keyed(parsed: Parsed, answer: Stored | None) -> KeyedCall | None:
    key, identity = parsed.key, caller()
    if key is None:
        return None
    if widget_key() is not None:
        # A visitor of a page must not find what its owner, or another page's visitor, has asked.
        key = f"{identity.key_id.hex}:{key}"
    return KeyedCall(identity.account_id, key, parsed.digest, parsed.id, answer)


def _held(parts: State, parsed: Parsed, lane: str) -> int:
    """The ceiling that the call is held at; raises CostAboveMaximum."""
    ceiling = _ceiling(parts, parsed, lane)
    check_cost(parsed.options, ceiling)
    return ceiling


def _ceiling(parts: State, parsed: Parsed, lane: str) -> int:
    """The most that the call can cost in a lane, at the dearest provider that may serve it."""
    size = measure(parsed.endpoint, parsed.body, parsed.route.model.max_output_tokens)
    if lane == "batch":
        rates = [parsed.route.offer.prices.batch]
    else:
        rates = [route.offer.prices.standard for route in (parsed.route, *parsed.fallbacks)]
    markup_bps = parts.house.markup_of(parsed.route)
    return max(ceiling_nanos(size, each, markup_bps) for each in rates if each)


def _asked(parts: State, parsed: Parsed, why_not: Ineligible | None) -> quotes.Asked:
    """What there is to say about a call that is not to be made."""
    if widget_key() is not None:
        raise ApiError(403, "A publishable key gets no quotes: they tell the account's balance.")
    options, has_batch_price = parsed.options, parsed.route.offer.prices.batch is not None
    lane: str | None = "standard"
    if options.wants_async and why_not is None and not options.wait_seconds:
        lane = "batch"
    elif options.require_async and why_not is not None:
        lane = None
    return quotes.Asked(
        account_id=caller().account_id,
        route=parsed.route,
        lane=lane,
        why_not_batch=why_not,
        standard_nanos=_ceiling(parts, parsed, "standard"),
        batch_nanos=_ceiling(parts, parsed, "batch") if has_batch_price else None,
        undiscounted_nanos=_ceiling(parts, replace(parsed, fallbacks=()), "standard"),
        deadline_at=options.deadline_at,
    )


def _wait(parts: State, parsed: Parsed) -> Response:
    """Begins the call at once; what takes longer than its caller waits becomes a job."""
    call, wait_seconds = _call(parts, parsed), parsed.options.wait_seconds
    draft = replace(_draft(parts, parsed), estimated_nanos=call.estimated_nanos, keyed=call.keyed)
    if draft.webhook is not None and "endpoint" in draft.webhook:
        # Before the call is made: there is no refusing it later.
        for refusal in parts.readers.run(with_unknown_endpoint, [draft]).values():
            raise refusal
    shown = jobs.under_way(draft, parsed.route.offer.provider)
    answer = _accepted(shown, f"respond-async, wait={wait_seconds}")
    submission = replace(draft, answer=answer)
    return conversions.answer(parts, call, submission, wait_seconds, parsed.surface)


def _accept(parts: State, parsed: Parsed) -> Response:
    """Makes a job of the call; the 202 stands whether or not the doorbell is heard."""
    draft = replace(_draft(parts, parsed), estimated_nanos=_held(parts, parsed, "batch"))
    answer = _accepted(jobs.fresh(draft, parsed.route.offer.provider), "respond-async")
    submission = replace(draft, answer=answer, keyed=_keyed(parsed, answer))
    stored = parts.writer.accept(submission)
    replayed = stored is not submission.answer
    if not replayed:
        parts.bell.ring_soon(Actor.CUT_LANES)
    return answers.stored_response(stored, parsed.surface, replayed=replayed)


def _draft(parts: State, parsed: Parsed) -> Submission:
    """The job of a call; what is held for it and what its caller is told is still to be said."""
    identity, route = caller(), parsed.route
    inputs = parsed.body.get("input") if parsed.endpoint is Endpoint.EMBEDDINGS else None
    several = isinstance(inputs, list) and not isinstance(inputs[0], int)
    return Submission(
        job_id=parsed.id,
        account_id=identity.account_id,
        key_id=identity.key_id,
        lane=(route.offer.provider, route.credential.name, parsed.endpoint, route.offer.model),
        model=route.name,
        body=orjson.dumps(parsed.body),
        embedding_inputs=0 if inputs is None else len(inputs) if several else 1,
        estimated_nanos=0,
        standard_nanos=_ceiling(parts, parsed, "standard"),
        prices=route.offer.prices,
        markup_bps=parts.house.markup_of(route),
        created_at=parsed.now,
        deadline_at=parsed.options.deadline_at,
        custom_id=parsed.options.custom_id,
        metadata=parsed.options.metadata,
        webhook=parsed.options.webhook,
        answer=Stored(202, {}, b""),
        max_cost_nanos=parsed.options.max_cost_nanos,
        escalate=parsed.options.escalate,
        source=parsed.source,
    )


def _accepted(job: JobView, preference: str) -> Stored:
    """What the caller of a new job is told."""
    headers = {
        "Location": f"/v1/jobs/{ids.show(Prefix.JOB, job.id)}",
        "Retry-After": str(POLL_AFTER_SECONDS),
        "Preference-Applied": preference,
        "X-Lane": job.lane,
    }
    return Stored(202, headers, orjson.dumps(accepted_json(job)))


def _run_now(
    parts: State, parsed: Parsed, headers: Mapping[str, str] = answers.NO_HEADERS
) -> Response:
    call = _call(parts, parsed)
    if parsed.body.get("stream"):
        return streams.answer(parts, call, headers, parsed.surface)
    return answers.answer(parts, call, headers, parsed.surface)


def _call(parts: State, parsed: Parsed) -> Call:
    identity = caller()
    return Call(
        id=parsed.id,
        account_id=identity.account_id,
        key_id=identity.key_id,
        endpoint=parsed.endpoint,
        route=parsed.route,
        fallbacks=parsed.fallbacks,
        body=parsed.body,
        estimated_nanos=_held(parts, parsed, "standard"),
        markup_bps=parts.house.markup_of(parsed.route),
        expires_at=parsed.now + timedelta(seconds=HOLD_SECONDS),
        keyed=_keyed(parsed, None),
        source=parsed.source,
    )
