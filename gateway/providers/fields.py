"""Reading fields of JSON that somebody else wrote: what has the wrong type is not there."""

from datetime import UTC, datetime
from typing import Any

import orjson

JsonObject = dict[str, Any]

LARGEST_COUNT = 2**31 - 1
"""What a column of the books holds; no call has more tokens."""
LARGEST_TOTAL = 2**53
"""The sum of many calls: what every JSON reader holds exactly."""


def decode_object(data: bytes) -> JsonObject:
    """The JSON object in `data`; ValueError if it is anything else.

    orjson is strict where it matters: byte order marks, raw control characters, lone surrogates,
    NaN and nesting deeper than 1,024 are all errors, never crashes.
    """
    value = orjson.loads(data)
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    return value


def text(value: object) -> str | None:
    """A non-empty string; NUL is taken out, since PostgreSQL's text cannot hold it."""
    return (value.replace("\0", "") or None) if isinstance(value, str) else None


def string(value: object) -> str:
    """A string as it is; empty if it is anything else."""
    return value if isinstance(value, str) else ""


def count(value: object) -> int | None:
    """A whole number from 0 to 2^31 - 1. JSON's true and 1.5 are no counts."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= LARGEST_COUNT:
        return value
    return None


def total(value: object) -> int | None:
    """A whole number from 0 to 2^53: a sum over many calls."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= LARGEST_TOTAL:
        return value
    return None


def mapping(value: object) -> JsonObject:
    return value if isinstance(value, dict) else {}


def items(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def moment(value: object) -> datetime | None:
    """A time in UTC, from Unix seconds or RFC 3339."""
    try:
        if isinstance(value, int | float) and not isinstance(value, bool):
            return datetime.fromtimestamp(value, UTC)
        if isinstance(value, str):
            parsed = datetime.fromisoformat(value)
            return parsed.replace(tzinfo=parsed.tzinfo or UTC).astimezone(UTC)
    except (ValueError, OverflowError, OSError):
        return None
    return None
