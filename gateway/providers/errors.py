"""From what an exchange came to, to the error tree of `dialect`: the one place that decides."""

import re
from enum import Enum, auto
from typing import NamedTuple

import httpx

from gateway.net.retry import parse_retry_after
from gateway.providers.dialect import (
    Ambiguous,
    Broken,
    ProviderError,
    Rejected,
    Unauthorized,
    Unavailable,
)
from gateway.providers.fields import JsonObject, decode_object, mapping, text
from gateway.providers.scrub import scrub


class Act(Enum):
    """What an exchange was for, which is what makes a missing answer harmless or not."""

    CALL = auto()
    """A synchronous call: a lost answer costs us its price, and may be asked for again."""
    SAFE = auto()
    """Reading, cancelling, deleting: twice is as good as once."""
    UPLOAD = auto()
    """Leaves a file behind each time it succeeds."""
    CREATE = auto()
    """Starts a batch, and a bill, each time it succeeds."""


LEAVES_A_TRACE = frozenset({Act.UPLOAD, Act.CREATE})
_TRY_AGAIN = frozenset({408, 409, 425, 429})
_NEVER_CONNECTED = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.UnsupportedProtocol,
)
# Words in the codes of OpenAI (`insufficient_quota`, `billing_hard_limit_reached`, …) and
# Anthropic (`billing_error`, `enforced_spend_limit_reached`, `organization_on_hold`, …).
_MONEY = ("insufficient_quota", "billing", "spend_limit", "organization_on_hold")
# The two cases that carry no code of their own and must be told by their words: Anthropic's
# empty account, and OpenAI's file that is not visible yet right after its upload.
_NO_CREDIT = re.compile(r"credit balance is too low", re.IGNORECASE)
_FILE_NOT_VISIBLE = re.compile(r"\bcannot find file\b", re.IGNORECASE)


class ErrorFields(NamedTuple):
    """An error object of either provider. `codes` are all its names for what happened."""

    message: str | None
    code: str | None
    param: str | None
    codes: tuple[str, ...]

    @property
    def is_money(self) -> bool:
        return any(word in code for code in self.codes for word in _MONEY) or bool(
            self.message and _NO_CREDIT.search(self.message)
        )


def error_fields(body: JsonObject) -> ErrorFields:
    """Reads `{"error": {"message", "type", "code", "param"}}`, or a bare `{"error": "message"}`.

    Anthropic's finer code is in `error.details.error_code`.
    """
    error = body.get("error")
    if isinstance(error, str):
        return ErrorFields(text(error), None, None, ())
    fields = mapping(error)
    details = mapping(fields.get("details"))
    named = (details.get("error_code"), fields.get("code"), fields.get("type"))
    codes = tuple(code for code in map(text, named) if code)
    code = codes[0] if codes else None
    return ErrorFields(text(fields.get("message")), code, text(fields.get("param")), codes)


def from_status(
    provider: str, act: Act, response: httpx.Response, api_key: str, now: float
) -> ProviderError:
    """The error that an answer other than 2xx means. `now` is Unix time, for Retry-After."""
    status = response.status_code
    try:
        fields = error_fields(decode_object(response.content))
    except ValueError:
        fields = ErrorFields(None, None, None, ())
    message = scrub(fields.message or f"{provider} answered with status {status}", api_key)
    retry_after_seconds = parse_retry_after(response.headers, now)

    def unavailable() -> Unavailable:
        return Unavailable(
            message, status=status, code=fields.code, retry_after_seconds=retry_after_seconds
        )

    if status >= 500:
        if act in LEAVES_A_TRACE:
            return Ambiguous(message, status=status, code=fields.code)
        return unavailable()
    if status in (401, 402, 403) or (status >= 400 and fields.is_money):
        return Unauthorized(message, status=status, code=fields.code)
    if status in _TRY_AGAIN or status < 400:
        return unavailable()
    if act is Act.CREATE and fields.message and _FILE_NOT_VISIBLE.search(fields.message):
        return unavailable()
    return Rejected(message, status=status, code=fields.code, param=fields.param)


def from_transport(provider: str, act: Act, error: Exception) -> ProviderError:
    """The error that a failed exchange means.

    Says nothing of what the transport said: its messages may quote headers, keys included.
    """
    if isinstance(error, _NEVER_CONNECTED):
        return Unavailable(f"{provider} could not be reached", code="connection")
    late = isinstance(error, httpx.TimeoutException)
    code = "timeout" if late else "connection"
    message = (
        f"{provider} did not answer in time" if late else f"the connection to {provider} broke"
    )
    if act in LEAVES_A_TRACE:
        return Ambiguous(message, code=code)
    return Unavailable(message, code=code)


def unreadable(provider: str, act: Act) -> ProviderError:
    """The error that a 2xx answer means when it cannot be read.

    It was done, but what it made has no name yet, so a creation must be looked for.
    """
    message = f"{provider} gave an answer that cannot be read"
    return Ambiguous(message) if act in LEAVES_A_TRACE else Broken(message)
