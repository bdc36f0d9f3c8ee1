"""Why a call is not accepted. The door maps each to a status; the messages are for the caller.

CallError
├── InvalidField           a field is missing, wrong or not supported; `param` names it
├── UnknownModel
├── UnknownCursor          a page is to begin after a job that is not the account's
├── InsufficientFunds      the balance cannot hold the ceiling
├── AsyncImpossible        `require_async` on a call that is not eligible; `reason` says why
├── KeyInFlight            the idempotency key's first call is still running
└── KeyReused              the idempotency key came with another body
"""


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


class AsyncImpossible(CallError):
    """The call has to be asynchronous and cannot be."""

    param = "require_async"


class KeyInFlight(CallError):
    """The first call under this idempotency key has not been answered yet."""


class KeyReused(CallError):
    """The idempotency key was used for another body."""
