"""Why a call is not accepted. The door maps each to a status; the messages are for the caller.

CallError
├── InvalidField           a field is missing, wrong or not supported; `param` names it
├── UnknownModel
├── UnknownCursor          a page is to begin after a job that is not the account's
├── InsufficientFunds      the balance cannot hold the ceiling
├── SpendLimitReached      a daily or monthly cap of the key is reached
├── AsyncImpossible        `require_async` on a call that is not eligible; `reason` says why
├── CostAboveMaximum       the ceiling is above the caller's `max_cost_usd`
├── OwnKeyRefused          the provider does not accept the customer's own key
├── KeyInFlight            the idempotency key's first call is still running
└── KeyReused              the idempotency key came with another body
"""

from gateway.billing.spending import Refusal
from models.accounts import Period


class CallError(Exception):
    """Base of the tree above."""

    param: str | None = None

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class InvalidField(CallError):
    """A field is missing, wrong or not supported."""

    def __init__(self, param: str, message: str) -> None:
        super().__init__(message)
        self.param = param


class UnknownModel(CallError):
    """No configured provider serves the model."""

    param = "model"


class UnknownCursor(CallError):
    """The account has no job of the id that a page is to begin after."""

    param = "after"


class InsufficientFunds(CallError):
    """The balance cannot hold what the call may cost at most."""

    def __init__(self) -> None:
        super().__init__("The account's balance is too low to hold what this call may cost.")


class SpendLimitReached(CallError):
    """The key has spent, or holds, what it may in this UTC day or month."""

    def __init__(self, period: Period) -> None:
        word = {Period.DAY: "daily", Period.MONTH: "monthly"}[period]
        super().__init__(f"This call may exceed the {word} spend limit of its API key.")
        self.period = period


def not_held(refusal: Refusal) -> CallError:
    """What the caller of a call is told for whose ceiling no money is held."""
    if refusal is Refusal.FUNDS:
        return InsufficientFunds()
    return SpendLimitReached(Period(refusal))


class AsyncImpossible(CallError):
    """The call has to be asynchronous and cannot be."""

    param = "require_async"


class CostAboveMaximum(CallError):
    """The call may cost more than its caller allows."""

    param = "max_cost_usd"


class OwnKeyRefused(CallError):
    """The provider does not accept the customer's own key, or there is no money left on it."""

    def __init__(self, provider: str, told: str) -> None:
        super().__init__(f"{provider} did not accept your own key: {told}")


class KeyInFlight(CallError):
    """The first call under this idempotency key has not been answered yet."""


class KeyReused(CallError):
    """The idempotency key was used for another body."""
