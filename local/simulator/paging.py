"""Cutting a list into pages by cursor, as both providers do."""

from collections.abc import Sequence
from typing import Protocol, TypeVar

from local.simulator.errors import invalid


class HasId(Protocol):
    id: str


Item = TypeVar("Item", bound=HasId)


def limit_of(text: str | None, default: int, maximum: int) -> int:
    """The `limit` of a query. Raises a 400 outside 1..maximum."""
    if text is None:
        return default
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= maximum:
        raise invalid(f"Invalid 'limit': expected an integer from 1 to {maximum}.", "limit")
    return int(text)


def _position(items: Sequence[Item], cursor: str, name: str) -> int:
    for index, item in enumerate(items):
        if item.id == cursor:
            return index
    raise invalid(f"Invalid '{name}': no such object '{cursor}'.", name)


def page_after(
    items: Sequence[Item], limit: int, cursor: str | None, name: str
) -> tuple[Sequence[Item], bool]:
    """The page behind `cursor` (or the first), and whether more follow."""
    start = 0 if cursor is None else _position(items, cursor, name) + 1
    return items[start : start + limit], len(items) > start + limit


def page_before(
    items: Sequence[Item], limit: int, cursor: str, name: str
) -> tuple[Sequence[Item], bool]:
    """The page just in front of `cursor`, and whether more lie in front of that."""
    end = _position(items, cursor, name)
    return items[max(0, end - limit) : end], end > limit
