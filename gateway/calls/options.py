"""The fields of a call that are ours: taken out of the body before a provider sees it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from gateway.billing.prices import format_usd, parse_usd
from gateway.calls.errors import CostAboveMaximum, InvalidField
from gateway.webhooks.events import InvalidWebhook, validate_webhook

DEFAULT_DEADLINE = timedelta(hours=72)
LONGEST_DEADLINE = timedelta(days=30)
LONGEST_WAIT_SECONDS = 25
LONGEST_CUSTOM_ID = 512
METADATA_PAIRS = 16
METADATA_KEY_LENGTH = 64
METADATA_VALUE_LENGTH = 512
LONGEST_IDEMPOTENCY_KEY = 255
UNIT_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@dataclass(frozen=True, slots=True)
class Options:
    """What the caller asked of us, besides the completion itself.

    `max_cost_nanos` bounds what the call may cost in any lane; `escalate` lets a job near its
    deadline go to the standard lane. `wait_seconds` is how long the caller waits for an answer
    before the call becomes a job; with `dry_run` they want to know what it would cost, and no more.
    """

    prefer_async: bool
    require_async: bool
    deadline_at: datetime
    custom_id: str | None
    metadata: dict[str, str] | None
    webhook: dict[str, Any] | None
    max_cost_nanos: int | None
    escalate: bool
    wait_seconds: int = 0
    dry_run: bool = False

    @property
    def wants_async(self) -> bool:
        """Whether the call is to become a job if it can."""
        return self.prefer_async or self.require_async


def take_options(
    body: dict[str, Any], prefer_header: str | None, now: datetime, *, allow_private: bool
) -> Options:
    """Removes our fields from `body` and reads them. Raises InvalidField.

    `metadata` is ours on an asynchronous call, and the provider's on any other.
    """
    preferences = _preferences(prefer_header)
    prefers_async = "respond-async" in preferences
    prefer_async = _flag(body, "prefer_async") or prefers_async
    wait_seconds = _wait(preferences.get("wait")) if prefers_async else 0
    require_async = _flag(body, "require_async")
    deadline_at = _deadline(body, now)
    custom_id = body.pop("custom_id", None)
    if custom_id is not None and not (
        isinstance(custom_id, str)
        and 0 < len(custom_id) <= LONGEST_CUSTOM_ID
        and _storable(custom_id)
    ):
        raise InvalidField(
            "custom_id", f"'custom_id' must be a string of 1 to {LONGEST_CUSTOM_ID} characters."
        )
    webhook = _webhook(body, allow_private)
    max_cost_nanos = _max_cost(body)
    escalate = _flag(body, "escalate", default=True)
    dry_run = _flag(body, "dry_run")
    metadata = None
    if prefer_async or require_async:
        metadata = _metadata(body.pop("metadata", None))
    return Options(
        prefer_async,
        require_async,
        deadline_at,
        custom_id,
        metadata,
        webhook,
        max_cost_nanos,
        escalate,
        wait_seconds,
        dry_run,
    )


def idempotency_key(header: str | None) -> str | None:
    """The `Idempotency-Key` header, checked."""
    if header is None:
        return None
    if not 0 < len(header) <= LONGEST_IDEMPOTENCY_KEY or not header.isprintable():
        raise InvalidField(
            "Idempotency-Key",
            f"'Idempotency-Key' must be 1 to {LONGEST_IDEMPOTENCY_KEY} printable characters.",
        )
    return header


def check_cost(options: Options, ceiling_nanos: int) -> None:
    """Raises CostAboveMaximum if the call may cost more than its caller allows."""
    most = options.max_cost_nanos
    if most is not None and most < ceiling_nanos:
        raise CostAboveMaximum(
            f"This call may cost up to {format_usd(ceiling_nanos)} USD, which is more than its "
            f"'max_cost_usd' of {format_usd(most)}."
        )


def _flag(body: dict[str, Any], field: str, *, default: bool = False) -> bool:
    value = body.pop(field, None)
    if value is not None and not isinstance(value, bool):
        raise InvalidField(field, f"'{field}' must be true or false.")
    return default if value is None else value


def _max_cost(body: dict[str, Any]) -> int | None:
    """`max_cost_usd` in nano-USD. A JSON number is read as the decimal it was written as."""
    value = body.pop("max_cost_usd", None)
    if value is None:
        return None
    try:
        return parse_usd(Decimal(repr(value)) if isinstance(value, float) else value)
    except ValueError as error:
        raise InvalidField(
            "max_cost_usd",
            "'max_cost_usd' must be a decimal number of dollars with up to nine decimals.",
        ) from error


def _preferences(header: str | None) -> dict[str, str]:
    """Reads `Prefer` (RFC 7240): preferences separated by commas, `name[=value][;parameters]`.

    Of one that comes twice the first counts. What means nothing here is ignored, as it has to be.
    """
    preferences: dict[str, str] = {}
    for part in (header or "").split(","):
        name, _, value = part.partition(";")[0].partition("=")
        preferences.setdefault(name.strip().lower(), value.strip().strip('"'))
    return preferences


def _wait(value: str | None) -> int:
    """Seconds, 25 at most; 0 for what is no number of them, which a preference is ignored for."""
    if value is None or not re.fullmatch(r"\d{1,9}", value, re.ASCII):
        return 0
    return min(int(value), LONGEST_WAIT_SECONDS)


def _deadline(body: dict[str, Any], now: datetime) -> datetime:
    deadline, window = body.pop("deadline", None), body.pop("completion_window", None)
    if deadline is not None and window is not None:
        raise InvalidField("deadline", "Give 'deadline' or 'completion_window', not both.")
    field = "completion_window" if deadline is None else "deadline"
    value = window if deadline is None else deadline
    if value is None:
        return now + DEFAULT_DEADLINE
    moment = read_moment(value, now)
    if moment is None:
        raise InvalidField(
            field,
            f"'{field}' must be seconds, a duration such as \"6h\", or an RFC 3339 time.",
        )
    if not now < moment <= now + LONGEST_DEADLINE:
        raise InvalidField(
            field, f"'{field}' must lie in the future, {LONGEST_DEADLINE.days} days away at most."
        )
    return moment


def read_moment(value: object, now: datetime) -> datetime | None:
    """A point in time from seconds, a duration or an RFC 3339 text; None if it is none of them."""
    if isinstance(value, bool):
        return None
    try:
        if isinstance(value, int | float):
            return now + timedelta(seconds=value)
        if not isinstance(value, str):
            return None
        duration = re.fullmatch(r"(\d{1,9}(?:\.\d{1,6})?)([smhd]?)", value.strip(), re.ASCII)
        if duration:
            return now + timedelta(seconds=float(duration[1]) * UNIT_SECONDS[duration[2] or "s"])
        # RFC 3339 also writes t and z in lower case.
        moment = datetime.fromisoformat(value.upper())
        return moment.astimezone(UTC) if moment.tzinfo is not None else None
    except (ValueError, OverflowError):
        return None


def _webhook(body: dict[str, Any], allow_private: bool) -> dict[str, Any] | None:
    webhook, callback = body.pop("webhook", None), body.pop("callback_url", None)
    if webhook is not None and callback is not None:
        raise InvalidField("webhook", "Give 'webhook' or 'callback_url', not both.")
    if callback is not None:
        webhook = {"url": callback}
    if webhook is None:
        return None
    try:
        return validate_webhook(webhook, allow_private=allow_private)
    except InvalidWebhook as error:
        param = error.param if callback is None else "callback_url"
        raise InvalidField(param, str(error)) from error


def _metadata(value: object) -> dict[str, str] | None:
    if value is None:
        return None
    if not isinstance(value, Mapping) or len(value) > METADATA_PAIRS:
        raise InvalidField(
            "metadata", f"'metadata' must be an object of up to {METADATA_PAIRS} pairs."
        )
    for key, item in value.items():
        if len(key) > METADATA_KEY_LENGTH or not _storable(key):
            raise InvalidField(
                "metadata", f"A key of 'metadata' has {METADATA_KEY_LENGTH} characters at most."
            )
        if not isinstance(item, str) or len(item) > METADATA_VALUE_LENGTH or not _storable(item):
            raise InvalidField(
                f"metadata.{key}",
                f"A value of 'metadata' is a string of up to {METADATA_VALUE_LENGTH} characters.",
            )
    return dict(value) or None


def _storable(text: str) -> bool:
    """PostgreSQL's text knows no NUL."""
    return "\x00" not in text
