"""The webhook routes: endpoints, their secrets, a test, and deliveries to look at and resend.

Paths and bodies are those of `client.webhooks` in OpenAI's SDK as far as it has them.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar
from urllib.parse import urlsplit
from uuid import UUID

import httpx
import orjson
from flask import Blueprint, Response, request

from gateway.access.audit_log import Note
from gateway.net.guard import RefusedAddress, check_url
from gateway.webhooks import endpoints, redelivery
from gateway.webhooks.endpoints import EndpointView, TooManyEndpoints, UnknownCursor
from gateway.webhooks.events import EventType
from gateway.webhooks.redelivery import RECOVERED_AT_ONCE, Resent
from gateway.webhooks.samples import send_sample
from models import ids
from models.ids import Prefix
from models.states import DeliveryStatus
from web.audit import audited
from web.auth import caller
from web.documented import Answer, Parameter, documented
from web.errors import ApiError
from web.parameters import AFTER_DELIVERY, AFTER_ENDPOINT, LIMIT, page_after, page_limit
from web.schemas import (
    WebhookEndpointChanges,
    WebhookEndpointRequest,
    WebhookRecovery,
    WebhookSecretRotation,
    WebhookTest,
    check,
    has_body,
    read_body,
)
from web.serialisers import delivery_json, endpoint_json, list_json
from web.state import state
from web.webhook_objects import (
    DeletedWebhookEndpoint,
    WebhookDelivery,
    WebhookDeliveryPage,
    WebhookEndpoint,
    WebhookEndpointPage,
    WebhookEndpointWithSecret,
    WebhookEventTypes,
    WebhookRecovered,
    WebhookTestResult,
)
from workers.bell import Actor

blueprint = Blueprint("webhooks", __name__)

ENDPOINT, DELIVERY = "webhook endpoint", "webhook delivery"
DO_NOT_RETRY = {"x-should-retry": "false"}
TO_ENDPOINT = dict.fromkeys(
    (
        "get_endpoint",
        "change_endpoint",
        "rotate_secret",
        "test_endpoint",
        "list_deliveries",
        "recover",
        "delete_endpoint",
    ),
    ("endpoint_id", "$response.body#/id"),
)
FIRST = "$response.body#/data/0/id"

T = TypeVar("T")


@blueprint.get("/v1/webhook_event_types")
@documented("Webhooks", {200: Answer("All of them.", WebhookEventTypes)})
def list_event_types() -> Response:
    """Everything that an endpoint can be told of."""
    return _json({"object": "list", "data": list(EventType)})


@blueprint.post("/v1/webhook_endpoints")
@documented(
    "Webhooks",
    {200: Answer("The endpoint.", WebhookEndpointWithSecret, links=TO_ENDPOINT)},
    body=WebhookEndpointRequest,
)
def create_endpoint() -> Response:
    """Makes an endpoint; the answer shows its signing secret, this once."""
    parts, wanted = state(), check(WebhookEndpointRequest, read_body(request))
    _check_url(wanted.url)
    fields: dict[str, Any] = {
        "name": wanted.name,
        "url": wanted.url,
        "event_types": _values(wanted.event_types),
        "include_result": wanted.include_result,
    }
    try:
        endpoint, secret = audited(
            lambda made: _note("created", made[0].id, fields),
            endpoints.create,
            parts.house.webhook_vault,
            caller().account_id,
            **fields,
        )
    except TooManyEndpoints as error:
        message = f"An account has {endpoints.ENDPOINTS_MAX} webhook endpoints at most."
        raise ApiError(400, message) from error
    return _json({**endpoint_json(endpoint), "signing_secret": secret})


@blueprint.get("/v1/webhook_endpoints")
@documented(
    "Webhooks",
    {200: Answer("A page.", WebhookEndpointPage)},
    errors=(404,),
    parameters=(LIMIT, AFTER_ENDPOINT),
)
def list_endpoints() -> Response:
    """The account's endpoints, newest first."""
    limit, after = page_limit(), page_after(Prefix.WEBHOOK_ENDPOINT, ENDPOINT)
    try:
        # One more than asked for tells whether there is a next page.
        page = state().readers.run(
            endpoints.page, caller().account_id, limit=limit + 1, after=after
        )
    except UnknownCursor as error:
        raise _not_found(ENDPOINT) from error
    shown = [endpoint_json(each) for each in page[:limit]]
    return _json(list_json(shown, has_more=len(page) > limit))


@blueprint.get("/v1/webhook_endpoints/<endpoint_id>")
@documented("Webhooks", {200: Answer("The endpoint.", WebhookEndpoint)})
def get_endpoint(endpoint_id: str) -> Response:
    """One endpoint, without its secret."""
    return _json(endpoint_json(_endpoint(endpoint_id)))


