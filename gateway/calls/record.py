"""What is remembered of one synchronous call once it is over: for logs, metrics and reports.

No text is in it: neither what was asked nor what was answered.
"""

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

from gateway.billing.ledger import Amounts
from gateway.calls.routing import Route
from gateway.catalogue.usage import Usage
from gateway.providers.dialect import Endpoint, ProviderError

OK = 200
LONGEST_CODE = 64


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try at one provider.

    `error` is None for the try that was answered; otherwise the provider's code for what went
    wrong, or the kind of failure where it gave none. `http_status` is what the provider answered
    with, None where no answer came.
    """

    provider: str
    model: str
    http_status: int | None
    error: str | None
    milliseconds: int


@dataclass(frozen=True, slots=True)
class CallRecord:
    """One call that was answered at once, or refused after it was understood.

    `model` is the catalogue's id, `asked_model` what the caller wrote. `provider` is who answered,
    or who was tried last; None if nobody was. `http_status` is what the caller was told, or would
    have been if headers had not left before. `usage`, `cost_nanos` and `charged_nanos` are None
    where nothing was used or nobody counted it; `unpriced` says which. `first_token_milliseconds`
    is None for answers in one piece. `replayed`: an earlier answer, given again for nothing.
    `source` is what the caller calls the place that the call came from.
    """

    request_id: str
    call_id: UUID
    account_id: UUID
    key_id: UUID
    created_at: datetime
    endpoint: Endpoint
    model: str
    asked_model: str
    provider: str | None
    lane: str
    streamed: bool
    http_status: int
    usage: Usage | None
    cost_nanos: int | None
    charged_nanos: int | None
    unpriced: bool
    latency_milliseconds: int
    first_token_milliseconds: int | None
    attempts: tuple[Attempt, ...]
    replayed: bool = False
    source: str | None = None


class Trail:
    """What is noted of a call while it runs, from its arrival on."""

    def __init__(self) -> None:
        self.created_at = datetime.now(UTC)
        self.attempts: list[Attempt] = []
        self.route: Route | None = None
        self.usage: Usage | None = None
        self.amounts: Amounts | None = None
        self.is_settled = False
        self.replayed = False
        self.first_token_milliseconds: int | None = None
        self._began = time.monotonic()

    def tried(self, route: Route, error: ProviderError | None, seconds: float) -> None:
        """One try at a provider is over; `error` is None if it was answered."""
        self.route = route
        code = None if error is None else error.code or type(error).__name__.lower()
        self.attempts.append(
            Attempt(
                provider=route.offer.provider,
                model=route.offer.model,
                http_status=OK if error is None else error.status,
                error=code and code[:LONGEST_CODE],
                milliseconds=round(seconds * 1000),
            )
        )

    def said_something(self) -> None:
        """The first piece of a streamed answer is there."""
        if self.first_token_milliseconds is None:
            self.first_token_milliseconds = self.milliseconds()

    def settled(self, usage: Usage | None, amounts: Amounts | None) -> None:
        """The call has a price, or (`amounts` None) is to be suspended without one."""
        self.usage, self.amounts, self.is_settled = usage, amounts, True

    def milliseconds(self) -> int:
        """Since the call arrived."""
        return round((time.monotonic() - self._began) * 1000)
