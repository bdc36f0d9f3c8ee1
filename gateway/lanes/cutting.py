"""When a lane is ripe, and how what waits in it is cut into provider batches. Pure functions."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple
from uuid import UUID

from gateway.lanes.works import LanePolicy
from gateway.providers.dialect import BatchLimits

LINE_OVERHEAD_BYTES = 256
"""Room for what a provider's line has around a body: custom_id, method, url, punctuation.

A translated body may also grow a little; the limits that the dialects state leave a margin.
"""


class Waiting(NamedTuple):
    """One job that waits in a lane."""

    job_id: UUID
    body_bytes: int
    embedding_inputs: int


@dataclass(frozen=True, slots=True)
class LaneLoad:
    """What waits in a lane, taken together."""

    requests: int
    bytes: int
    oldest_at: datetime
    nearest_deadline_at: datetime


def is_ripe(load: LaneLoad, limits: BatchLimits, policy: LanePolicy, now: datetime) -> bool:
    """Old enough, many enough, large enough, or with a deadline that leaves no time to wait."""
    patience = max(policy.window * 2, timedelta(minutes=10))
    return (
        now - load.oldest_at >= policy.window
        or load.requests >= min(policy.ripe_requests, limits.requests)
        or load.bytes >= limits.bytes
        or load.nearest_deadline_at - now <= patience
    )


def cut(waiting: Iterable[Waiting], limits: BatchLimits) -> Iterator[Sequence[Waiting]]:
    """Provider batches in the order given, each within the limits.

    A job that is alone over a limit still gets a batch, for the provider to say what is wrong
    with it. Who goes first is decided by the order, which is fair between accounts.
    """
    batch: list[Waiting] = []
    size = inputs = 0
    for job in waiting:
        line_bytes = job.body_bytes + LINE_OVERHEAD_BYTES
        over_inputs = (
            limits.embedding_inputs is not None
            and inputs + job.embedding_inputs > limits.embedding_inputs
        )
        full = len(batch) >= limits.requests or size + line_bytes > limits.bytes or over_inputs
        if batch and full:
            yield batch
            batch, size, inputs = [], 0, 0
        batch.append(job)
        size += line_bytes
        inputs += job.embedding_inputs
    if batch:
        yield batch
