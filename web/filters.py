"""Query parameters that narrow what is asked for, and what is answered to wrong ones."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated
from uuid import UUID

from flask import request
from pydantic import Field

from models import ids
from models.ids import Prefix
from web.errors import ApiError

YEARS = range(1970, 3000)
LAST_SECOND = 32_503_679_999
"""Of the year 2999."""
Moment = (
    Annotated[int, Field(ge=0, le=LAST_SECOND)]
    | Annotated[str, Field(json_schema_extra={"format": "date-time"})]
)


def moment(name: str) -> datetime | None:
    """A time, as Unix seconds or as RFC 3339 writes it; raises the 400."""
    given = request.args.get(name)
    if given is None:
        return None
    # A plus that nobody escaped arrives as a space.
    given = re.sub(r" (?=\d\d:\d\d$)", "+", given)
    try:
        if re.fullmatch(r"\d{1,11}", given, re.ASCII):
            read = datetime.fromtimestamp(int(given), UTC)
        else:
            read = datetime.fromisoformat(given.upper())
    except (ValueError, OverflowError, OSError):
        read = None
    if read is None or read.tzinfo is None or read.year not in YEARS:
        message = f"'{name}' must be Unix seconds or an RFC 3339 time, from 1970 to 2999."
        raise ApiError(400, message, param=name)
    return read


def one_of(name: str, usual: str, choices: Sequence[str]) -> str:
    """A word out of some; raises the 400."""
    given = request.args.get(name, usual)
    if given not in choices:
        raise ApiError(400, f"'{name}' must be one of {', '.join(choices)}.", param=name)
    return given


def several(name: str, choices: Sequence[str], usual: str = "") -> list[str]:
    """Words out of some, separated by commas, each once; raises the 400."""
    words = list(dict.fromkeys(filter(None, request.args.get(name, usual).split(","))))
    if not set(words) <= set(choices):
        raise ApiError(400, f"'{name}' may hold {', '.join(choices)}.", param=name)
    return words


def key_id() -> UUID | None:
    """The key that something is asked of, be it secret or publishable; raises the 400."""
    given = request.args.get("key_id")
    if given is None:
        return None
    found = ids.parse(Prefix.KEY, given) or ids.parse(Prefix.WIDGET_KEY, given)
    if found is None:
        raise ApiError(400, "'key_id' must be the id of a key.", param="key_id")
    return found


def storable(name: str) -> str | None:
    """A text that PostgreSQL can hold; raises the 400."""
    given = request.args.get(name)
    if given is not None and "\x00" in given:
        raise ApiError(400, f"'{name}' must not hold a NUL.", param=name)
    return given
