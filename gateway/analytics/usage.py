"""What an account has used and paid, summed by day, model, provider, key, lane or surface.

From `daily_usage`, which is written with each settlement: the sums are exact, and never behind.
They are of calls that were settled, on the UTC day on which they were; what failed costs nothing
and is not among them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from enum import StrEnum
from types import MappingProxyType
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

MOST_ROWS = 10_000


class Dimension(StrEnum):
    """What sums may be told apart by."""

    DAY = "day"
    MODEL = "model"
    PROVIDER = "provider"
    KEY = "key"
    LANE = "lane"
    SURFACE = "surface"


COLUMNS: Mapping[Dimension, str] = MappingProxyType(
    {each: "key_id" if each is Dimension.KEY else each.value for each in Dimension}
)


@dataclass(frozen=True, slots=True)
class Sums:
    """Calls, tokens and nano-USD. `unpriced` calls, whose usage is unknown, are in nothing else."""

    calls: int = 0
    unpriced_calls: int = 0
    input_uncached: int = 0
    cache_read: int = 0
    cache_write: int = 0
    output: int = 0
    reasoning: int = 0
    paid_nanos: int = 0
    list_nanos: int = 0

    @property
    def input_total(self) -> int:
        """All tokens of the prompts, those of caches among them."""
        return self.input_uncached + self.cache_read + self.cache_write

    @property
    def savings_nanos(self) -> int:
        """What the same calls would have cost more in the standard lane."""
        return self.list_nanos - self.paid_nanos


@dataclass(frozen=True, slots=True)
class Row:
    """The sums of what shares these values; a key's is its id, and whether it is publishable."""

    values: Mapping[Dimension, Any]
    is_widget_key: bool
    sums: Sums


@dataclass(frozen=True, slots=True)
class UsageFilter:
    """From the UTC day `start` to `end`, both included; of one key or one model, if it says so."""

    start: date
    end: date
    key_id: UUID | None = None
    model: str | None = None


class TooManyRows(Exception):
    """More than `MOST_ROWS`."""


_SUMS = tuple(Sums.__dataclass_fields__)
_SELECT = f"""
    SELECT {{columns}} EXISTS (SELECT FROM widget_keys WHERE id = {{key}}) AS is_widget_key,
           {", ".join(f"coalesce(sum({name}), 0)::bigint AS {name}" for name in _SUMS)}
    FROM daily_usage
    WHERE account_id = :account_id AND day BETWEEN :start AND :end
      AND (CAST(:key_id AS uuid) IS NULL OR key_id = :key_id)
      AND (CAST(:model AS text) IS NULL OR model = :model)
    {{group}} LIMIT {MOST_ROWS + 1}
"""


def read(
    session: Session, account_id: UUID, wanted: UsageFilter, by: Sequence[Dimension]
) -> list[Row]:
    """The sums, told apart by some dimensions and in their order; newest days first.

    Without a dimension there is one row. Raises TooManyRows.
    """
    columns = [COLUMNS[each] for each in by]
    order = [f"{name} DESC" if name == "day" else name for name in columns]
    query = _SELECT.format(
        columns="".join(f"{name}, " for name in columns),
        key="daily_usage.key_id" if Dimension.KEY in by else "NULL",
        group=f"GROUP BY {', '.join(columns)} ORDER BY {', '.join(order)}" if columns else "",
    )
    rows = session.execute(
        text(query),
        {
            "account_id": account_id,
            "start": wanted.start,
            "end": wanted.end,
            "key_id": wanted.key_id,
            "model": wanted.model,
        },
    ).mappings()
    found = [
        Row(
            {each: row[COLUMNS[each]] for each in by},
            row["is_widget_key"],
            Sums(**{name: row[name] for name in _SUMS}),
        )
        for row in rows
    ]
    if len(found) > MOST_ROWS:
        raise TooManyRows
    return found


def total(rows: Sequence[Row]) -> Sums:
    """Of all rows."""
    return Sums(**{name: sum(getattr(row.sums, name) for row in rows) for name in _SUMS})
