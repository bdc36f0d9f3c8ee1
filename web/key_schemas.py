"""The bodies and the answers of the routes for keys and for the audit log."""

from typing import Annotated, Any, Literal

from pydantic import (
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictInt,
    StrictStr,
    WithJsonSchema,
)

from gateway.access.keys_admin import LONGEST_OVERLAP, KeyStatus
from gateway.access.scopes import DEFAULT_SCOPES, Scope
from gateway.billing.prices import parse_usd
from models.audit import ActorKind
from web.objects import UnixSeconds, Usd

KeyId = Annotated[str, Field(pattern="^key_[0-9a-f]{32}$")]
AuditId = Annotated[str, Field(pattern="^audit_[0-9a-f]{32}$")]

DAY_SECONDS = 86_400
LONGEST_OVERLAP_SECONDS = round(LONGEST_OVERLAP.total_seconds())


def _whole(value: Any) -> Any:
    """JSON knows no integers: 60.0 is one as well."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _cap(amount: Any) -> int:
    nanos = parse_usd(amount)
    if not nanos:
        raise ValueError("a cap is more than 0")
    return nanos


Name = Annotated[StrictStr, Field(max_length=200, pattern=r"^[^\x00]*$")]
_ONCE_OR_MORE = {"uniqueItems": False}
"""What is named twice counts once."""
Scopes = Annotated[frozenset[Scope], Field(min_length=1, json_schema_extra=_ONCE_OR_MORE)]
Models = Annotated[
    frozenset[StrictStr], Field(min_length=1, max_length=100, json_schema_extra=_ONCE_OR_MORE)
]
RequestsPerMinute = Annotated[StrictInt, Field(ge=1, le=1_000_000), BeforeValidator(_whole)]
OverlapSeconds = Annotated[
    StrictInt, Field(ge=0, le=LONGEST_OVERLAP_SECONDS), BeforeValidator(_whole)
]
Cap = Annotated[
    int,
    BeforeValidator(_cap),
    WithJsonSchema({"type": "string", "pattern": r"^\d{1,9}(\.\d{1,9})?$", "examples": ["25"]}),
]
"""An amount of USD, a decimal string, as nano-USD."""
Moment = Annotated[
    AwareDatetime,
    WithJsonSchema({"anyOf": [{"type": "string", "format": "date-time"}, {"type": "number"}]}),
]
"""An RFC 3339 time, or Unix seconds."""


class ApiKeyRequest(BaseModel):
    """`POST /v1/keys`. A limit that is null or left out is the default; no `models`: all."""

    model_config = ConfigDict(extra="forbid")

    name: Name = ""
    scopes: Scopes = DEFAULT_SCOPES
    models: Models | None = None
    requests_per_minute: RequestsPerMinute | None = None
    daily_usd: Cap | None = None
    monthly_usd: Cap | None = None
    expires_at: Moment | None = None


class ApiKeyChanges(BaseModel):
    """`POST /v1/keys/{id}`: what is left out stays as it is; null puts the default back."""

    model_config = ConfigDict(extra="forbid")

    name: Name = Field(default_factory=str)
    scopes: Scopes = Field(default_factory=frozenset)
    models: Models | None = None
    requests_per_minute: RequestsPerMinute | None = None
    daily_usd: Cap | None = None
    monthly_usd: Cap | None = None
    expires_at: Moment | None = None


class ApiKeyRotation(BaseModel):
    """`POST /v1/keys/{id}/rotate`: how long the text before opens as well; 0 ends it at once."""

    model_config = ConfigDict(extra="forbid")

    overlap_seconds: OverlapSeconds = DAY_SECONDS


class ApiKey(BaseModel):
    """A secret key without its text, and the limits that hold for it."""

    id: KeyId
    object: Literal["api_key"]
    name: str
    preview: Annotated[str, Field(examples=["sk-op-4f7C…x0Qz"])]
    status: KeyStatus
    scopes: list[Scope]
    models: Annotated[list[str] | None, Field(description="What it may call; null: all.")]
    requests_per_minute: int
    daily_usd: Usd
    monthly_usd: Usd
    created_at: UnixSeconds
    last_used_at: Annotated[UnixSeconds | None, Field(description="To the minute.")]
    expires_at: UnixSeconds | None
    revoked_at: UnixSeconds | None
    previous_until: Annotated[
        UnixSeconds | None,
        Field(description="How long the text before the last rotation opens as well."),
    ]


class ApiKeyWithText(ApiKey):
    """A key and its text, which is not shown again."""

    api_key: Annotated[str, Field(pattern="^sk-op-[0-9A-Za-z]{32}$")]


class ApiKeyPage(BaseModel):
    """A page of keys, newest first."""

    object: Literal["list"]
    data: list[ApiKey]
    first_id: KeyId | None
    last_id: KeyId | None
    has_more: bool


class DeletedApiKey(BaseModel):
    """A key that opens nothing any more."""

    id: KeyId
    object: Literal["api_key.deleted"]
    deleted: Literal[True]


class AuditActor(BaseModel):
    """Who made a change: a key of the account, by its id, or an operator, by their name."""

    type: ActorKind
    id: KeyId | None
    name: str | None


class AuditLogEntry(BaseModel):
    """One change of the account, of its keys or its settings."""

    id: AuditId
    object: Literal["audit_log.entry"]
    action: Annotated[str, Field(examples=["api_key.changed"])]
    target_id: Annotated[str, Field(description="What was changed, by its id.")]
    changes: Annotated[
        dict[str, Any], Field(examples=[{"name": {"from": "ci", "to": "ci nightly"}}])
    ]
    actor: AuditActor
    remote_address: str | None
    request_id: str | None
    created_at: UnixSeconds


class AuditLogPage(BaseModel):
    """A page of the audit log, newest first."""

    object: Literal["list"]
    data: list[AuditLogEntry]
    first_id: AuditId | None
    last_id: AuditId | None
    has_more: bool
