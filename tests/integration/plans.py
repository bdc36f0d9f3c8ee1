"""What PostgreSQL would read a statement's tables by if they were large."""

from collections.abc import Iterator, Mapping
from typing import Any

from sqlalchemy import Engine, text

# What autovacuum happened to find out about a few rows of an earlier test says nothing of them.
_FORGET_ROWS = text(
    """
    SELECT pg_clear_relation_stats('public', relname) FROM pg_class
    WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'i')
    """
)
_FORGET_VALUES = text(
    """
    DELETE FROM pg_statistic USING pg_class
    WHERE pg_class.oid = starelid AND relnamespace = 'public'::regnamespace
    """
)
# Empty tables would be read whole.
_INDEXES_FIRST = text("SET LOCAL enable_seqscan = off")


def scans(
    engine: Engine, statement: str, parameters: Mapping[str, Any] | None = None
) -> dict[str, dict[str, Any]]:
    """The plan's node for each table that the statement reads, by the table's name."""
    with engine.connect() as connection:
        connection.execute(_FORGET_ROWS)
        connection.execute(_FORGET_VALUES)
        connection.execute(_INDEXES_FIRST)
        ((plan,),) = connection.execute(
            text(f"EXPLAIN (FORMAT JSON) {statement}"), parameters or {}
        ).scalars()
    return {node["Relation Name"]: node for node in _nodes(plan["Plan"]) if "Relation Name" in node}


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for below in plan.get("Plans", ()):
        yield from _nodes(below)
