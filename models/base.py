"""What every table shares: the metadata, column types and the transition trigger."""

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any, ClassVar, TypeVar
from uuid import UUID

from sqlalchemy import BigInteger, DateTime, Enum, LargeBinary, MetaData, Text, Uuid
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase

S = TypeVar("S", bound=StrEnum)


class Base(DeclarativeBase):
    """Constraint names are fixed, so that a migration can name what it drops."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        str: Text,
        bytes: LargeBinary,
        UUID: Uuid(as_uuid=True),
        datetime: DateTime(timezone=True),
        dict[str, Any]: JSONB,
    }


Nanos = BigInteger
"""Nano-USD. Rows hold amounts up to 9.2 billion USD."""


def state_column(states: type[StrEnum], *, check: str = "status") -> Enum:
    """A text column that a CHECK, named after the column, keeps to the members of `states`."""
    return Enum(
        states,
        native_enum=False,
        create_constraint=True,
        name=check,
        values_callable=lambda members: [member.value for member in members],
        length=32,
    )


TRANSITION_FUNCTION = """
CREATE OR REPLACE FUNCTION refuse_transition() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% may not go from % to %', TG_TABLE_NAME, OLD.status, NEW.status
        USING ERRCODE = 'check_violation';
END $$
"""


def transition_trigger(table: str, transitions: Mapping[S, frozenset[S]]) -> str:
    """SQL of the trigger that holds `table.status` to its transition table.

    The pairs are looked at in the trigger's condition: calling a function for each row that goes
    a legal way would cost a batch more than writing its index entries does. It fires after the
    update, for before one PostgreSQL locks each row by itself, and writes that to its log.
    """
    pairs = sorted(f"{old}>{new}" for old, targets in transitions.items() for new in targets)
    return (
        f"CREATE TRIGGER check_transition AFTER UPDATE OF status ON {table} FOR EACH ROW "
        "WHEN (OLD.status IS DISTINCT FROM NEW.status "
        "AND position(' ' || OLD.status || '>' || NEW.status || ' ' "
        f"IN ' {' '.join(pairs)} ') = 0) EXECUTE FUNCTION refuse_transition()"
    )
