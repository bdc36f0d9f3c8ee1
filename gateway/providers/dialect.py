"""What the gateway asks of a provider, and what it is told back, whatever the wire looks like.

A dialect speaks one provider's wire format and nothing else: it keeps no state, knows no
database and decides nothing about retries beyond saying, in the error it raises, what happened.

    ProviderError               what went wrong at the provider; carries the decision, not just text
    ├── Rejected                the provider understood and said no; repeating it is useless
    ├── Unauthorized            our key (or the customer's) is not accepted, or has no money left
    ├── Unavailable             nothing was done; may be tried again, after `retry_after_seconds`
    ├── Ambiguous               it may or may not have been done
    ├── Broken                  the answer could not be read (cut short, not JSON, wrong shape)
    └── StreamBroken            a stream failed after its first piece: what was sent on stands
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from gateway.catalogue.usage import Usage


class ProviderError(Exception):
    """Base of the tree above. `message` is fit for the caller: no key, no id of ours in it.

    Nor is there anything in it that no column of text can hold: NUL, half a surrogate pair.
    """

    def __init__(self, message: str, *, status: int | None = None, code: str | None = None) -> None:
        message = message.encode(errors="replace").decode().replace("\0", "?")
        super().__init__(message)
        self.message = message
        self.status = status
        self.code = code


class Rejected(ProviderError):
    """400, 404, 413 or 422: the caller's fault. `param` names the field where the provider does."""

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        code: str | None = None,
        param: str | None = None,
    ) -> None:
        super().__init__(message, status=status, code=code)
        self.param = param


class Unauthorized(ProviderError):
    """401, 402, 403, or a 429 that means money: waiting does not help, an operator must."""


class Unavailable(ProviderError):
    """408, 409, 429, 5xx on a call that is safe to repeat, or a connection that was never made."""

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        code: str | None = None,
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(message, status=status, code=code)
        self.retry_after_seconds = retry_after_seconds


class Ambiguous(ProviderError):
    """The request left us and no clear answer came back: a time-out, a cut connection, a 5xx."""


class Broken(ProviderError):
    """An answer arrived that cannot be read."""


class StreamBroken(ProviderError):
    """A stream told of an error, fell silent or was cut after its first piece.

    `usage` is what the provider had counted by then, which is no more than it will bill; None if
    it had not counted yet.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        code: str | None = None,
        usage: Usage | None = None,
    ) -> None:
        super().__init__(message, status=status, code=code)
        self.usage = usage


class Endpoint(StrEnum):
    """The routes whose calls can be sent on, named as our callers know them."""

    CHAT_COMPLETIONS = "/v1/chat/completions"
    EMBEDDINGS = "/v1/embeddings"


HOUSE = "house"
"""The name of our own credential at each provider."""


@dataclass(frozen=True, slots=True)
class Credential:
    """How to reach one provider account. `name` is `house` for our own key, `house-2` for a spare.

    `key` is its API key or, where that is kept sealed, what opens it each time it is needed.
    """

    provider: str
    name: str
    key: str | Callable[[], str]
    base_url: str

    @property
    def api_key(self) -> str:
        """The API key, for one call."""
        return self.key if isinstance(self.key, str) else self.key()

    @property
    def is_house(self) -> bool:
        """Whether we pay for what is done with it."""
        return self.name == HOUSE or self.name.startswith(f"{HOUSE}-")

    def __repr__(self) -> str:
        return f"Credential(provider={self.provider!r}, name={self.name!r})"


@dataclass(frozen=True, slots=True)
class Answer:
    """A synchronous answer, already in OpenAI's shape.

    `usage` is None where the provider reported none or an impossible one.
    """

    body: dict[str, Any]
    usage: Usage | None
    service_tier: str | None = None


class StreamPiece(NamedTuple):
    """One `chat.completion.chunk` of a stream: `data` is its JSON, without the SSE framing.

    A stream that its provider finished and counted ends with one piece that is `usage_only`: no
    choices, the shown usage in `data`, and here that usage (None if it is impossible) and the
    tier the call ran at. No other piece carries any.
    """

    data: bytes
    usage: Usage | None = None
    usage_only: bool = False
    service_tier: str | None = None


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """What one provider batch may hold, by the provider's documentation."""

    requests: int
    bytes: int
    embedding_inputs: int | None = None


class BatchState(StrEnum):
    """A provider batch as the provider sees it, in words that mean the same everywhere."""

    VALIDATING = "validating"
    RUNNING = "running"
    CANCELLING = "cancelling"
    ENDED = "ended"  # completed, expired, cancelled: there may be results to fetch
    FAILED = "failed"  # rejected as a whole: nothing ran, nothing is charged


@dataclass(frozen=True, slots=True)
class LineFault:
    """One line that made the provider reject the whole batch. `line` counts from 1."""

    code: str | None
    message: str
    line: int | None


@dataclass(frozen=True, slots=True)
class BatchTotals:
    """Tokens of all answers of a batch, as its provider sums them up.

    Disjoint, but that written cache counts as uncached input: no provider tells it apart here.
    """

    input_uncached: int
    cache_read: int
    output: int


