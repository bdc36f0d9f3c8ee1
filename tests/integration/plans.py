"""What PostgreSQL would read a statement's tables by if they were large."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
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
_PARTIAL = text("SELECT indexrelid::regclass::text FROM pg_index WHERE indpred IS NOT NULL")
# Empty tables would be read whole.
_INDEXES_FIRST = text("SET LOCAL enable_seqscan = off")


@dataclass(frozen=True, slots=True)
class Scan:
    """One reading of one table. `index` is None where all of it is read.

    `passes_over` is whether rows are left out that the index, or the part of the table that it is
    of, does not leave out itself.
    """

    table: str
    index: str | None
    passes_over: bool


def scans(
    engine: Engine, statement: str, parameters: Mapping[str, Any] | None = None
) -> list[Scan]:
    """How a statement reads its tables, each as often as it does."""
    with engine.connect() as connection:
        connection.execute(_FORGET_ROWS)
        connection.execute(_FORGET_VALUES)
        connection.execute(_INDEXES_FIRST)
        ((plan,),) = connection.execute(
            text(f"EXPLAIN (FORMAT JSON) {statement}"), parameters or {}
        ).scalars()
        partial = set(connection.scalars(_PARTIAL))
    return [_scan(node, partial) for node in _nodes(plan["Plan"]) if "Relation Name" in node]


def _scan(node: dict[str, Any], partial: Collection[str]) -> Scan:
    below = [each for each in _nodes(node) if "Index Name" in each]
    index = below[0]["Index Name"] if below else None
    is_narrowed = index in partial or any("Index Cond" in each for each in below)
    return Scan(node["Relation Name"], index, "Filter" in node and not is_narrowed)


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for below in plan.get("Plans", ()):
        yield from _nodes(below)
