"""How long to wait before trying again: pure arithmetic, no clock and no dice of its own."""

import math
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

_LONGEST_RETRY_AFTER_SECONDS = 86_400.0
_LARGEST_EXPONENT = 62


def delay_seconds(
    attempt: int,
    *,
    retry_after_seconds: float | None,
    base_seconds: float,
    cap_seconds: float,
    jitter: float,
) -> float:
    """Seconds to wait after failed attempt number `attempt` (the first is 0).

    `jitter` is a number from 0 to 1 that the caller draws. Without a Retry-After the wait doubles
    from `base_seconds` and jitter takes away up to half of it; with one it is never shorter than
    the provider asked, and jitter adds up to a quarter. Neither ever exceeds `cap_seconds`: who
    will not come back before Retry-After must compare the two and give up instead.
    """
    if attempt < 0 or not 0.0 <= jitter <= 1.0:
        raise ValueError("attempt counts from 0 and jitter lies between 0 and 1")
    if retry_after_seconds is not None:
        return min(cap_seconds, retry_after_seconds * (1.0 + jitter / 4.0))
    exponential = base_seconds * 2.0 ** min(attempt, _LARGEST_EXPONENT)
    return min(cap_seconds, exponential) * (1.0 - jitter / 2.0)


def parse_retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """The wait that an answer asks for, in seconds; None where it asks for none that makes sense.

    `headers` has lower-case names (or ignores case), `now` is Unix time. `retry-after-ms` is
    OpenAI's finer header and wins; `retry-after` is seconds or a date (RFC 9110, 10.2.3).
    Negative waits, past dates and nonsense are None; what exceeds a day is a day.
    """
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return _sensible(milliseconds / 1000.0)
    value = headers.get("retry-after")
    seconds = _number(value)
    if seconds is not None:
        return _sensible(seconds)
    moment = _date(value)
    return None if moment is None else _sensible(moment - now)


def _sensible(seconds: float) -> float | None:
    return min(seconds, _LONGEST_RETRY_AFTER_SECONDS) if seconds >= 0.0 else None


def _number(value: str | None) -> float | None:
    try:
        number = float(value or "")
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _date(value: str | None) -> float | None:
    try:
        return parsedate_to_datetime(value or "").timestamp()
    except (ValueError, OverflowError):
        return None
