"""An account's keys: listed, changed, rotated and revoked. Nothing finds somebody else's.

Every change is noted in the audit log, in its own transaction.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from gateway.access import audit_log, keys
from gateway.access.audit_log import Actor, Note, UnknownCursor
from gateway.access.keys import DEFAULT_REQUESTS_PER_MINUTE, KeyDigest, NewKey
from models import ids
from models.accounts import Account, ApiKey
from models.audit import ActorKind
from models.ids import Prefix

KEYS_MAX = 500
"""An account's, those that still open something."""
LONGEST_OVERLAP = timedelta(days=7)
"""How long the text before a rotation may go on opening."""


_NOTE_USES = text(
    """
    UPDATE api_keys SET last_used_at = now()
    FROM (
        SELECT id FROM api_keys
        WHERE id = ANY(:key_ids)
          AND (last_used_at IS NULL OR last_used_at < now() - interval '1 minute')
        ORDER BY id FOR NO KEY UPDATE SKIP LOCKED
    ) AS due
    WHERE api_keys.id = due.id
    """
)


class KeyStatus(StrEnum):
    """Whether a key opens anything."""

    ACTIVE = "active"
    EXPIRED = "expired"
    REVOKED = "revoked"


class TooManyKeys(Exception):
    """The account has as many as it may have."""


class KeyEnded(Exception):
    """A key that is expired or revoked is neither changed nor rotated."""


class LimitTooHigh(Exception):
    """More requests a minute than a customer may give a key; `most` is what they may."""

    def __init__(self, most: int) -> None:
        super().__init__(most)
        self.most = most


@dataclass(frozen=True, slots=True)
class KeyView:
    """A key without its text. A limit that is None is the default.

    `previous_until` is how long the text before the last rotation opens as well, if it does.
    """

    id: UUID
    account_id: UUID
    name: str
    preview: str
    status: KeyStatus
    scopes: Sequence[str]
    models: Sequence[str] | None
    requests_per_minute: int | None
    daily_nanos: int | None
    monthly_nanos: int | None
    created_at: datetime
    last_used_at: datetime | None
    expires_at: datetime | None
    revoked_at: datetime | None
    previous_until: datetime | None


def create(
    session: Session,
    digest: KeyDigest,
    actor: Actor,
    account_id: UUID,
    wanted: Mapping[str, Any],
) -> tuple[KeyView, NewKey]:
    """Makes a key with these fields of `keys.create`, for an account that exists.

    Raises TooManyKeys, LimitTooHigh.
    """
    session.scalars(
        select(Account.id).where(Account.id == account_id).with_for_update(key_share=True)
    ).one()
    _check_limit(actor, wanted, DEFAULT_REQUESTS_PER_MINUTE)
    active = select(func.count()).where(
        ApiKey.account_id == account_id,
        ApiKey.revoked_at.is_(None),
        ApiKey.expires_at.is_(None) | (ApiKey.expires_at > func.now()),
    )
    if session.scalars(active).one() >= KEYS_MAX:
        raise TooManyKeys
    key = keys.create(session, digest, account_id, **wanted)
    _record(
        session,
        actor,
        account_id,
        key.id,
        "created",
        {name: _json(value) for name, value in wanted.items()},
    )
    view = get(session, account_id, key.id)
    assert view is not None
    return view, key


def get(session: Session, account_id: UUID, key_id: UUID) -> KeyView | None:
    """One of the account's keys."""
    row = session.scalars(_mine(account_id).where(ApiKey.id == key_id)).one_or_none()
    return None if row is None else _view(row, _now(session))


def page(
    session: Session, account_id: UUID, *, limit: int, after: UUID | None
) -> Sequence[KeyView]:
    """The account's keys, newest first; after one of them, if it is named. Raises UnknownCursor."""
    mine = _mine(account_id)
    if after is not None:
        if session.scalar(mine.where(ApiKey.id == after)) is None:
            raise UnknownCursor
        mine = mine.where(ApiKey.id < after)
    now = _now(session)
    return [
        _view(row, now) for row in session.scalars(mine.order_by(ApiKey.id.desc()).limit(limit))
    ]


def change(
    session: Session, actor: Actor, account_id: UUID, key_id: UUID, changes: Mapping[str, Any]
) -> KeyView | None:
    """Sets these fields of `keys.create`; the key as it is now, None if there is none.

    Raises KeyEnded, LimitTooHigh.
    """
    row = _locked(session, account_id, key_id)
    if row is None:
        return None
    now = _unended(session, row)
    _check_limit(actor, changes, max(DEFAULT_REQUESTS_PER_MINUTE, row.requests_per_minute or 0))
    told = {}
    for name, value in changes.items():
        old, new = _json(getattr(row, name)), _json(value)
        if old != new:
            setattr(row, name, new if isinstance(new, list) else value)
            told[name] = {"from": old, "to": new}
    if told:
        session.flush()
        _record(session, actor, account_id, key_id, "changed", told)
    return _view(row, now)


