"""The audit log: how changes over HTTP get into it, and the route that shows it."""

from collections.abc import Callable, Mapping
from typing import Any, Concatenate, ParamSpec, TypeVar

import orjson
from flask import Blueprint, Response, g, request
from sqlalchemy.orm import Session

from gateway.access import audit_log
from gateway.access.audit_log import Actor, Entry, Note, UnknownCursor
from gateway.billing.prices import format_usd
from models import ids
from models.audit import ActorKind
from models.ids import Prefix
from web.auth import caller
from web.client_address import client_address
from web.documented import Answer, documented
from web.errors import ApiError
from web.key_schemas import AuditLogPage
from web.parameters import AFTER_AUDIT, LIMIT, page_after, page_limit
from web.serialisers import list_json, unix
from web.state import state

blueprint = Blueprint("audit", __name__)

P = ParamSpec("P")
T = TypeVar("T")


def actor() -> Actor:
    """The caller, as the audit log names them."""
    parts = state()
    return Actor(
        ActorKind.API_KEY,
        key_id=caller().key_id,
        remote_address=client_address(request, trust_proxy=parts.house.settings.trust_proxy),
        request_id=g.request_id,
    )


def audited(
    note_of: Callable[[T], Note | None],
    change: Callable[Concatenate[Session, P], T],
    *args: P.args,
    **named: P.kwargs,
) -> T:
    """`change(session, *args, **named)` for the caller, and in its transaction what is noted of it.

    `note_of` is given the result; None of it says that nothing was changed.
    """

    def noted(session: Session) -> T:
        result = change(session, *args, **named)
        note = note_of(result)
        if note is not None:
            audit_log.record(session, who, account_id, note)
        return result

    who, account_id = actor(), caller().account_id
    return state().readers.run(noted)


@blueprint.get("/v1/audit_log")
@documented(
    "Keys",
    {200: Answer("A page.", AuditLogPage)},
    errors=(404,),
    parameters=(LIMIT, AFTER_AUDIT),
)
def list_audit_log() -> Response:
    """Who changed what of the account, of its keys and its settings, newest first."""
    limit, after = page_limit(), page_after(Prefix.AUDIT, "entry")
    try:
        # One more than asked for tells whether there is a next page.
        page = state().readers.run(
            audit_log.page, caller().account_id, limit=limit + 1, after=after
        )
    except UnknownCursor as error:
        raise ApiError(404, "There is no such entry.") from error
    shown = [entry_json(each) for each in page[:limit]]
    body = orjson.dumps(list_json(shown, has_more=len(page) > limit))
    return Response(body, mimetype="application/json")


def entry_json(entry: Entry) -> dict[str, Any]:
    """One change."""
    key_id = entry.actor.key_id
    return {
        "id": ids.show(Prefix.AUDIT, entry.id),
        "object": "audit_log.entry",
        "action": entry.action,
        "target_id": entry.target_id,
        "changes": dict(_shown(*each) for each in entry.changes.items()),
        "actor": {
            "type": entry.actor.kind,
            "id": None if key_id is None else ids.show(Prefix.KEY, key_id),
            "name": entry.actor.name,
        },
        "remote_address": entry.actor.remote_address,
        "request_id": entry.actor.request_id,
        "created_at": unix(entry.created_at),
    }


def _shown(name: str, value: Any) -> tuple[str, Any]:
    """A field that was changed; amounts in dollars, as everywhere outside."""
    if not name.endswith("_nanos"):
        return name, value
    return f"{name.removesuffix('_nanos')}_usd", _usd(value)


def _usd(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _usd(each) for name, each in value.items()}
    return value if value is None else format_usd(value)
