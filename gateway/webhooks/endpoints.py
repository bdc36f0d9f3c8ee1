"""An account's webhook endpoints: made, read, changed, deleted. Nothing finds somebody else's."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from gateway.webhooks import health
from gateway.webhooks.signing import hint, new_secret
from models import ids

ENDPOINTS_MAX = 50
"""An account's. Each of them is looked at for every event."""
OLD_SECRET_HOURS = 24


class Seals(Protocol):
    """The vault, as far as it is needed here."""

    def seal(self, owner: UUID, secret: str) -> bytes: ...

    def open(self, owner: UUID, sealed: bytes) -> str: ...


class TooManyEndpoints(Exception):
    """The account has as many as it may have."""


class UnknownCursor(Exception):
    """A page is to begin after something that is not the account's."""


@dataclass(frozen=True, slots=True)
class EndpointView:
    """An endpoint without its secret."""

    id: UUID
    name: str
    url: str
    event_types: Sequence[str]
    include_result: bool
    secret_hint: str
    failing_since: datetime | None
    disabled_at: datetime | None
    disabled_reason: str | None
    created_at: datetime
    updated_at: datetime


_COLUMNS = """
    id, name, url, event_types, include_result, secret_hint, failing_since, disabled_at,
    disabled_reason, created_at, updated_at
"""
_MINE = "id = :endpoint_id AND account_id = :account_id"
_LOCK_ACCOUNT = text("SELECT id FROM accounts WHERE id = :account_id FOR NO KEY UPDATE")
_COUNT = text("SELECT count(*) FROM webhook_endpoints WHERE account_id = :account_id")
_INSERT = text(
    f"""
    INSERT INTO webhook_endpoints
        (id, account_id, name, url, event_types, include_result, secret, secret_hint)
    VALUES (:id, :account_id, :name, :url, :event_types, :include_result, :secret, :secret_hint)
    RETURNING {_COLUMNS}
    """
)
_GET = text(f"SELECT {_COLUMNS} FROM webhook_endpoints WHERE {_MINE}")
_LOCK = text(f"SELECT {_COLUMNS} FROM webhook_endpoints WHERE {_MINE} FOR NO KEY UPDATE")
_PAGE = text(
    f"""
    SELECT {_COLUMNS} FROM webhook_endpoints
    WHERE account_id = :account_id AND (CAST(:after AS uuid) IS NULL OR id < :after)
    ORDER BY id DESC LIMIT :limit
    """
)
_UPDATE = text(
    f"""
    UPDATE webhook_endpoints
    SET name = :name, url = :url, event_types = :event_types, include_result = :include_result,
        updated_at = now()
    WHERE {_MINE}
    """
)
_ENABLE = text(
    f"""
    UPDATE webhook_endpoints
    SET disabled_at = NULL, disabled_reason = NULL, failing_since = NULL, updated_at = now()
    WHERE {_MINE}
    """
)
_MOVE_PENDING = text(
    "UPDATE deliveries SET url = :url WHERE endpoint_id = :endpoint_id AND status = 'pending'"
)
_ROTATE = text(
    f"""
    UPDATE webhook_endpoints
    SET old_secret = CASE WHEN :keep_old THEN secret END,
        old_secret_until = CASE WHEN :keep_old
            THEN now() + interval '{OLD_SECRET_HOURS} hours' END,
        secret = :secret, secret_hint = :secret_hint, updated_at = now()
    WHERE {_MINE} RETURNING {_COLUMNS}
    """
)
_SECRETS = text(
    f"""
    SELECT secret, CASE WHEN old_secret_until > now() THEN old_secret END AS old_secret
    FROM webhook_endpoints WHERE {_MINE}
    """
)
_DELETE = text(f"DELETE FROM webhook_endpoints WHERE {_MINE}")
_KNOWN = text(
    """
    SELECT account_id, id FROM webhook_endpoints
    WHERE account_id = ANY(:account_ids) AND id = ANY(:endpoint_ids)
    """
)


def create(
    session: Session,
    seals: Seals,
    account_id: UUID,
    *,
    name: str,
    url: str,
    event_types: Sequence[str],
    include_result: bool,
) -> tuple[EndpointView, str]:
    """A new endpoint and its secret, which is shown this once. Raises TooManyEndpoints.

    The URL has been checked by the guard, the types are known ones.
    """
    session.execute(_LOCK_ACCOUNT, {"account_id": account_id})
    if session.execute(_COUNT, {"account_id": account_id}).scalar_one() >= ENDPOINTS_MAX:
        raise TooManyEndpoints
    endpoint_id, secret = ids.new(), new_secret()
    row = session.execute(
        _INSERT,
        {
            "id": endpoint_id,
            "account_id": account_id,
            "name": name,
            "url": url,
            "event_types": list(event_types),
            "include_result": include_result,
            "secret": seals.seal(endpoint_id, secret),
            "secret_hint": hint(secret),
        },
    )
    return EndpointView(**row.mappings().one()), secret


