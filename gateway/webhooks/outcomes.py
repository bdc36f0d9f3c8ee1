"""What came of an attempt, and what that means for its delivery: pure arithmetic."""

import random

from gateway.net.retry import parse_retry_after
from gateway.webhooks.claims import Outcome
from gateway.webhooks.health import GONE_STATUS
from gateway.webhooks.parcels import Parcel
from gateway.webhooks.schedule import wait_seconds
from gateway.webhooks.transport import Answer
from models.states import DeliveryStatus


def answered(parcel: Parcel, answer: Answer, *, now: float, rng: random.Random) -> Outcome:
    """A 2xx delivers, 410 ends it, all else is a failure. `now` is in seconds since the epoch."""
    if 200 <= answer.status < 300:
        return Outcome(DeliveryStatus.DELIVERED, http_status=answer.status, excerpt=answer.excerpt)
    retry_after = parse_retry_after(answer.headers, now)
    seconds = wait_seconds(parcel.turn, retry_after_seconds=retry_after, rng=rng)
    is_over = answer.status == GONE_STATUS or seconds is None
    return Outcome(
        DeliveryStatus.FAILED if is_over else DeliveryStatus.PENDING,
        wait_seconds=seconds or 0.0,
        http_status=answer.status,
        excerpt=answer.excerpt,
    )


def unanswered(parcel: Parcel, error: str, *, rng: random.Random) -> Outcome:
    """No answer came, or nobody was asked: pending until its next turn, failed if it was the last.

    `error` is what the endpoint's owner is shown.
    """
    seconds = wait_seconds(parcel.turn, retry_after_seconds=None, rng=rng)
    status = DeliveryStatus.FAILED if seconds is None else DeliveryStatus.PENDING
    return Outcome(status, wait_seconds=seconds or 0.0, error=error)
