"""The bodies of calls as their callers write them, and what they are answered: for the document.

`gateway.calls.options` takes our fields out and checks them, `web.schemas` checks what is left.
"""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StrictBool

from gateway.calls.options import (
    LONGEST_CUSTOM_ID,
    LONGEST_IDEMPOTENCY_KEY,
    METADATA_KEY_LENGTH,
    METADATA_PAIRS,
    METADATA_VALUE_LENGTH,
)
from gateway.net.guard import URL_MAX_BYTES
from gateway.webhooks.events import EventType
from web.documented import EVENTS, Answer, Parameter, documented
from web.money_objects import ChatAnswer, EmbeddingsAnswer
from web.objects import AcceptedCompletion, AcceptedEmbeddings
from web.schemas import ChatRequest, EmbeddingRequest

HELLO = {"role": "user", "content": "Summarise this in one line: …"}
Moment = Annotated[
    Annotated[float, Field(gt=0, le=2_592_000)]
    | Annotated[str, Field(pattern=r"^\d{1,9}(\.\d{1,6})?[smhd]?$|^\d{4}-\d\d-\d\d[Tt ]")],
    Field(
        description="Seconds, a duration such as `6h`, or an RFC 3339 time; at most 30 days away. "
        "72 hours unless said.",
        examples=["6h"],
    ),
]
Text512 = Annotated[str, Field(max_length=METADATA_VALUE_LENGTH, pattern=r"^[^\x00]*$")]
Key64 = Annotated[str, Field(max_length=METADATA_KEY_LENGTH, pattern=r"^[^\x00]*$")]
Url = Annotated[str, Field(max_length=URL_MAX_BYTES, examples=["https://example.com/hooks"])]


class JobWebhook(BaseModel):
    """Who is told when the job ends, signed with the account's webhook secret."""

    model_config = ConfigDict(extra="forbid")

    url: Url
    events: Annotated[list[EventType], Field(min_length=1)] = Field(
        default=[], description="All of a job's events unless said."
    )
    include_result: StrictBool = False


class AsyncFields(BaseModel):
    """What makes a job of a call, and says how it is to be run. No provider sees these."""

    prefer_async: StrictBool | None = Field(
        None, description="Become a job if eligible, else be answered at once."
    )
    require_async: StrictBool | None = Field(None, description="Become a job, else a 422.")
    deadline: Moment | None = None
    completion_window: Moment | None = Field(None, description="Another name for `deadline`.")
    max_cost_usd: Annotated[float, Field(ge=0)] | str | None = Field(
        None, description="A ceiling above this is a 422, in whatever lane.", examples=["0.05"]
    )
    dry_run: StrictBool | None = Field(
        None, description="Answer a quote: nothing is done, held or counted."
    )
    escalate: StrictBool | None = Field(
        None, description="Whether a job near its deadline may run at the standard price; true."
    )
    custom_id: (
        Annotated[str, Field(min_length=1, max_length=LONGEST_CUSTOM_ID, pattern=r"^[^\x00]+$")]
        | None
    ) = Field(None, description="Yours; it comes back with the job and its webhooks.")
    metadata: Annotated[dict[Key64, Text512], Field(max_length=METADATA_PAIRS)] | None = Field(
        None, description="Yours, on an asynchronous call; the provider's on any other."
    )
    webhook: JobWebhook | Annotated[str, Field(pattern="^whe_[0-9a-f]{32}$")] | None = Field(
        None, description="A URL, or the id of a webhook endpoint."
    )
    callback_url: Url | None = Field(None, description="Short for `webhook.url`.")


def _with_example(**fields: Any) -> ConfigDict:
    return ConfigDict(extra="allow", json_schema_extra={"examples": [fields]})


class ChatCall(AsyncFields, ChatRequest):
    """OpenAI's chat completion request; fields that are not named here pass through untouched."""

    model_config = _with_example(
        model="openai/gpt-4o-mini", messages=[HELLO], prefer_async=True, deadline="6h"
    )


class EmbeddingCall(AsyncFields, EmbeddingRequest):
    """OpenAI's embeddings request; fields that are not named here pass through untouched."""

    model_config = _with_example(
        model="openai/text-embedding-3-small", input=["one", "two"], prefer_async=True
    )


CALL_HEADERS = (
    Parameter(
        "Prefer",
        str,
        "`respond-async`: the same as `prefer_async`. With `wait=N` the call is begun at once, "
        "and becomes a job if it takes longer than N seconds.",
        "header",
    ),
    Parameter(
        "Idempotency-Key",
        Annotated[
            str,
            Field(min_length=1, max_length=LONGEST_IDEMPOTENCY_KEY, pattern=r"^[ -~]+$"),
        ],
        "The first answer is given again for seven days, byte for byte.",
        "header",
    ),
)
CALL_ERRORS = (402, 404, 409, 422, 502, 504)
NOW_HEADERS = (
    "X-Lane",
    "X-Cost-Usd",
    "X-Async-Ineligible",
    "Preference-Applied",
    "Idempotent-Replayed",
)
ACCEPTED_HEADERS = (
    "Location",
    "Retry-After",
    "Preference-Applied",
    "X-Lane",
    "Idempotent-Replayed",
)


def _accepted(model: type[BaseModel], job_id: str) -> Answer:
    return Answer(
        "Accepted as a job.",
        model,
        headers=ACCEPTED_HEADERS,
        links=dict.fromkeys(
            ("get_job", "get_result", "job_events", "cancel_job", "delete_job"), ("job_id", job_id)
        ),
    )


documented_chat = documented(
    "Calls",
    {
        200: Answer(
            "The completion; with `stream`, its chunks as server-sent events; with `dry_run`, a "
            "quote.",
            ChatAnswer,
            more=(EVENTS,),
            headers=NOW_HEADERS,
        ),
        202: _accepted(AcceptedCompletion, "$response.body#/job/id"),
    },
    errors=CALL_ERRORS,
    parameters=CALL_HEADERS,
    body=ChatCall,
)
documented_embeddings = documented(
    "Calls",
    {
        200: Answer("The vectors, or a quote.", EmbeddingsAnswer, headers=NOW_HEADERS),
        202: _accepted(AcceptedEmbeddings, "$response.body#/id"),
    },
    errors=CALL_ERRORS,
    parameters=CALL_HEADERS,
    body=EmbeddingCall,
)
