"""Query parameters that several routes take, and what is answered to wrong ones."""

import re
from typing import Annotated
from uuid import UUID

from flask import request
from pydantic import Field

from models import ids
from models.ids import Prefix
from web.documented import Parameter
from web.errors import ApiError
from web.key_schemas import AuditId, KeyId
from web.objects import JobId
from web.webhook_objects import DeliveryId, EndpointId

PAGE_DEFAULT, PAGE_MOST = 20, 100
_AFTER = "Begin after this one, the `last_id` of the page before."
LIMIT = Parameter(
    "limit", Annotated[int, Field(ge=1, le=PAGE_MOST)], f"{PAGE_DEFAULT} unless said."
)
AFTER_JOB = Parameter("after", JobId, _AFTER)
AFTER_ENDPOINT = Parameter("after", EndpointId, _AFTER)
AFTER_DELIVERY = Parameter("after", DeliveryId, _AFTER)
AFTER_KEY = Parameter("after", KeyId, _AFTER)
AFTER_AUDIT = Parameter("after", AuditId, _AFTER)


def number(name: str, default: int, *, least: int, most: int = 10**9) -> int:
    """A whole number; raises the 400."""
    text = request.args.get(name)
    if text is None:
        return default
    if not re.fullmatch("[0-9]{1,9}", text) or not least <= int(text) <= most:
        raise ApiError(400, f"'{name}' must be a whole number from {least} to {most}.", param=name)
    return int(text)


def page_limit() -> int:
    """How many things a page is to hold."""
    return number("limit", PAGE_DEFAULT, least=1, most=PAGE_MOST)


def page_after(prefix: Prefix, thing: str) -> UUID | None:
    """What a page is to begin after."""
    text = request.args.get("after")
    if text is None:
        return None
    after = ids.parse(prefix, text)
    if after is None:
        raise ApiError(400, f"'after' must be the id of a {thing}.", param="after")
    return after
