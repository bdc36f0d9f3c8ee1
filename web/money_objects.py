"""The objects that the money routes answer, quotes among them; see `web.objects`."""

from typing import Annotated, Literal

from pydantic import BaseModel, Field, RootModel

from models.states import TransferKind
from models.usage import UsageSurface
from web.objects import ChatCompletion, CompletionId, EmbeddingList, JobId, UnixSeconds, Usd

Seconds = Annotated[int, Field(ge=0)]


class StandardLaneQuote(BaseModel):
    """The standard lane: answered at once, at the list price."""

    open: Literal[True]
    provider: Annotated[str, Field(description="Who is asked first.", examples=["openai"])]
    ceiling_usd: Usd
    expected_usd: Usd


class ExpectedCompletion(BaseModel):
    """From now until the result is there, the wait for the batch included: of the provider's \
newest batches, what one in two and nine in ten did not exceed. Null where none was seen yet."""

    p50_seconds: Seconds | None
    p90_seconds: Seconds | None
    measured_batches: int


class BatchLaneQuote(BaseModel):
    """The batch lane; without amounts where the model has no batch price."""

    open: bool
    reason: Annotated[
        Literal["model", "price", "stream", "deadline", "tools", "key"] | None,
        Field(description="Why the lane is not open to this call."),
    ]
    provider: Annotated[str, Field(examples=["openai"])]
    ceiling_usd: Usd | None
    expected_usd: Usd | None
    discount_percent: int | None
    expected_completion: ExpectedCompletion


class QuotedLanes(BaseModel):
    """What the call would cost in each lane: at most, and probably."""

    standard: StandardLaneQuote
    batch: BatchLaneQuote


class QuotedBalance(BaseModel):
    """What the account could hold for the call."""

    available_usd: Usd
    sufficient: Annotated[
        bool, Field(description="Whether that covers `would_be_held_usd`; caps are not looked at.")
    ]


class Quote(BaseModel):
    """What a call with `dry_run` is answered: it is not made, nothing is held and nothing counted.

    `expected_usd` is the ceiling times the share of their ceilings that the account's calls of
    this model were charged in the last 30 days (`measured_calls`), half of it where there were
    none. `lane` is the one that the call would take; null where `require_async` is impossible.
    """

    object: Literal["quote"]
    model: str
    lane: Literal["batch", "standard"] | None
    lanes: QuotedLanes
    measured_calls: int
    deadline_at: UnixSeconds
    would_be_held_usd: Usd
    balance: QuotedBalance


class ChatAnswer(RootModel[ChatCompletion | Quote]):
    """The completion, or with `dry_run` a quote."""


class EmbeddingsAnswer(RootModel[EmbeddingList | Quote]):
    """The vectors, or with `dry_run` a quote."""


AnyKeyId = Annotated[str, Field(pattern="^w?key_[0-9a-f]{32}$")]
TransactionId = Annotated[str, Field(pattern="^txn_[0-9a-f]{32}$")]
UtcDay = Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\d$", examples=["2026-11-22"])]


class Settled(BaseModel):
    """What was charged in this UTC day and month."""

    today_usd: Usd
    this_month_usd: Usd


class KeyCap(BaseModel):
    """What a key may spend in a UTC day or month; what is held counts as spent."""

    limit_usd: Usd
    left_usd: Usd
    resets_in_seconds: Seconds


class KeyCaps(BaseModel):
    """The caps of the key that asks."""

    id: AnyKeyId
    daily: KeyCap
    monthly: KeyCap


class AccountBalance(BaseModel):
    """The account's money. Available is what calls can still hold; held is not charged yet."""

    object: Literal["balance"]
    available_usd: Usd
    held_usd: Usd
    settled: Settled
    low_balance_usd: Annotated[
        Usd | None, Field(description="`balance.low` is told when less is available; null: never.")
    ]
    key: KeyCaps


class Transaction(BaseModel):
    """Money that the account was given (positive) or that it paid (negative).

    `suspense` is what was held for a call whose usage the provider did not report, and
    `suspense_return` what of it was given back. `balance_usd` is the balance after it, held money
    included; null in a list that is filtered by kind or key.
    """

    id: TransactionId
    object: Literal["transaction"]
    kind: TransferKind
    amount_usd: Usd
    balance_usd: Usd | None
    created_at: UnixSeconds
    job_id: JobId | None
    completion_id: Annotated[CompletionId | None, Field(description="The call, job or not.")]
    key_id: AnyKeyId | None
    provider: str | None
    model: Annotated[str | None, Field(description="The provider's name for it.")]
    lane: Literal["batch", "standard"] | None
    note: str | None


class TransactionPage(BaseModel):
    """A page of the statement."""

    object: Literal["list"]
    data: list[Transaction]
    first_id: TransactionId | None
    last_id: TransactionId | None
    has_more: bool


class _Bucket(BaseModel):
    """What the sums are of; null where they are not grouped by it."""

    day: UtcDay | None
    model: str | None
    provider: str | None
    key_id: AnyKeyId | None
    lane: Literal["batch", "standard"] | None
    surface: UsageSurface | None


class _Used(BaseModel):
    calls: Annotated[int, Field(description="That were settled; what failed costs nothing.")]
    unpriced_calls: Annotated[
        int, Field(description="Whose usage the provider did not report; in no other number.")
    ]
    input_tokens: Annotated[int, Field(description="All of them, cached ones included.")]
    cached_input_tokens: Annotated[int, Field(description="Read from a cache.")]
    cache_write_tokens: int
    output_tokens: Annotated[int, Field(description="All of them, reasoning included.")]
    reasoning_tokens: int


class _Paid(BaseModel):
    calls: int
    unpriced_calls: int
    paid_usd: Usd
    list_usd: Annotated[Usd, Field(description="The same calls' price in the standard lane.")]
    savings_usd: Usd


class UsageBucket(_Bucket, _Used):
    """Calls and tokens."""


class CostsBucket(_Bucket, _Paid):
    """What was paid, and what it would have cost in the standard lane."""


class UsageTotal(_Used):
    """Of all buckets."""


class CostsTotal(_Paid):
    """Of all buckets."""


class _Report(BaseModel):
    start: UtcDay
    end: UtcDay
    group_by: list[str]


class UsageReport(_Report):
    """Calls and tokens by UTC days; exact, and up to the moment."""

    object: Literal["usage"]
    data: list[UsageBucket]
    total: UsageTotal


class CostsReport(_Report):
    """Costs by UTC days; exact, and up to the moment. They are the statement's charges, summed."""

    object: Literal["costs"]
    data: list[CostsBucket]
    total: CostsTotal
