"""The routes for an account's keys. Only a key with the scope `admin` comes this far.

An admin key stands for the account's owner: it may give its account's keys any scope, any models
and any cap. More requests a minute than the default are an operator's to give.
"""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar
from uuid import UUID

import orjson
from flask import Blueprint, Response, request
from pydantic import BaseModel

from gateway.access import keys_admin
from gateway.access.audit_log import UnknownCursor
from gateway.access.keys import DEFAULT_REQUESTS_PER_MINUTE
from gateway.access.keys_admin import KEYS_MAX, KeyEnded, KeyView, LimitTooHigh, TooManyKeys
from gateway.billing.prices import format_usd
from gateway.billing.spending import DEFAULT_DAILY_NANOS, DEFAULT_MONTHLY_NANOS
from models import ids
from models.ids import Prefix
from web.audit import actor
from web.auth import caller
from web.documented import Answer, documented
from web.errors import ApiError
from web.key_schemas import (
    ApiKey,
    ApiKeyChanges,
    ApiKeyPage,
    ApiKeyRequest,
    ApiKeyRotation,
    ApiKeyWithText,
    DeletedApiKey,
)
from web.parameters import AFTER_KEY, LIMIT, page_after, page_limit
from web.schemas import check, has_body, read_body
from web.serialisers import list_json, unix
from web.state import state

blueprint = Blueprint("keys", __name__)

DO_NOT_RETRY = {"x-should-retry": "false"}
TO_KEY = dict.fromkeys(
    ("get_key", "change_key", "rotate_key", "revoke_key"), ("key_id", "$response.body#/id")
)

T = TypeVar("T")


@blueprint.post("/v1/keys")
@documented(
    "Keys",
    {200: Answer("The key.", ApiKeyWithText, links=TO_KEY)},
    errors=(403,),
    body=ApiKeyRequest,
)
def create_key() -> Response:
    """Makes a key; the answer shows its text, this once."""
    parts, wanted = state(), check(ApiKeyRequest, read_body(request))
    try:
        key, made = parts.readers.run(
            keys_admin.create, parts.house.digest, actor(), caller().account_id, _fields(wanted)
        )
    except TooManyKeys as error:
        message = f"An account has {KEYS_MAX} keys at most, besides those that have ended."
        raise ApiError(400, message) from error
    except LimitTooHigh as error:
        raise _too_high(error) from error
    return _json({**key_json(key), "api_key": made.text})


@blueprint.get("/v1/keys")
@documented(
    "Keys", {200: Answer("A page.", ApiKeyPage)}, errors=(404,), parameters=(LIMIT, AFTER_KEY)
)
def list_keys() -> Response:
    """The account's keys, newest first; those that have ended as well."""
    limit, after = page_limit(), page_after(Prefix.KEY, "key")
    try:
        # One more than asked for tells whether there is a next page.
        page = state().readers.run(
            keys_admin.page, caller().account_id, limit=limit + 1, after=after
        )
    except UnknownCursor as error:
        raise _not_found() from error
    shown = [key_json(each) for each in page[:limit]]
    return _json(list_json(shown, has_more=len(page) > limit))


@blueprint.get("/v1/keys/<key_id>")
@documented("Keys", {200: Answer("The key.", ApiKey)})
def get_key(key_id: str) -> Response:
    """One key, without its text."""
    return _json(
        key_json(_found(state().readers.run(keys_admin.get, caller().account_id, _named(key_id))))
    )


@blueprint.post("/v1/keys/<key_id>")
@documented("Keys", {200: Answer("The key now.", ApiKey)}, errors=(403, 409), body=ApiKeyChanges)
def change_key(key_id: str) -> Response:
    """Changes what the body names; it holds everywhere within two seconds."""
    named, wanted = _named(key_id), check(ApiKeyChanges, read_body(request))
    try:
        changed = state().readers.run(
            keys_admin.change, actor(), caller().account_id, named, _fields(wanted)
        )
    except KeyEnded as error:
        raise _ended() from error
    except LimitTooHigh as error:
        raise _too_high(error) from error
    return _json(key_json(_found(changed)))