@blueprint.post("/v1/webhook_endpoints/<endpoint_id>")
@documented(
    "Webhooks",
    {200: Answer("The endpoint now.", WebhookEndpoint)},
    body=WebhookEndpointChanges,
)
def change_endpoint(endpoint_id: str) -> Response:
    """Changes what the body names; `enabled` turns the endpoint off and on."""
    named = _named(Prefix.WEBHOOK_ENDPOINT, endpoint_id, ENDPOINT)
    wanted = check(WebhookEndpointChanges, read_body(request))
    changes: dict[str, Any] = wanted.model_dump(exclude_unset=True)
    if "url" in changes:
        _check_url(wanted.url)
    if "event_types" in changes:
        changes["event_types"] = _values(wanted.event_types)
    changed = audited(
        lambda found: None if found is None else _note("changed", named, changes),
        endpoints.change,
        caller().account_id,
        named,
        changes,
    )
    return _json(endpoint_json(_found(changed, ENDPOINT)))


@blueprint.delete("/v1/webhook_endpoints/<endpoint_id>")
@documented("Webhooks", {200: Answer("It is gone.", DeletedWebhookEndpoint)})
def delete_endpoint(endpoint_id: str) -> Response:
    """Removes an endpoint; what was on its way to it is sent no more."""
    named = _named(Prefix.WEBHOOK_ENDPOINT, endpoint_id, ENDPOINT)
    if not audited(
        lambda deleted: _note("deleted", named, {}) if deleted else None,
        endpoints.delete,
        caller().account_id,
        named,
    ):
        raise _not_found(ENDPOINT)
    return _json({"id": endpoint_id, "object": "webhook_endpoint.deleted", "deleted": True})


@blueprint.post("/v1/webhook_endpoints/<endpoint_id>/rotate_secret")
@documented(
    "Webhooks",
    {200: Answer("The endpoint and its new secret.", WebhookEndpointWithSecret)},
    body=WebhookSecretRotation,
    needs_body=False,
)
def rotate_secret(endpoint_id: str) -> Response:
    """A new signing secret; on request the old one signs too, for 24 hours."""
    parts, named = state(), _named(Prefix.WEBHOOK_ENDPOINT, endpoint_id, ENDPOINT)
    wanted = check(WebhookSecretRotation, read_body(request) if has_body(request) else {})
    keep_old = wanted.keep_old_secret_active_for_24_hours
    rotated = audited(
        lambda found: None if found is None else _note("rotated", named, {"keep_old": keep_old}),
        endpoints.rotate_secret,
        parts.house.webhook_vault,
        caller().account_id,
        named,
        keep_old=keep_old,
    )
    endpoint, secret = _found(rotated, ENDPOINT)
    return _json({**endpoint_json(endpoint), "signing_secret": secret})


@blueprint.post("/v1/webhook_endpoints/<endpoint_id>/test")
@documented(
    "Webhooks",
    {200: Answer("The endpoint answered.", WebhookTestResult)},
    errors=(502, 504),
    body=WebhookTest,
)
def test_endpoint(endpoint_id: str) -> Response:
    """Sends a sample event at once, and tells the status that the endpoint answered."""
    parts, endpoint = state(), _endpoint(endpoint_id)
    wanted = check(WebhookTest, read_body(request))
    secrets = parts.readers.run(
        endpoints.secrets, parts.house.webhook_vault, caller().account_id, endpoint.id
    )
    try:
        status = send_sample(
            parts.webhook_transport,
            endpoint,
            secrets,
            wanted.event_type,
            allow_private=parts.house.settings.webhook_allow_private,
        )
    except httpx.TimeoutException as error:
        raise _unreached(504, error) from error
    except (RefusedAddress, httpx.TransportError) as error:
        raise _unreached(502, error) from error
    return _json(
        {
            "object": "webhook_endpoint.test",
            "webhook_endpoint_id": endpoint_id,
            "event_type": wanted.event_type,
            "status_code": status,
            "success": True,
        }
    )


@blueprint.get("/v1/webhook_endpoints/<endpoint_id>/deliveries")
@documented(
    "Webhooks",
    {200: Answer("A page.", WebhookDeliveryPage, links={"resend": ("delivery_id", FIRST)})},
    parameters=(
        LIMIT,
        AFTER_DELIVERY,
        Parameter("status", DeliveryStatus, "Only deliveries of this status."),
    ),
)
def list_deliveries(endpoint_id: str) -> Response:
    """What was and is to be sent to an endpoint, newest first, with its attempts."""
    endpoint, limit = _endpoint(endpoint_id), page_limit()
    try:
        page = state().readers.run(
            redelivery.page,
            caller().account_id,
            endpoint.id,
            limit=limit + 1,
            after=page_after(Prefix.DELIVERY, DELIVERY),
            status=_status(),
        )
    except UnknownCursor as error:
        raise _not_found(DELIVERY) from error
    shown = [delivery_json(each) for each in page[:limit]]
    return _json(list_json(shown, has_more=len(page) > limit))


