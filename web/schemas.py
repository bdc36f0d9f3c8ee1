"""What a request body must look like. Fields that are not named here pass through untouched."""

from typing import Annotated, Any, Literal, TypeVar

import orjson
from flask import Request
from pydantic import (
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    StrictInt,
    StrictStr,
    ValidationError,
    WithJsonSchema,
)
from pydantic_core import ErrorDetails
from werkzeug.exceptions import RequestEntityTooLarge

from gateway.net.guard import URL_MAX_BYTES
from gateway.webhooks.events import EventType
from web.errors import ApiError

MAX_BODY_BYTES = 8_000_000
DEEPEST = 64
"""Levels of nesting in a body. Real calls stay far below; deeper ones are made to break parsers."""
MOST_BRACKETS = 500_000
"""In a body, those in its texts included: to make millions of objects takes seconds."""
# Lists are given up at their first fault: four million wrong items must not be four million errors.


class Part(BaseModel):
    """One piece of a turn: a text, a picture, a file."""

    model_config = ConfigDict(extra="allow")

    type: StrictStr


class Message(BaseModel):
    """One turn of a conversation."""

    model_config = ConfigDict(extra="allow")

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: StrictStr | Annotated[list[Part], Field(fail_fast=True)] | None = None


Penalty = Annotated[float, Field(ge=-2, le=2, strict=True)]


class StreamOptions(BaseModel):
    """What a stream tells besides its pieces."""

    model_config = ConfigDict(extra="allow")

    include_usage: StrictBool | None = None