@blueprint.post("/v1/keys/<key_id>/rotate")
@documented(
    "Keys",
    {200: Answer("The key and its new text.", ApiKeyWithText)},
    errors=(409,),
    body=ApiKeyRotation,
    needs_body=False,
)
def rotate_key(key_id: str) -> Response:
    """A new text for a key; the one before opens as well, for a day unless said otherwise.

    The key keeps its id, its limits and what it has spent.
    """
    parts, named = state(), _named(key_id)
    wanted = check(ApiKeyRotation, read_body(request) if has_body(request) else {})
    overlap = timedelta(seconds=wanted.overlap_seconds)
    try:
        rotated = parts.readers.run(
            keys_admin.rotate, parts.house.digest, actor(), caller().account_id, named, overlap
        )
    except KeyEnded as error:
        raise _ended() from error
    key, made = _found(rotated)
    return _json({**key_json(key), "api_key": made.text})


@blueprint.delete("/v1/keys/<key_id>")
@documented("Keys", {200: Answer("It opens nothing any more.", DeletedApiKey)})
def revoke_key(key_id: str) -> Response:
    """Revokes a key: it is refused everywhere within two seconds, and stays in the list."""
    if not state().readers.run(keys_admin.revoke, actor(), caller().account_id, _named(key_id)):
        raise _not_found()
    return _json({"id": key_id, "object": "api_key.deleted", "deleted": True})


def model_ids(names: Iterable[str]) -> frozenset[str]:
    """The catalogue's names of models, by any of theirs. Raises a LookupError with the unknown."""
    found = {name: state().house.catalogue.resolve(name) for name in names}
    for name, model in found.items():
        if model is None:
            raise LookupError(name)
    return frozenset(model.id for model in found.values() if model is not None)


def key_json(key: KeyView) -> dict[str, Any]:
    """A key without its text."""
    daily, monthly = key.daily_nanos, key.monthly_nanos
    return {
        "id": ids.show(Prefix.KEY, key.id),
        "object": "api_key",
        "name": key.name,
        "preview": key.preview,
        "status": key.status,
        "scopes": key.scopes,
        "models": key.models,
        "requests_per_minute": key.requests_per_minute or DEFAULT_REQUESTS_PER_MINUTE,
        "daily_usd": format_usd(DEFAULT_DAILY_NANOS if daily is None else daily),
        "monthly_usd": format_usd(DEFAULT_MONTHLY_NANOS if monthly is None else monthly),
        "created_at": unix(key.created_at),
        "last_used_at": unix(key.last_used_at),
        "expires_at": unix(key.expires_at),
        "revoked_at": unix(key.revoked_at),
        "previous_until": unix(key.previous_until),
    }


def _fields(wanted: BaseModel) -> Mapping[str, Any]:
    """What a body sets, by column."""
    fields = wanted.model_dump(exclude_unset=True)
    for period in ("daily", "monthly"):
        if f"{period}_usd" in fields:
            fields[f"{period}_nanos"] = fields.pop(f"{period}_usd")
    if fields.get("models") is not None:
        try:
            fields["models"] = model_ids(fields["models"])
        except LookupError as error:
            raise ApiError(400, f"There is no model '{error}'.", param="models") from error
    expires_at = fields.get("expires_at")
    if expires_at is not None and expires_at <= datetime.now(UTC):
        raise ApiError(400, "'expires_at' must lie in the future.", param="expires_at")
    return fields


def _named(outside_id: str) -> UUID:
    return _found(ids.parse(Prefix.KEY, outside_id))


def _found(found: T | None) -> T:
    if found is None:
        raise _not_found()
    return found


def _not_found() -> ApiError:
    return ApiError(404, "There is no such key.")


def _ended() -> ApiError:
    return ApiError(409, "The key is expired or revoked.", headers=DO_NOT_RETRY)


def _too_high(error: LimitTooHigh) -> ApiError:
    message = f"'requests_per_minute' may be {error.most} at most: more is the operator's to give."
    return ApiError(400, message, param="requests_per_minute")


def _json(body: object) -> Response:
    return Response(orjson.dumps(body), mimetype="application/json")