def get(session: Session, account_id: UUID, endpoint_id: UUID) -> EndpointView | None:
    """The account's endpoint."""
    return _find(session, _GET, account_id, endpoint_id)


def page(
    session: Session, account_id: UUID, *, limit: int, after: UUID | None = None
) -> list[EndpointView]:
    """Up to `limit` of the account's endpoints after `after`, newest first.

    Raises UnknownCursor.
    """
    if after is not None and get(session, account_id, after) is None:
        raise UnknownCursor
    rows = session.execute(_PAGE, {"account_id": account_id, "after": after, "limit": limit})
    return [EndpointView(**row) for row in rows.mappings()]


def change(
    session: Session, account_id: UUID, endpoint_id: UUID, changes: Mapping[str, Any]
) -> EndpointView | None:
    """Changes what `changes` names of name, url, event_types, include_result and enabled.

    What waits for the endpoint goes to its new URL, or has failed where it is disabled; a change
    of nothing leaves `updated_at` alone.
    """
    found = _find(session, _LOCK, account_id, endpoint_id)
    if found is None:
        return None
    mine = {"account_id": account_id, "endpoint_id": endpoint_id}
    fields = ("name", "url", "event_types", "include_result")
    wanted = {field: changes.get(field, getattr(found, field)) for field in fields}
    if any(wanted[field] != getattr(found, field) for field in fields):
        session.execute(_UPDATE, {**mine, **wanted})
    if wanted["url"] != found.url:
        session.execute(_MOVE_PENDING, {"endpoint_id": endpoint_id, "url": wanted["url"]})
    enabled = changes.get("enabled", found.disabled_at is None)
    if enabled and found.disabled_at is not None:
        session.execute(_ENABLE, mine)
    elif not enabled:
        health.disable(session, endpoint_id, health.REASON_REQUEST)
    return get(session, account_id, endpoint_id)


def rotate_secret(
    session: Session, seals: Seals, account_id: UUID, endpoint_id: UUID, *, keep_old: bool
) -> tuple[EndpointView, str] | None:
    """A new secret; the old one signs too for a day if it is kept, else no longer."""
    secret = new_secret()
    row = session.execute(
        _ROTATE,
        {
            "account_id": account_id,
            "endpoint_id": endpoint_id,
            "keep_old": keep_old,
            "secret": seals.seal(endpoint_id, secret),
            "secret_hint": hint(secret),
        },
    )
    found = row.mappings().one_or_none()
    return None if found is None else (EndpointView(**found), secret)


def secrets(session: Session, seals: Seals, account_id: UUID, endpoint_id: UUID) -> list[str]:
    """The secrets that sign for the account's endpoint now: one, two, or none if there is none."""
    row = session.execute(_SECRETS, {"account_id": account_id, "endpoint_id": endpoint_id}).first()
    sealed = () if row is None else (row.secret, row.old_secret)
    return [seals.open(endpoint_id, each) for each in sealed if each is not None]


def delete(session: Session, account_id: UUID, endpoint_id: UUID) -> bool:
    """Removes the account's endpoint and ends what waits for it; whether there was one."""
    if _find(session, _LOCK, account_id, endpoint_id) is None:
        return False
    health.end_pending(session, endpoint_id)
    session.execute(_DELETE, {"account_id": account_id, "endpoint_id": endpoint_id})
    return True


def unknown(session: Session, named: Iterable[tuple[UUID, UUID]]) -> set[tuple[UUID, UUID]]:
    """Those of the pairs (account, endpoint) whose endpoint is not the account's."""
    pairs = set(named)
    if not pairs:
        return pairs
    rows = session.execute(
        _KNOWN,
        {
            "account_ids": list({account_id for account_id, _ in pairs}),
            "endpoint_ids": list({endpoint_id for _, endpoint_id in pairs}),
        },
    )
    return pairs - {(row.account_id, row.id) for row in rows}


def _find(session: Session, query: Any, account_id: UUID, endpoint_id: UUID) -> EndpointView | None:
    rows = session.execute(query, {"account_id": account_id, "endpoint_id": endpoint_id})
    found = rows.mappings().one_or_none()
    return None if found is None else EndpointView(**found)
