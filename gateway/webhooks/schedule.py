"""When a delivery is tried again: pure arithmetic."""

import random

_MINUTE = 60
_HOUR = 60 * _MINUTE

DELAYS_SECONDS = (
    0,
    5,
    5 * _MINUTE,
    30 * _MINUTE,
    2 * _HOUR,
    5 * _HOUR,
    10 * _HOUR,
    14 * _HOUR,
    20 * _HOUR,
    24 * _HOUR,
)
"""The wait before each attempt, counted from the end of the one before: 75.6 hours in all."""

ATTEMPTS_MAX = len(DELAYS_SECONDS)
# Within the ten per cent that are promised, and never early: a receiver that was down for 76 hours
# still hears of the event by the last attempt.
JITTER_LEAST, JITTER_MOST = 0.01, 0.1
RETRY_AFTER_MAX_SECONDS = 24.0 * _HOUR


def wait_seconds(
    failed_attempt: int, *, retry_after_seconds: float | None, rng: random.Random
) -> float | None:
    """Seconds until the next attempt after number `failed_attempt` (the first is 1); None if last.

    The schedule's delay and up to 10 % more. Retry-After can only lengthen it, up to a day: an
    endpoint that asks for less than the schedule gives would have us hurry, not wait.
    """
    if failed_attempt < 1:
        raise ValueError("attempts count from 1")
    if failed_attempt >= ATTEMPTS_MAX:
        return None
    scheduled = DELAYS_SECONDS[failed_attempt] * rng.uniform(1.0 + JITTER_LEAST, 1.0 + JITTER_MOST)
    return max(scheduled, min(retry_after_seconds or 0.0, RETRY_AFTER_MAX_SECONDS))
