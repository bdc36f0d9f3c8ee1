"""The objects that are answered, as the document shows them and the tests hold the answers to.

Answers are written by `web.serialisers`, which is quick; nothing here is in the way of a call.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, RootModel

from models.states import JobStatus

Usd = Annotated[str, Field(pattern=r"^-?\d+(\.\d+)?$", examples=["0.0021"])]
"""An amount of USD, exact."""
UnixSeconds = Annotated[int, Field(description="Unix seconds.", examples=[1790000000])]


class Loose(BaseModel):
    """What a provider answered: passed on with whatever else it holds."""

    model_config = ConfigDict(extra="allow")


class ErrorDetail(BaseModel):
    """What went wrong."""

    type: Annotated[str, Field(examples=["bad_request"])]
    message: str
    code: Annotated[int, Field(description="The HTTP status.", examples=[400])]
    param: Annotated[str | None, Field(description="The field at fault, if there is one.")]


class Error(BaseModel):
    """The error object, at its HTTP status."""

    error: ErrorDetail


class JobError(BaseModel):
    """Why a job ended without a result."""

    type: str
    message: str
    code: Annotated[int, Field(description="The status that the result is answered with.")]


class JobEscalation(BaseModel):
    """When and why the job left the batch lane for the standard lane."""

    at: UnixSeconds
    reason: Literal["deadline"]


class JobBatch(BaseModel):
    """The provider batch that the job is in."""

    id: Annotated[str, Field(pattern="^pbatch_[0-9a-f]{32}$")]
    provider: Annotated[str, Field(examples=["openai"])]


class Cost(BaseModel):
    """What the job may cost at most, did cost, and would have cost in the standard lane."""

    state: Annotated[
        Literal["held", "settled", "released", "unpriced"],
        Field(description="`unpriced`: the provider did not report the usage yet."),
    ]
    estimated_usd: Annotated[Usd, Field(description="The ceiling: what is held.")]
    billed_usd: Usd | None
    list_usd: Usd | None
    savings_usd: Usd | None


Storable = Annotated[str, Field(pattern=r"^[^\x00]*$")]
"""PostgreSQL's text knows no NUL."""
JobId = Annotated[str, Field(pattern="^job_[0-9a-f]{32}$")]
CompletionId = Annotated[str, Field(pattern="^chatcmpl-[0-9a-f]{32}$")]


class Usage(Loose):
    """Tokens as the provider counted them."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None
    cost_usd: str | None = Field(
        default=None, description="Where the headers left before the cost was known."
    )


class Choice(Loose):
    """One answer of the model; its content is null until there is one."""

    index: int
    message: dict[str, Any]
    finish_reason: str | None


class ChatCompletion(Loose):
    """OpenAI's chat completion, whoever made the model."""

    id: Annotated[str, Field(examples=["chatcmpl-01990f5b6d7c7000800000000000000a"])]
    object: Literal["chat.completion"]
    created: int | None = None
    model: str | None = None
    choices: list[Choice]
    usage: Usage | None = None


class Embedding(Loose):
    """One vector: numbers, or base64 of little-endian floats where that was asked for."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingList(Loose):
    """OpenAI's list of embeddings."""

    object: Literal["list"]
    data: list[Embedding]
    model: str | None = None
    usage: Usage | None = None


class Result(RootModel[ChatCompletion | EmbeddingList]):
    """What the provider answered to the job's call."""


class Job(BaseModel):
    """An asynchronous call, from its acceptance to its one end."""

    id: JobId
    object: Literal["job"]
    status: JobStatus
    lane: Literal["batch", "standard"]
    endpoint: Annotated[str, Field(examples=["/v1/chat/completions"])]
    model: Annotated[str, Field(examples=["openai/gpt-4o-mini"])]
    completion_id: CompletionId
    custom_id: str | None
    metadata: dict[str, str]
    created_at: UnixSeconds
    submitted_at: UnixSeconds | None
    completed_at: UnixSeconds | None
    deadline_at: UnixSeconds
    batch: JobBatch | None
    cost: Cost
    escalated: bool
    escalation: JobEscalation | None
    attempts: Annotated[int, Field(ge=1)]
    result: Annotated[
        Result | None, Field(description="Once completed; in lists only with `include=result`.")
    ]
    error: Annotated[JobError | None, Field(description="Once ended otherwise.")]


class AcceptedCompletion(BaseModel):
    """A chat completion that is still to come: one choice with null content, and the job."""

    id: CompletionId
    object: Literal["chat.completion"]
    created: UnixSeconds
    model: str
    choices: list[Choice]
    usage: None
    status: JobStatus
    job: Job


class AcceptedEmbeddings(Job):
    """Embeddings that are still to come: the job, with one empty vector."""

    data: list[Embedding]
    usage: None


class Accepted(RootModel[AcceptedCompletion | AcceptedEmbeddings]):
    """An answer that is still to come."""


class JobPage(BaseModel):
    """A page of jobs, newest first unless asked otherwise."""

    object: Literal["list"]
    data: list[Job]
    first_id: JobId | None
    last_id: JobId | None
    has_more: bool


class DeletedJob(BaseModel):
    """A job whose texts have been removed."""

    id: JobId
    object: Literal["job"]
    deleted: Literal[True]


class JobEventData(BaseModel):
    """The job that an event is about."""

    id: JobId
    completion_id: CompletionId
    status: JobStatus
    custom_id: str | None
    metadata: dict[str, str]


class JobEvent(BaseModel):
    """What `data:` of a server-sent event holds; its `event:` is the type."""

    object: Literal["event"]
    type: Annotated[str, Field(examples=["job.submitted"])]
    created_at: UnixSeconds
    data: JobEventData


LastEventId = Annotated[str, Field(pattern="^[0-9]{1,9}$", examples=["12"])]


class Pricing(BaseModel):
    """USD for a thousand tokens; null for a lane that the model does not run in."""

    prompt: Usd
    completion: Usd
    batch_prompt: Usd | None
    batch_completion: Usd | None
    unit: Literal["usd_per_1k_tokens"]


class Model(BaseModel):
    """A model that a configured provider serves."""

    id: Annotated[str, Field(examples=["openai/gpt-4o-mini"])]
    object: Literal["model"]
    created: UnixSeconds
    owned_by: str
    name: str
    pricing: Pricing
    context_length: int | None
    max_output_tokens: int | None
    supported_features: list[str]


class ModelList(BaseModel):
    """Every model that is served."""

    object: Literal["list"]
    data: list[Model]


class Health(BaseModel):
    """The process answers."""

    status: Literal["ok"]


class Readiness(BaseModel):
    """What the process needs, each `ok` or `down`."""

    status: Literal["ok", "degraded", "down"]
    checks: Annotated[dict[str, str], Field(examples=[{"database": "ok", "redis": "down"}])]


class Document(Loose):
    """An OpenAPI 3.1 document."""

    openapi: Literal["3.1.0"]
