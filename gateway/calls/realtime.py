"""Synchronous calls: held, run at the provider, settled.

The books are kept by whoever the door hands in (its writer), because a web process commits many
calls' holds and settlements together.
"""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol
from uuid import UUID

from gateway.billing.ledger import Amounts, Charge
from gateway.billing.pricing import amounts
from gateway.calls.idempotency import KeyedCall, Stored
from gateway.calls.routing import Route
from gateway.catalogue.usage import Usage
from gateway.net.retry import delay_seconds
from gateway.providers.dialect import Answer, Endpoint, ProviderError, Unavailable
from models import ids
from models.ids import Prefix

TIMEOUT_SECONDS = 600.0
HOLD_SECONDS = 900
"""A call's hold outlives the longest call; what is still open then was left by a dead process."""
ATTEMPTS = 3
FIRST_RETRY_SECONDS = 0.5
RETRY_PATIENCE_SECONDS = 60.0
"""How long a caller is kept waiting for another try, whatever the provider's Retry-After says."""


@dataclass(frozen=True, slots=True)
class Call:
    """One synchronous call, ready to run. `estimated_nanos` is its ceiling in the standard lane."""

    id: UUID
    account_id: UUID
    key_id: UUID
    endpoint: Endpoint
    route: Route
    body: dict[str, Any]
    estimated_nanos: int
    markup_bps: int
    expires_at: datetime
    keyed: KeyedCall | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """A finished call: the completion as its caller gets it, and what it cost (None: unpriced)."""

    body: dict[str, Any]
    charged_nanos: int | None


@dataclass(frozen=True, slots=True)
class Given:
    """What the caller is given, and whether it is an earlier answer given again."""

    answer: Stored
    replayed: bool


class Books(Protocol):
    """Who keeps the money of synchronous calls. Methods return when it is committed."""

    def begin(self, call: Call) -> Stored | None:
        """Holds the call's ceiling; an earlier answer, if its idempotency key has one.

        Raises CallError.
        """
        ...

    def abandon(self, call: Call) -> None:
        """Releases the hold of a call that cost nothing, and frees its idempotency key."""
        ...

    def settle(self, call: Call, charge: Charge, answer: Stored) -> None:
        """Charges a call, and keeps its answer if it has a key; need not wait for the commit."""
        ...


def run(
    books: Books,
    call: Call,
    present: Callable[[Outcome], Stored],
    sleep: Callable[[float], None] = time.sleep,
) -> Given:
    """Runs a call. `present` makes the answer of what came of it.

    Raises CallError or ProviderError; in both cases nothing is charged.
    """
    earlier = books.begin(call)
    if earlier is not None:
        return Given(earlier, replayed=True)
    try:
        answer = _ask(call, sleep)
        priced = _price(call, answer.usage)
        charged_nanos = None if priced is None else priced.charged_nanos
        given = present(Outcome(_completion(call, answer), charged_nanos))
    except BaseException:
        # Whatever ended it (a provider's refusal, a time-out, the process being stopped), there
        # is no answer, and so no charge.
        books.abandon(call)
        raise
    books.settle(call, _charge(call, answer.usage, priced), given)
    return Given(given, replayed=False)


def _ask(call: Call, sleep: Callable[[float], None]) -> Answer:
    """Calls the provider, again if it failed for now, within the caller's patience.

    One that did not answer in time is not asked again: the caller has waited long enough.
    """
    began = time.monotonic()
    attempt = 0
    while True:
        try:
            return call.route.dialect.call(
                call.route.credential,
                call.endpoint,
                call.route.offer.model,
                call.body,
                TIMEOUT_SECONDS,
            )
        except Unavailable as error:
            wait = delay_seconds(
                attempt,
                retry_after_seconds=error.retry_after_seconds,
                base_seconds=FIRST_RETRY_SECONDS,
                cap_seconds=RETRY_PATIENCE_SECONDS,
                jitter=random.random(),
            )
            attempt += 1
            too_late = time.monotonic() - began + wait > RETRY_PATIENCE_SECONDS
            if attempt == ATTEMPTS or too_late or is_timeout(error):
                raise
            sleep(wait)


def _price(call: Call, usage: Usage | None) -> Amounts | None:
    if usage is None:
        return None
    return amounts(usage, call.route.offer.prices, "standard", call.markup_bps)


def _charge(call: Call, usage: Usage | None, priced: Amounts | None) -> Charge:
    offer = call.route.offer
    return Charge(
        hold_id=call.id,
        lane="standard",
        provider=offer.provider,
        model=offer.model,
        price_id=offer.prices.digest,
        markup_bps=call.markup_bps,
        usage=usage or Usage(),
        amounts=priced,
    )


def _completion(call: Call, answer: Answer) -> dict[str, Any]:
    """The completion under our id and the name that was asked for."""
    body = dict(answer.body)
    if call.endpoint is Endpoint.CHAT_COMPLETIONS:
        body["id"] = ids.show(Prefix.COMPLETION, call.id)
    body["model"] = call.route.name
    return body


def is_timeout(error: ProviderError) -> bool:
    """Whether the provider was given up on, rather than answering with an error."""
    return isinstance(error, Unavailable) and error.code == "timeout"
