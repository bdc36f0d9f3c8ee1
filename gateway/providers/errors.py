"""From what an exchange came to, to the error tree of `dialect`: the one place that decides."""

import re
from enum import Enum, auto
from typing import NamedTuple

import httpx
import orjson

from gateway.net.retry import parse_retry_after
from gateway.providers.dialect import (
    Ambiguous,
    Broken,
    ProviderError,
    Rejected,
    Unauthorized,
    Unavailable,
)
from gateway.providers.fields import JsonObject, count, items, mapping, text
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
# The cases that carry no code of their own and must be told by their words: Anthropic's empty
# account, OpenAI's file that is not visible yet right after its upload, and the bad keys that
# Gemini and xAI answer with 400.
_NO_CREDIT = re.compile(r"credit balance is too low", re.IGNORECASE)
_FILE_NOT_VISIBLE = re.compile(r"\bcannot find file\b", re.IGNORECASE)
_BAD_KEY = re.compile(r"\b(?:incorrect api key|api key not valid)\b", re.IGNORECASE)
# What a code means where no HTTP status comes with it: within a stream or a result line.
_STATUS_OF_CODE = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "conflict_error": 409,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "rate_limit_exceeded": 429,
    "insufficient_quota": 429,
    "api_error": 500,
    "server_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}


class ErrorFields(NamedTuple):
    """An error object of any provider. `codes` are all its names for what happened.

    `status` is the HTTP status that the object itself tells or means, None if it does neither.
    """

    message: str | None
    code: str | None
    param: str | None
    codes: tuple[str, ...]
    status: int | None = None

    @property
    def is_money(self) -> bool:
        return any(word in code for code in self.codes for word in _MONEY) or bool(
            self.message and _NO_CREDIT.search(self.message)
        )


def error_fields(body: JsonObject) -> ErrorFields:
    """Reads `{"error": {"message", "type", "code", "param"}}`, or a bare `{"error": "message"}`.

    Anthropic's finer code is in `error.details.error_code`. Mistral leaves the frame away, and its
    `message` or `detail` may be a list of what is wrong where.
    """
    error = body.get("error")
    if isinstance(error, str):
        return ErrorFields(text(error), None, None, ())
    fields = mapping(error) or body
    details = mapping(fields.get("details"))
    named = (details.get("error_code"), fields.get("code"), fields.get("type"))
    codes = tuple(code for code in map(text, named) if code)
    meant = next((_STATUS_OF_CODE[code] for code in codes if code in _STATUS_OF_CODE), None)
    return ErrorFields(
        message=_message(fields),
        code=codes[0] if codes else None,
        param=text(fields.get("param")),
        codes=codes,
        status=_told_status(fields) or meant,
    )


def _message(fields: JsonObject) -> str | None:
    message = fields.get("message", fields.get("detail"))
    wrong = message if isinstance(message, list) else mapping(message).get("detail")
    if not items(wrong):
        return text(message)
    first = mapping(items(wrong)[0])
    place = ".".join(str(step) for step in items(first.get("loc")) if step != "body")
    said = text(first.get("msg"))
    return f"{place}: {said}" if place and said else said


def _told_status(fields: JsonObject) -> int | None:
    """Gemini's codes are HTTP statuses, Groq has a field for them."""
    told = count(fields.get("status_code")) or count(fields.get("code"))
    return told if told is not None and 400 <= told < 600 else None


def _answered_fields(content: bytes) -> ErrorFields:
    try:
        body = orjson.loads(content)
    except ValueError:
        return ErrorFields(None, None, None, ())
    # Gemini puts its error object into a list of one.
    return error_fields(mapping(body[0] if isinstance(body, list) and body else body))


def from_status(
    provider: str, act: Act, response: httpx.Response, api_key: str, now: float
) -> ProviderError:
    """The error that an answer other than 2xx means. `now` is Unix time, for Retry-After."""
    return from_fields(
        provider,
        act,
        response.status_code,
        _answered_fields(response.content),
        api_key,
        parse_retry_after(response.headers, now),
    )


def from_fields(
    provider: str,
    act: Act,
    status: int,
    fields: ErrorFields,
    api_key: str,
    retry_after_seconds: float | None = None,
) -> ProviderError:
    """The error that a status and an error object mean."""
    message = scrub(fields.message or f"{provider} answered with status {status}", api_key)

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
    if status == 400 and _BAD_KEY.search(fields.message or ""):
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
