"""The audit log: who changed what of an account, when and from where.

An entry is written in the transaction of its change, so that neither is there without the other,
and it is never changed again: the table refuses it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from models import ids
from models.audit import ActorKind, AuditEntry


class UnknownCursor(Exception):
    """A page is to begin after something that is not the account's."""


@dataclass(frozen=True, slots=True)
class Actor:
    """Who makes a change, and from where: a key in a request, or an operator at a command line."""

    kind: ActorKind
    key_id: UUID | None = None
    name: str | None = None
    remote_address: str | None = None
    request_id: str | None = None


@dataclass(frozen=True, slots=True)
class Note:
    """What is noted of a change.

    `action` is the thing and what was done, as `api_key.revoked`; `target_id` the thing's outside
    id; `changes` its fields as they were set. Nothing of it may be a secret.
    """

    action: str
    target_id: str
    changes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Entry:
    """A change as it was noted."""

    id: UUID
    account_id: UUID
    action: str
    target_id: str
    changes: dict[str, Any]
    actor: Actor
    created_at: datetime


def record(session: Session, actor: Actor, account_id: UUID, note: Note) -> None:
    """Notes a change that the session's transaction makes."""
    session.add(
        AuditEntry(
            id=ids.new(),
            account_id=account_id,
            action=note.action,
            target_id=note.target_id,
            changes=dict(note.changes),
            actor_kind=actor.kind,
            actor_key_id=actor.key_id,
            actor_name=actor.name,
            remote_address=actor.remote_address,
            request_id=actor.request_id,
        )
    )
    session.flush()


def page(session: Session, account_id: UUID, *, limit: int, after: UUID | None) -> Sequence[Entry]:
    """An account's entries, newest first; after one of them, if it is named.

    Raises UnknownCursor.
    """
    mine = select(AuditEntry).where(AuditEntry.account_id == account_id)
    if after is not None:
        if session.scalar(mine.where(AuditEntry.id == after)) is None:
            raise UnknownCursor
        mine = mine.where(AuditEntry.id < after)
    rows = session.scalars(mine.order_by(AuditEntry.id.desc()).limit(limit))
    return [_entry(row) for row in rows]


def _entry(row: AuditEntry) -> Entry:
    actor = Actor(
        ActorKind(row.actor_kind),
        row.actor_key_id,
        row.actor_name,
        row.remote_address,
        row.request_id,
    )
    return Entry(
        row.id, row.account_id, row.action, row.target_id, row.changes, actor, row.created_at
    )
