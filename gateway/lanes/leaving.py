"""When a job must leave the batch lane so as to be done in time. Pure functions.

A job that is in a provider batch stays until the last moment at which the standard lane can
still answer it: the batch may end until then, at half the price. One that waits for a batch goes
sooner, when not even a quick batch would end before that moment.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

UNKNOWN_CALL = timedelta(seconds=120)
"""What is kept free for a standard call, its retries and its start, until calls were measured."""
SHORTEST_CALL, LONGEST_CALL = timedelta(seconds=30), timedelta(seconds=600)
UNKNOWN_TYPICAL_CALL = timedelta(seconds=4)
CALL_SHARE = 4
"""A job's call is kept no more than this part of the job's life free: a quarter."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast a provider has been seen to be.

    `quick_batch` is what one batch in ten does not even take (zero while too few are known, for
    then nothing speaks against waiting), `call` is kept free for a standard call, and `turn` is
    the time from one standard call's start to the next one's where many are due at once.
    """

    quick_batch: timedelta
    call: timedelta
    turn: timedelta


@dataclass(frozen=True, slots=True)
class Candidate:
    """A job in the batch lane. `waiting` says that it is in no batch at its provider."""

    job_id: UUID
    created_at: datetime
    deadline_at: datetime
    waiting: bool
    pace: Pace


def pace(
    *,
    quick_batch: timedelta | None,
    slow_call: timedelta | None,
    typical_call: timedelta | None,
    at_once: int,
) -> Pace:
    """From what was measured; None for what has not been measured often enough.

    `slow_call` is what only one call in twenty exceeds: twice that leaves room for a retry.
    """
    call = UNKNOWN_CALL
    if slow_call is not None:
        call = min(max(2 * slow_call, SHORTEST_CALL), LONGEST_CALL)
    typical = UNKNOWN_TYPICAL_CALL if typical_call is None else typical_call
    return Pace(quick_batch or timedelta(0), call, typical / at_once)


def must_leave(candidates: Iterable[Candidate], until: datetime) -> list[UUID]:
    """The jobs whose last safe moment comes before `until`, the most urgent first."""
    return [
        candidate.job_id
        for candidate, moment in last_moments(candidates)
        if moment - _doubt(candidate) < until
    ]


def last_moments(candidates: Iterable[Candidate]) -> Sequence[tuple[Candidate, datetime]]:
    """Each job with the last moment at which its standard call can be due, in that order.

    The standard lane makes so many calls at once and no more, so of jobs that share a deadline
    some have to go before the others: from the last one back, each makes room for the next.
    """
    ordered = sorted(candidates, key=_own_moment)
    moments: list[tuple[Candidate, datetime]] = []
    next_moment: datetime | None = None
    for candidate in reversed(ordered):
        moment = _own_moment(candidate)
        if next_moment is not None:
            moment = min(moment, next_moment - candidate.pace.turn)
        moments.append((candidate, moment))
        next_moment = moment
    moments.reverse()
    return moments


def _own_moment(candidate: Candidate) -> datetime:
    """The last moment for this job, were it alone."""
    life = candidate.deadline_at - candidate.created_at
    return candidate.deadline_at - min(candidate.pace.call, life / CALL_SHARE)


def _doubt(candidate: Candidate) -> timedelta:
    """How much sooner it is clear that a batch will not come in time."""
    return candidate.pace.quick_batch if candidate.waiting else timedelta(0)
