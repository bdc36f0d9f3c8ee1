"""The routes for an account's own provider keys, as Neureus's reference has them.

A key that was handed over is never shown again. What each change means for work that is under way
is said in `gateway.access.credentials`.
"""

import orjson
from flask import Blueprint, Response, request

from gateway.access import credentials
from gateway.access.audit_log import Note
from gateway.access.credentials import KeyView
from web.audit import audited
from web.auth import caller
from web.documented import Answer, documented
from web.errors import ApiError
from web.neureus_schemas import (
    NeureusProvider,
    NeureusProviderKey,
    NeureusProviders,
)
from web.schemas import check, read_body
from web.state import state
from workers.bell import Actor

blueprint = Blueprint("providers", __name__)


@blueprint.get("/ai/providers")
@documented("AI", {200: Answer("All of them.", NeureusProviders)})
def list_providers() -> Response:
    """The providers that the account has configured a key of its own for."""
    found = state().readers.run(credentials.configured, caller().account_id)
    return _json({"providers": [_shown(key) for key in found]})


@blueprint.put("/ai/providers/<provider>/key")
@documented(
    "AI", {200: Answer("It is used from now on.", NeureusProvider)}, body=NeureusProviderKey
)
def put_provider_key(provider: str) -> Response:
    """Configures a key for new calls. What is under way goes on with the one before it."""
    _check(provider)
    text = _key_text()
    vault = state().house.data_key_vault
    audited(
        lambda version: None if version is None else _note(provider, "configured", version),
        credentials.put,
        vault,
        caller().account_id,
        provider,
        text,
    )
    return _changed(provider)


@blueprint.post("/ai/providers/<provider>/rotate")
@documented(
    "AI", {200: Answer("It is used from now on.", NeureusProvider)}, body=NeureusProviderKey
)
def rotate_provider_key(provider: str) -> Response:
    """Replaces a configured key, for what is under way too: with one of the same account there."""
    _check(provider)
    text = _key_text()
    version = audited(
        lambda version: None if version is None else _note(provider, "rotated", version),
        credentials.rotate,
        state().house.data_key_vault,
        caller().account_id,
        provider,
        text,
    )
    if version is None:
        raise _not_configured(provider)
    return _changed(provider)


@blueprint.delete("/ai/providers/<provider>/key")
@documented("AI", {200: Answer("It is destroyed.", NeureusProvider)})
def delete_provider_key(provider: str) -> Response:
    """Destroys a key. Jobs that were to be done with it fail with 403."""
    _check(provider)
    removed = audited(
        lambda removed: _note(provider, "removed") if removed else None,
        credentials.remove,
        state().house.data_key_vault,
        caller().account_id,
        provider,
    )
    if not removed:
        raise _not_configured(provider)
    state().bell.ring_soon(Actor.CUT_LANES)
    return _changed(provider, configured=False)


def _check(provider: str) -> None:
    known = state().house.dialects
    if provider not in known:
        raise ApiError(404, f"There is no such provider. There are {', '.join(sorted(known))}.")


def _key_text() -> str:
    return check(NeureusProviderKey, read_body(request)).key


def _not_configured(provider: str) -> ApiError:
    return ApiError(404, f"No key of your own is configured for {provider}.")


def _note(provider: str, done: str, version: int | None = None) -> Note:
    return Note(f"provider_key.{done}", provider, {} if version is None else {"version": version})


def _changed(provider: str, *, configured: bool = True) -> Response:
    state().own_keys.forget(caller().account_id)
    return _json({"provider": provider, "configured": configured})


def _shown(key: KeyView) -> dict[str, object]:
    return {
        "provider": key.provider,
        "configured": True,
        "keyPreview": key.preview,
        "version": key.version,
        "createdAt": key.created_at.isoformat(),
        "rotatedAt": None if key.rotated_at is None else key.rotated_at.isoformat(),
    }


def _json(body: object) -> Response:
    return Response(orjson.dumps(body), mimetype="application/json")
