"""The audit log: every change that a person made to an account, to its keys or its settings."""

from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import CheckConstraint, Index, func
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, state_column


class ActorKind(StrEnum):
    """Who changed something: one of the account's keys, or an operator of the service."""

    API_KEY = "api_key"
    OPERATOR = "operator"


class AuditEntry(Base):
    """One change, written in its transaction and never changed itself: see AUDIT_TRIGGER.

    `actor_key_id` is the key that asked for it, `actor_name` the operator's user on their machine;
    `remote_address` and `request_id` are those of the request. `changes` holds what was set, by
    field, and no secret.
    """

    __tablename__ = "audit_log"
    __table_args__ = (
        CheckConstraint("(actor_kind = 'api_key') = (actor_key_id IS NOT NULL)", name="key"),
        CheckConstraint("(actor_kind = 'operator') = (actor_name IS NOT NULL)", name="operator"),
        Index("ix_audit_log_account", "account_id", "id"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    account_id: Mapped[UUID]
    action: Mapped[str]
    target_id: Mapped[str]
    changes: Mapped[dict[str, Any]]
    actor_kind: Mapped[ActorKind] = mapped_column(state_column(ActorKind, check="actor_kind"))
    actor_key_id: Mapped[UUID | None]
    actor_name: Mapped[str | None]
    remote_address: Mapped[str | None]
    request_id: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


AUDIT_FUNCTION = """
CREATE OR REPLACE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'rows of % are neither changed nor deleted', TG_TABLE_NAME
        USING ERRCODE = 'integrity_constraint_violation';
END $$
"""

AUDIT_TRIGGER = (
    "CREATE TRIGGER refuse_change BEFORE UPDATE OR DELETE ON audit_log "
    "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
)
"""By statement, so that even one that finds no row fails."""