@dataclass(frozen=True, slots=True)
class BatchReport:
    """A provider batch as last reported.

    `result_files` name what `results` can download now; an ended batch may have none yet.
    `request_count` is None until the provider counts. `batch_ref` is our own id as it was given
    to `create`, None where the provider keeps no metadata. `answered_count` are the lines that the
    provider charges for, `totals` what they used; each None where it does not say.
    """

    external_id: str
    state: BatchState
    status: str
    created_at: datetime
    request_count: int | None
    batch_ref: str | None
    input_file_id: str | None = None
    result_files: tuple[str, ...] = ()
    faults: tuple[LineFault, ...] = ()
    over_enqueued_tokens: bool = False
    retention_over: bool = False
    model: str | None = None
    answered_count: int | None = None
    totals: BatchTotals | None = None


class LineOutcome(StrEnum):
    """How one line of a provider batch ended."""

    SUCCEEDED = "succeeded"
    REJECTED = "rejected"  # the provider refused this body; it would refuse it again
    RETRYABLE = "retryable"  # 408, 409, 429, 5xx, overloaded: the body is fine
    EXPIRED = "expired"
    CANCELLED = "cancelled"


class LineResult(NamedTuple):
    """One parsed result line. `body` is OpenAI-shaped: the completion, or `{"error": …}`'s content.

    For a line that did not succeed `body` is None and `error` holds the message for the caller,
    its `status` the provider's HTTP status where there was one.
    """

    custom_id: str
    outcome: LineOutcome
    body: dict[str, Any] | None = None
    usage: Usage | None = None
    service_tier: str | None = None
    error: str | None = None
    status: int | None = None


@dataclass(frozen=True, slots=True)
class Framing:
    """Bytes around and between the lines of a spooled batch."""

    opening: bytes
    separator: bytes
    closing: bytes


class Dialect(Protocol):
    """One provider's wire format. Every method but the pure ones talks to the network.

    All network methods raise ProviderError. Only `create` and `upload` can raise Ambiguous, and
    only the pieces of a stream StreamBroken.
    """

    name: str
    limits: BatchLimits
    framing: Framing
    keeps_metadata: bool
    """Whether `create` can carry our batch id, so that `list_batches` gives it back."""

    def unsupported(self, endpoint: Endpoint, body: dict[str, Any]) -> str | None:
        """The first field of `body` that this provider cannot serve, or None. Pure."""
        ...

    def batches(self, endpoint: Endpoint) -> bool:
        """Whether calls to that endpoint can be lines of a provider batch here. Pure."""
        ...

    def call(
        self,
        credential: Credential,
        endpoint: Endpoint,
        model: str,
        body: dict[str, Any],
        timeout_seconds: float,
    ) -> Answer:
        """One synchronous call. `body` is in OpenAI's shape; `model` is the provider's name."""
        ...

    def stream(
        self, credential: Credential, model: str, body: dict[str, Any], timeout_seconds: float
    ) -> AbstractContextManager[Iterator[StreamPiece]]:
        """One streamed chat completion; usage is asked for whatever `body` says about it.

        Entering waits for the first piece and fails as `call` does, so that another try or
        another provider is still possible. From then on every failure is StreamBroken. Leaving
        before the end closes the connection; who wants the usage reads on.
        """
        ...

    def encode_line(
        self, custom_id: str, endpoint: Endpoint, model: str, body: dict[str, Any]
    ) -> bytes:
        """One line (or array element) of a batch, without the framing. Pure."""
        ...

    def upload(self, credential: Credential, spool: Path, file_name: str) -> str | None:
        """Streams the spooled lines; the file's id, or None where `create` carries them."""
        ...

    def find_upload(self, credential: Credential, file_name: str) -> str | None:
        """The id of a file that an earlier, interrupted `upload` left under that name."""
        ...

    def create(
        self,
        credential: Credential,
        endpoint: Endpoint,
        batch_ref: str,
        file_id: str | None,
        spool: Path,
    ) -> BatchReport:
        """Creates the batch. Never repeated inside: a creation that may have happened is Ambiguous.

        A file that the provider does not see yet is Unavailable.
        """
        ...

    def get_batch(self, credential: Credential, external_id: str) -> BatchReport | None:
        """The batch as it stands; None if the provider does not know it."""
        ...

    def list_batches(self, credential: Credential, since: datetime) -> Iterator[BatchReport]:
        """Batches created at `since` or later, newest first, page by page."""
        ...

    def cancel_batch(self, credential: Credential, external_id: str) -> None:
        """Asks for cancellation; one that has already ended is not an error."""
        ...

    def download(self, credential: Credential, file: str, destination: Path) -> None:
        """Streams one of `result_files` to a file; Broken if it arrived cut short."""
        ...

    def delete_file(self, credential: Credential, file_id: str) -> None:
        """Removes an uploaded file; one that is gone already is not an error."""
        ...

    def parse_line(self, line: bytes) -> LineResult:
        """One line of a downloaded result file; Broken if it cannot be read. Pure."""
        ...


def has_batches(dialect: Dialect) -> bool:
    """Whether anything can be batched there; who only makes calls has no list of batches."""
    return any(map(dialect.batches, Endpoint))