class ChatRequest(BaseModel):
    """`POST /v1/chat/completions`: OpenAI's fields whose values we check."""

    model_config = ConfigDict(extra="allow")

    model: Annotated[StrictStr, Field(min_length=1, max_length=200)]
    messages: Annotated[list[Message], Field(min_length=1, fail_fast=True)]
    stream: StrictBool | None = None
    stream_options: StreamOptions | None = None
    temperature: Annotated[float, Field(ge=0, le=2, strict=True)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1, strict=True)] | None = None
    max_tokens: Annotated[StrictInt, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[StrictInt, Field(ge=1)] | None = None
    n: Annotated[StrictInt, Field(ge=1, le=128)] | None = None
    stop: StrictStr | Annotated[list[StrictStr], Field(max_length=4, fail_fast=True)] | None = None
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    tools: Annotated[list[dict[str, Any]], Field(fail_fast=True)] | None = None


Text = Annotated[StrictStr, Field(min_length=1)]
Token = Annotated[StrictInt, Field(ge=0)]
MOST_INPUTS = Field(min_length=1, max_length=2048, fail_fast=True)


class EmbeddingRequest(BaseModel):
    """`POST /v1/embeddings`. At most 2,048 inputs, as at OpenAI."""

    model_config = ConfigDict(extra="allow")

    model: Annotated[StrictStr, Field(min_length=1, max_length=200)]
    input: (
        Text
        | Annotated[list[Text], MOST_INPUTS]
        | Annotated[list[Token], MOST_INPUTS]
        | Annotated[
            list[Annotated[list[Token], Field(min_length=1, fail_fast=True)]],
            MOST_INPUTS,
        ]
    )
    dimensions: Annotated[StrictInt, Field(ge=1)] | None = None
    encoding_format: Literal["float", "base64"] | None = None
    user: StrictStr | None = None


EndpointName = Annotated[StrictStr, Field(min_length=1, max_length=200, pattern=r"^[^\x00]+$")]
EndpointUrl = Annotated[StrictStr, Field(max_length=URL_MAX_BYTES)]
EventTypes = Annotated[list[EventType], Field(min_length=1, max_length=100, fail_fast=True)]


class WebhookEndpointRequest(BaseModel):
    """`POST /v1/webhook_endpoints`: OpenAI's fields, and whether results are sent along."""

    model_config = ConfigDict(extra="forbid")

    name: EndpointName
    url: EndpointUrl
    event_types: EventTypes
    include_result: StrictBool = False


class WebhookEndpointChanges(BaseModel):
    """`POST /v1/webhook_endpoints/{id}`: what is left out stays as it is."""

    model_config = ConfigDict(extra="forbid")

    name: EndpointName = Field(default_factory=str)
    url: EndpointUrl = Field(default_factory=str)
    event_types: EventTypes = Field(default_factory=list)
    include_result: StrictBool = Field(default_factory=bool)
    enabled: StrictBool = Field(default_factory=bool)


class WebhookSecretRotation(BaseModel):
    """`POST /v1/webhook_endpoints/{id}/rotate_secret`."""

    model_config = ConfigDict(extra="forbid")

    keep_old_secret_active_for_24_hours: StrictBool = False


class WebhookTest(BaseModel):
    """`POST /v1/webhook_endpoints/{id}/test`."""

    model_config = ConfigDict(extra="forbid")

    event_type: EventType


class WebhookRecovery(BaseModel):
    """`POST /v1/webhook_endpoints/{id}/recover`: an RFC 3339 time, or Unix seconds."""

    model_config = ConfigDict(extra="forbid")

    since: Annotated[
        AwareDatetime,
        WithJsonSchema({"anyOf": [{"type": "string", "format": "date-time"}, {"type": "number"}]}),
    ]


Schema = TypeVar("Schema", bound=BaseModel)


def read_body(request: Request) -> dict[str, Any]:
    """The request's JSON object; raises the 400, also for a compressed body, and the 413."""
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise ApiError(400, "The request body must not be compressed.", param="Content-Encoding")
    length = request.content_length
    raw = b"" if length is not None and length > MAX_BODY_BYTES else request.get_data(cache=False)
    if max(len(raw), length or 0) > MAX_BODY_BYTES:
        raise RequestEntityTooLarge
    if length is not None and len(raw) < length:
        raise ApiError(400, "The request body ended before its Content-Length.")
    if raw.count(b"[") + raw.count(b"{") > MOST_BRACKETS:
        raise ApiError(400, "The request body holds too many lists and objects.")
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise ApiError(400, "The request body is not valid JSON.") from error
    if not isinstance(body, dict):
        raise ApiError(400, "The request body must be a JSON object.")
    if _is_deeper(body, DEEPEST):
        raise ApiError(400, f"The request body is nested more than {DEEPEST} levels deep.")
    return body


def has_body(request: Request) -> bool:
    """Whether there is anything for `read_body`, where a body may be left out."""
    return bool(request.content_length) or "Transfer-Encoding" in request.headers


def check(schema: type[Schema], body: dict[str, Any]) -> Schema:
    """The body by its schema; raises a 400 that names the first field that is wrong."""
    try:
        return schema.model_validate(body)
    except ValidationError as error:
        faults = error.errors(include_url=False, include_input=False, include_context=False)
        raise _refusal(body, faults) from None


# pydantic speaks of Python's types here; callers write JSON.
_TOLD = {
    "model_type": "Input should be an object",
    "dict_type": "Input should be an object",
    "list_type": "Input should be an array",
}


def _refusal(body: dict[str, Any], faults: list[ErrorDetails]) -> ApiError:
    field = faults[0]["loc"][0]
    # Of the branches of a union, the one that came furthest is the one that was meant.
    fault = max(
        (each for each in faults if each["loc"][0] == field),
        key=lambda each: (not each["type"].endswith("_type"), len(_path_in(body, each))),
    )
    path = _shown(_path_in(body, fault))
    told = _TOLD.get(fault["type"], fault["msg"].replace(" after validation", ""))
    message = f"'{path}' is not valid: {told[:1].lower()}{told[1:]}."
    if fault["type"] == "missing":
        message = f"'{path}' is required."
    return ApiError(400, message, param=path)


def _shown(path: list[str | int]) -> str:
    """A path in OpenAI's spelling: `messages[0].content`."""
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)[1:]


def _path_in(body: Any, fault: ErrorDetails) -> list[str | int]:
    """The part of a fault's location that can be followed into the body, and what is missing.

    Only what stands in the body names a field: pydantic adds the branch of a union it tried.
    """
    location, missing = fault["loc"], fault["type"] == "missing"
    path: list[str | int] = []
    value: Any = body
    for number, step in enumerate(location, 1):
        inside = isinstance(step, int) and isinstance(value, list) and step < len(value)
        if inside or (isinstance(value, dict) and step in value):
            value = value[step]
        elif not (missing and number == len(location)):
            continue
        path.append(step)
    return path


def _is_deeper(value: Any, levels: int) -> bool:
    """Whether containers are nested deeper; walked without recursion."""
    level = [value]
    for _ in range(levels):
        level = [
            item
            for each in level
            for item in (each.values() if isinstance(each, dict) else each)
            if isinstance(item, dict | list)
        ]
        if not level:
            return False
    return True
