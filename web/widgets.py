"""The routes by which an account's owner makes, lists and revokes publishable keys.

What such a key may be used for, and where, is for `web.cors` to say.
"""

from typing import Any
from uuid import UUID

import orjson
from flask import Blueprint, Response, request

from gateway.access import widget_keys
from gateway.access.audit_log import Note
from gateway.access.keys import NewKey
from gateway.access.widget_keys import KEYS_MAX, KeyView, SeveralKeys, Terms, TooManyKeys
from gateway.billing.prices import format_usd
from models import ids
from models.ids import Prefix
from web.audit import audited
from web.auth import caller
from web.documented import Answer, Parameter, documented
from web.errors import ApiError
from web.keys import model_ids
from web.neureus_words import number
from web.schemas import check, has_body, read_body
from web.serialisers import unix
from web.state import state
from web.widget_objects import (
    AgentId,
    NewWidgetKey,
    PublishableKey,
    RevokedWidgetKey,
    WidgetKeyId,
    WidgetKeyNamed,
    WidgetKeyRequest,
    WidgetKeys,
)

blueprint = Blueprint("widgets", __name__)

PATH = "/ai/widget/key"


@blueprint.post(PATH)
@documented(
    "AI",
    {200: Answer("The key, this once.", NewWidgetKey)},
    body=WidgetKeyRequest,
    needs_body=False,
)
def create_widget_key() -> Response:
    """Makes a publishable key: it opens `POST /ai/chat` and nothing else, and may stand in a page.

    What it spends is taken from the account's balance, within caps of its own: $5 a day and $50 a
    month unless said otherwise. It never makes a job of a call.
    """
    asked = check(WidgetKeyRequest, read_body(request) if has_body(request) else {})
    terms = _terms(asked)

    def note(key: NewKey) -> Note:
        return Note("widget_key.created", _shown(key.id), widget_keys.columns_of(terms))

    digest = state().house.widget_key_digest
    try:
        key = audited(note, widget_keys.create, digest, caller().account_id, terms)
    except TooManyKeys as error:
        raise ApiError(400, f"An account has {KEYS_MAX} publishable keys at most.") from error
    return _json({"key": key.text, "keyPreview": widget_keys.preview(key.text)})


@blueprint.get(PATH)
@documented("AI", {200: Answer("All that are not revoked.", WidgetKeys)})
def list_widget_keys() -> Response:
    """The account's publishable keys, newest first."""
    found = state().readers.run(widget_keys.usable, caller().account_id)
    return _json({"keys": [key_json(key) for key in found]})


@blueprint.delete(PATH)
@documented(
    "AI",
    {200: Answer("It opens nothing any more.", RevokedWidgetKey)},
    errors=(404, 409),
    parameters=(
        Parameter("id", WidgetKeyId, "The key's id."),
        Parameter("key", PublishableKey, "The key itself."),
        Parameter("agent_id", AgentId, "The agent of the key."),
    ),
    body=WidgetKeyNamed,
    needs_body=False,
)
def revoke_widget_key() -> Response:
    """Revokes a publishable key: it is refused everywhere within two seconds.

    It is named by its id, its text or its agent, in the body or in the query; where the account has
    only one, there is no need to.
    """
    body = read_body(request) if has_body(request) else {}
    named = check(WidgetKeyNamed, {**request.args.to_dict(), **body})
    digest = state().house.widget_key_digest
    key_id = None if named.id is None else ids.parse(Prefix.WIDGET_KEY, named.id)
    if named.id is not None and key_id is None:
        raise _not_found()
    try:
        revoked = audited(
            lambda found: None if found is None else Note("widget_key.revoked", _shown(found)),
            widget_keys.revoke,
            caller().account_id,
            key_id=key_id,
            digest=None if named.key is None else digest(named.key),
            agent_id=named.agent_id,
        )
    except SeveralKeys as error:
        message = "There are several such publishable keys: name one by its id."
        raise ApiError(409, message) from error
    if revoked is None:
        raise _not_found()
    return _json({"id": _shown(revoked), "revoked": True})


def key_json(key: KeyView) -> dict[str, Any]:
    """A publishable key without its text."""
    terms = key.terms
    return {
        "id": _shown(key.id),
        "keyPreview": key.preview,
        "agentId": terms.agent_id,
        "allowedOrigins": terms.allowed_origins,
        "models": terms.models,
        "requestsPerMinute": terms.requests_per_minute,
        "visitorRequestsPerMinute": terms.visitor_requests_per_minute,
        "dailyUsd": number(format_usd(terms.daily_nanos)),
        "monthlyUsd": number(format_usd(terms.monthly_nanos)),
        "createdAt": unix(key.created_at),
    }


def _terms(asked: WidgetKeyRequest) -> Terms:
    try:
        models = None if asked.models is None else tuple(sorted(model_ids(asked.models)))
    except LookupError as error:
        raise ApiError(400, f"There is no model '{error}'.", param="models") from error
    return Terms(
        agent_id=asked.agent_id,
        allowed_origins=tuple(dict.fromkeys(asked.allowed_origins)),
        models=models,
        requests_per_minute=asked.requests_per_minute,
        visitor_requests_per_minute=asked.visitor_requests_per_minute,
        daily_nanos=asked.daily_usd,
        monthly_nanos=asked.monthly_usd,
    )


def _shown(key_id: UUID) -> str:
    return ids.show(Prefix.WIDGET_KEY, key_id)


def _not_found() -> ApiError:
    return ApiError(404, "There is no such publishable key.")


def _json(body: object) -> Response:
    return Response(orjson.dumps(body), mimetype="application/json")
