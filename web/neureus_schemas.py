"""The bodies that the `/ai` routes take and answer.

Source: Neureus's reference, "AI Gateway". What it does not name passes through as on `/v1`.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, RootModel, StrictInt, StrictStr
from pydantic.alias_generators import to_camel

from models.states import JobStatus
from web.call_schemas import AsyncFields
from web.money_objects import Quote
from web.objects import Choice, Embedding, JobId, Loose, Usage
from web.schemas import ChatRequest, EmbeddingRequest

CHAT_MODEL = "meta-llm"
EMBEDDING_MODEL = "text-embedding-3-small"
Name = Annotated[StrictStr, Field(min_length=1, max_length=200)]


class NeureusChat(ChatRequest):
    """`POST /ai/chat`: OpenAI's fields, and those that have another name here."""

    model: Annotated[Name, Field(description="Llama 3.1 8B unless said.")] = CHAT_MODEL
    max_tokens_in_camel: Annotated[StrictInt, Field(ge=1)] | None = Field(
        None, alias="maxTokens", description="Another name for `max_tokens`."
    )
    system_prompt: StrictStr | None = Field(
        None, alias="systemPrompt", description="Put before the messages, as the system's."
    )


class NeureusEmbeddings(EmbeddingRequest):
    """`POST /ai/embeddings`: OpenAI's request, whose model may be left out."""

    model: Name = EMBEDDING_MODEL


def _with_example(**fields: Any) -> ConfigDict:
    return ConfigDict(extra="allow", json_schema_extra={"examples": [fields]})


class NeureusChatCall(AsyncFields, NeureusChat):
    """A chat; fields that are not named here pass through untouched."""

    model_config = _with_example(
        messages=[{"role": "user", "content": "Explain edge computing."}],
        model="claude-sonnet-4-6",
        systemPrompt="Be brief.",
        maxTokens=200,
    )


class NeureusEmbeddingsCall(AsyncFields, NeureusEmbeddings):
    """Texts to be embedded."""

    model_config = _with_example(input=["one", "two"])


class FlatError(BaseModel):
    """What went wrong, at its HTTP status."""

    model_config = ConfigDict(extra="forbid")

    error: Annotated[str, Field(examples=["UNAUTHORIZED"])]
    message: str


LogId = Annotated[str, Field(pattern="^log_[0-9a-f]{32}$")]
Dollars = Annotated[float, Field(ge=0, examples=[0.0021])]


class _Camel(Loose):
    model_config = ConfigDict(extra="allow", alias_generator=to_camel, serialize_by_alias=True)


class _Counted(_Camel):
    input_tokens: int | None = Field(description="Null where the provider did not count them.")
    output_tokens: int | None
    usage: Usage | None
    cached: Literal[False]
    cost_usd: Dollars | None = Field(description="Null until it is known.")


class NeureusAnswer(_Counted):
    """A chat's answer. `content` is `text` once more; `toolCalls` and `reasoning` if there are."""

    text: str
    content: str
    choices: list[Choice]
    log_id: LogId
    model: str | None


class NeureusVectors(_Counted):
    """OpenAI's list of embeddings, and what it took."""

    data: list[Embedding]
    model: str | None


class NeureusChatAnswer(RootModel[NeureusAnswer | Quote]):
    """The answer, or with `dry_run` a quote, in the words of `/v1`."""

    model_config = ConfigDict(serialize_by_alias=True)


class NeureusEmbeddingsAnswer(RootModel[NeureusVectors | Quote]):
    """The vectors, or with `dry_run` a quote, in the words of `/v1`."""

    model_config = ConfigDict(serialize_by_alias=True)


class _Job(_Camel):
    status: JobStatus
    job_id: JobId
    log_id: LogId


class NeureusAccepted(_Job, _Counted):
    """An answer that is still to come: shaped as one, with nothing said and nothing used yet."""

    model: str
    estimated_cost_usd: Dollars = Field(description="The ceiling: what is held.")


class NeureusResult(_Job, _Counted):
    """The answer of a job that is done, shaped as that of its call."""


class NeureusModel(_Camel):
    """A model; costs are USD for a thousand tokens, as they are charged."""

    model_config = ConfigDict(extra="forbid")

    id: Annotated[str, Field(examples=["claude-sonnet-4-6"])]
    name: str
    provider: Annotated[str, Field(examples=["anthropic"])]
    type: Annotated[str, Field(examples=["reasoning"])]
    context_window: int | None
    input_cost_per_1k: Dollars = Field(alias="inputCostPer1k")
    output_cost_per_1k: Dollars = Field(alias="outputCostPer1k")
    supported_features: list[str]


class NeureusModels(BaseModel):
    """The models that a configured provider serves."""

    models: list[NeureusModel]


class NeureusProviderKey(BaseModel):
    """A key of your own at a provider; it is kept encrypted, and never shown again."""

    model_config = ConfigDict(extra="forbid")

    # It goes into a header, as it is.
    key: Annotated[
        StrictStr,
        Field(
            min_length=8,
            max_length=512,
            pattern=r"^[\x21-\x7e]+$",
            examples=["sk-your-provider-key"],
            repr=False,
        ),
    ]


class NeureusProvider(BaseModel):
    """Whether a key of your own is used for a provider."""

    model_config = ConfigDict(extra="forbid")

    provider: Annotated[str, Field(examples=["openai"])]
    configured: bool


Moment = Annotated[str, Field(json_schema_extra={"format": "date-time"})]


class NeureusConfiguredProvider(_Camel):
    """A provider that is called with a key of your own; `version` counts the keys there were."""

    model_config = ConfigDict(extra="forbid")

    provider: Annotated[str, Field(examples=["openai"])]
    configured: Literal[True]
    key_preview: Annotated[str, Field(examples=["sk-…mnop"])]
    version: Annotated[int, Field(ge=1)]
    created_at: Moment
    rotated_at: Moment | None


class NeureusProviders(BaseModel):
    """The providers that are called with a key of your own."""

    providers: list[NeureusConfiguredProvider]