def rotate(
    session: Session,
    digest: KeyDigest,
    actor: Actor,
    account_id: UUID,
    key_id: UUID,
    overlap: timedelta,
) -> tuple[KeyView, NewKey] | None:
    """Gives a key a new text; the one before opens for `overlap` longer, any before that no more.

    Its id, limits and spending stay. None if there is no such key. Raises KeyEnded.
    """
    assert timedelta() <= overlap <= LONGEST_OVERLAP
    row = _locked(session, account_id, key_id)
    if row is None:
        return None
    now = _unended(session, row)
    key = NewKey(key_id, keys.generate())
    row.previous_digest = row.digest if overlap else None
    row.previous_until = now + overlap if overlap else None
    row.digest, row.preview = digest(key.text), keys.preview(key.text)
    session.flush()
    told = {"preview": row.preview, "overlap_seconds": round(overlap.total_seconds())}
    _record(session, actor, account_id, key_id, "rotated", told)
    return _view(row, now), key


def revoke(session: Session, actor: Actor, account_id: UUID, key_id: UUID) -> bool:
    """Whether there was such a key; one that was revoked before stays so."""
    row = _locked(session, account_id, key_id)
    if row is None:
        return False
    if row.revoked_at is None:
        row.revoked_at = _now(session)
        session.flush()
        _record(session, actor, account_id, key_id, "revoked", {})
    return True


def note_uses(session: Session, key_ids: Collection[UUID]) -> None:
    """Notes that keys are in use, unless that was noted less than a minute ago.

    Rows that somebody else is changing are left out: the next minute will do.
    """
    session.execute(_NOTE_USES, {"key_ids": list(key_ids)})


def owner_of(session: Session, key_id: UUID) -> UUID | None:
    """Whose key it is, for operators."""
    return session.scalars(select(ApiKey.account_id).where(ApiKey.id == key_id)).one_or_none()


def _mine(account_id: UUID) -> Any:
    return select(ApiKey).where(ApiKey.account_id == account_id)


def _locked(session: Session, account_id: UUID, key_id: UUID) -> ApiKey | None:
    mine = _mine(account_id).where(ApiKey.id == key_id).with_for_update(key_share=True)
    return session.scalars(mine).one_or_none()


def _now(session: Session) -> datetime:
    """The database's clock, by which keys expire."""
    now: datetime = session.scalars(select(func.now())).one()
    return now


def _unended(session: Session, row: ApiKey) -> datetime:
    now = _now(session)
    if _status(row, now) is not KeyStatus.ACTIVE:
        raise KeyEnded
    return now


def _check_limit(actor: Actor, wanted: Mapping[str, Any], most: int) -> None:
    """A limit above the default lifts a key out of its account's own: operators give it."""
    limit = wanted.get("requests_per_minute")
    if actor.kind is not ActorKind.OPERATOR and limit is not None and limit > most:
        raise LimitTooHigh(most)


def _status(row: ApiKey, now: datetime) -> KeyStatus:
    if row.revoked_at is not None:
        return KeyStatus.REVOKED
    if row.expires_at is not None and row.expires_at <= now:
        return KeyStatus.EXPIRED
    return KeyStatus.ACTIVE


def _view(row: ApiKey, now: datetime) -> KeyView:
    overlaps = row.previous_until is not None and row.previous_until > now
    return KeyView(
        id=row.id,
        account_id=row.account_id,
        name=row.name,
        preview=row.preview,
        status=_status(row, now),
        scopes=row.scopes,
        models=row.models,
        requests_per_minute=row.requests_per_minute,
        daily_nanos=row.daily_nanos,
        monthly_nanos=row.monthly_nanos,
        created_at=row.created_at,
        last_used_at=row.last_used_at,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
        previous_until=row.previous_until if overlaps else None,
    )


def _json(value: Any) -> Any:
    """A field as JSON holds it; a set as a sorted list, which is how it is stored as well."""
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    return sorted(map(str, value)) if isinstance(value, set | frozenset) else value


def _record(
    session: Session,
    actor: Actor,
    account_id: UUID,
    key_id: UUID,
    what: str,
    changes: Mapping[str, Any],
) -> None:
    note = Note(f"api_key.{what}", ids.show(Prefix.KEY, key_id), changes)
    audit_log.record(session, actor, account_id, note)
