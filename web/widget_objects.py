"""What the routes of publishable keys take and answer.

Source: Neureus's reference, "AI Gateway", which has `agent_id`, `key` and `keyPreview`; the rest
is ours.
"""

from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StrictInt,
    StrictStr,
    WithJsonSchema,
)
from pydantic.alias_generators import to_camel

from gateway.access.keys import DEFAULT_REQUESTS_PER_MINUTE
from gateway.access.widget_keys import (
    DAILY_NANOS,
    MONTHLY_NANOS,
    MOST_REQUESTS_PER_MINUTE,
    VISITOR_REQUESTS_PER_MINUTE,
)
from settings.origins import LONGEST, PATTERN, check_origin
from web.key_schemas import Cap, Models
from web.neureus_schemas import Dollars
from web.objects import UnixSeconds

WidgetKeyId = Annotated[str, Field(pattern="^wkey_[0-9a-f]{32}$")]
PublishableKey = Annotated[str, Field(pattern="^pk_[0-9A-Za-z]{32}$")]
AgentId = Annotated[
    StrictStr, Field(pattern="^[A-Za-z0-9][A-Za-z0-9._:/-]{0,63}$", examples=["agent_abc123"])
]
Origin = Annotated[
    StrictStr,
    AfterValidator(check_origin),
    WithJsonSchema({"type": "string", "pattern": PATTERN, "maxLength": LONGEST}),
]
RequestsPerMinute = Annotated[StrictInt, Field(ge=1, le=MOST_REQUESTS_PER_MINUTE)]


class WidgetKeyRequest(BaseModel):
    """`POST /ai/widget/key`. Whoever reads the page can spend as much as the caps allow."""

    model_config = ConfigDict(extra="forbid")

    agent_id: AgentId | None = Field(
        None, description="Yours; in the request log where a call names no other source."
    )
    allowed_origins: Annotated[list[Origin], Field(max_length=50, fail_fast=True)] = Field(
        default=[],
        description="The pages that may use it, such as `https://app.example.com`, or "
        "`https://*.example.com` for each name right under one; all of them where it is empty.",
    )
    models: Models | None = Field(None, description="What it may call; all if left out.")
    requests_per_minute: RequestsPerMinute = DEFAULT_REQUESTS_PER_MINUTE
    visitor_requests_per_minute: RequestsPerMinute = VISITOR_REQUESTS_PER_MINUTE
    daily_usd: Cap = DAILY_NANOS
    monthly_usd: Cap = MONTHLY_NANOS


class WidgetKeyNamed(BaseModel):
    """`DELETE /ai/widget/key`: what names one key; nothing, where the account has only one."""

    model_config = ConfigDict(extra="forbid")

    id: StrictStr | None = None
    key: StrictStr | None = None
    agent_id: AgentId | None = None


class _Camel(BaseModel):
    model_config = ConfigDict(
        extra="forbid", alias_generator=to_camel, serialize_by_alias=True, populate_by_name=True
    )


class NewWidgetKey(_Camel):
    """The key, which is not shown again, and what it is listed as."""

    key: PublishableKey
    key_preview: Annotated[str, Field(examples=["pk_4f7C"])]


class WidgetKey(_Camel):
    """A publishable key without its text."""

    id: WidgetKeyId
    key_preview: str
    agent_id: str | None
    allowed_origins: list[str]
    models: list[str] | None
    requests_per_minute: int
    visitor_requests_per_minute: int
    daily_usd: Dollars
    monthly_usd: Dollars
    created_at: UnixSeconds


class WidgetKeys(BaseModel):
    """All that are not revoked, newest first."""

    keys: list[WidgetKey]


class RevokedWidgetKey(BaseModel):
    """A publishable key that opens nothing any more."""

    id: WidgetKeyId
    revoked: Literal[True]