@blueprint.post("/v1/webhook_endpoints/<endpoint_id>/recover")
@documented(
    "Webhooks",
    {200: Answer("They are on their way.", WebhookRecovered)},
    errors=(409,),
    body=WebhookRecovery,
)
def recover(endpoint_id: str) -> Response:
    """Sends again what has failed since a moment, 10,000 of it at a time."""
    parts, named = state(), _named(Prefix.WEBHOOK_ENDPOINT, endpoint_id, ENDPOINT)
    wanted = check(WebhookRecovery, read_body(request))
    if wanted.since > datetime.now(UTC):
        raise ApiError(400, "'since' must lie in the past.", param="since")
    outcome, recovered = parts.readers.run(
        redelivery.recover, caller().account_id, named, wanted.since
    )
    _ring(outcome, ENDPOINT)
    return _json(
        {
            "object": "webhook_endpoint.recovery",
            "webhook_endpoint_id": endpoint_id,
            "recovered": recovered,
            "has_more": recovered == RECOVERED_AT_ONCE,
        }
    )


@blueprint.post("/v1/webhook_deliveries/<delivery_id>/resend")
@documented(
    "Webhooks",
    {200: Answer("The delivery, about to be sent.", WebhookDelivery)},
    errors=(409,),
)
def resend(delivery_id: str) -> Response:
    """Sends an event again, under its id, on a schedule that begins anew."""
    parts, named = state(), _named(Prefix.DELIVERY, delivery_id, DELIVERY)
    _ring(parts.readers.run(redelivery.resend, caller().account_id, named), DELIVERY)
    delivery = parts.readers.run(redelivery.get, caller().account_id, named)
    return _json(delivery_json(_found(delivery, DELIVERY)))


def _ring(outcome: Resent, thing: str) -> None:
    """Has what was resent delivered; raises for what was not."""
    if outcome is Resent.NOT_FOUND:
        raise _not_found(thing)
    if outcome is Resent.DISABLED:
        raise ApiError(409, "The webhook endpoint is disabled.", headers=DO_NOT_RETRY)
    if outcome is Resent.IN_FLIGHT:
        raise ApiError(409, "The delivery is on its way right now.", headers=DO_NOT_RETRY)
    state().bell.ring_soon(Actor.DELIVER_WEBHOOKS)


def _note(what: str, endpoint_id: UUID, fields: Mapping[str, Any]) -> Note:
    """What the audit log is told. Of a URL only its host: the rest may be a secret."""
    told = {name: value for name, value in fields.items() if name != "url"}
    if "url" in fields:
        told["url_host"] = urlsplit(fields["url"]).hostname
    return Note(f"webhook_endpoint.{what}", ids.show(Prefix.WEBHOOK_ENDPOINT, endpoint_id), told)


def _check_url(url: str) -> None:
    try:
        check_url(url, allow_private=state().house.settings.webhook_allow_private)
    except RefusedAddress as error:
        raise ApiError(400, f"'url' is not accepted: {error}.", param="url") from error


def _values(event_types: Sequence[EventType]) -> list[str]:
    return list(dict.fromkeys(kind.value for kind in event_types))


def _status() -> DeliveryStatus | None:
    text = request.args.get("status")
    if text is None:
        return None
    try:
        return DeliveryStatus(text)
    except ValueError:
        known = ", ".join(DeliveryStatus)
        raise ApiError(400, f"'status' must be one of {known}.", param="status") from None


def _endpoint(outside_id: str) -> EndpointView:
    named = _named(Prefix.WEBHOOK_ENDPOINT, outside_id, ENDPOINT)
    return _found(state().readers.run(endpoints.get, caller().account_id, named), ENDPOINT)


def _named(prefix: Prefix, outside_id: str, thing: str) -> UUID:
    return _found(ids.parse(prefix, outside_id), thing)


def _found(found: T | None, thing: str) -> T:
    if found is None:
        raise _not_found(thing)
    return found


def _not_found(thing: str) -> ApiError:
    return ApiError(404, f"There is no such {thing}.")


def _unreached(status: int, error: Exception) -> ApiError:
    return ApiError(status, f"The endpoint could not be reached: {error}.", headers=DO_NOT_RETRY)


def _json(body: object) -> Response:
    return Response(orjson.dumps(body), mimetype="application/json")
