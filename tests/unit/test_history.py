"""What is told of a job's life, from the times that its rows carry."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.calls.history import Own, Round, changes
from models.states import JobStatus, LineState

ZERO = datetime(2026, 1, 1, tzinfo=UTC)


def at(minutes: float) -> datetime:
    return ZERO + timedelta(minutes=minutes)


def told(own: Own, *rounds: Round) -> list[tuple[int, str]]:
    return [(change.position, change.name) for change in changes(own, rounds)]


def test_a_job_that_waits_is_queued() -> None:
    assert told(Own(JobStatus.QUEUED, ZERO)) == [(10, "queued")]


def test_a_job_goes_through_its_batch_to_its_end() -> None:
    own = Own(JobStatus.COMPLETED, ZERO, completed_at=at(9))
    batch = Round(1, LineState.SUCCEEDED, at(1), at(2), at(8))
    assert told(own, batch) == [
        (10, "queued"),
        (11, "submitted"),
        (12, "in_progress"),
        (19, "completed"),
    ]
    assert [change.at for change in changes(own, [batch])] == [ZERO, at(1), at(2), at(9)]


def test_a_batch_that_has_not_reached_the_provider_is_no_news() -> None:
    formed = Round(1, LineState.OPEN, None, None, None)
    assert told(Own(JobStatus.QUEUED, ZERO), formed) == [(10, "queued")]


def test_a_line_that_came_back_sends_its_job_to_the_queue_again() -> None:
    own = Own(JobStatus.FAILED, ZERO, completed_at=at(9))
    first = Round(1, LineState.RETURNED, at(1), None, at(4))
    second = Round(2, LineState.FAILED, at(5), at(6), at(8))
    assert told(own, first, second) == [
        (10, "queued"),
        (11, "submitted"),
        (20, "queued"),
        (21, "submitted"),
        (22, "in_progress"),
        (29, "failed"),
    ]


@pytest.mark.parametrize("escalated", [True, False])
def test_what_the_batch_does_after_the_job_left_it_is_not_told(escalated: bool) -> None:
    own = Own(JobStatus.COMPLETED, ZERO, completed_at=at(9), standard_at=at(3), escalated=escalated)
    batch = Round(1, LineState.LATE, at(1), at(4), at(8))
    standard = "escalated" if escalated else "in_progress"
    assert told(own, batch) == [
        (10, "queued"),
        (11, "submitted"),
        (15, standard),
        (19, "completed"),
    ]


def test_a_cancellation_keeps_its_place_when_the_line_comes_back_later() -> None:
    before = Own(JobStatus.CANCELLING, ZERO, cancelling_at=at(3))
    after = Own(JobStatus.CANCELLED, ZERO, cancelling_at=at(3), completed_at=at(9))
    heard = told(before, Round(1, LineState.OPEN, at(1), None, None))
    assert heard == [(10, "queued"), (11, "submitted"), (16, "cancelling")]
    assert told(after, Round(1, LineState.RETURNED, at(1), None, at(8))) == [
        *heard,
        (19, "cancelled"),
    ]


MOMENTS = st.none() | st.integers(0, 40)
ROUNDS = st.lists(st.tuples(st.sampled_from(LineState), MOMENTS, MOMENTS, MOMENTS), max_size=3)


def _until(now: int, moment: int | None) -> datetime | None:
    return None if moment is None or moment > now else at(moment)


def _seen(
    now: int,
    rounds: list[tuple[LineState, int | None, int | None, int | None]],
    own: tuple[int | None, int | None, int | None],
) -> list[tuple[int, str]]:
    """What somebody is told who looks after `now` minutes."""
    lines = []
    for number, (line, *moments) in enumerate(rounds, 1):
        # A batch is submitted, runs and is over in this order, and after the one before it.
        begun = [40 * number + each for each in sorted(m for m in moments if m is not None)]
        times = [_until(now, each) for each in [*begun, None, None, None][:3]]
        state = line if times[2] is not None else LineState.OPEN
        lines.append(Round(number, state, *times))
    standard, cancelling, completed = (_until(now, each) for each in own)
    return told(Own(JobStatus.COMPLETED, ZERO, cancelling, completed, standard), *lines)


@given(
    ROUNDS,
    st.tuples(*[st.none() | st.integers(0, 200)] * 3),
    st.integers(0, 200),
    st.integers(0, 200),
)
def test_positions_grow_and_are_the_same_whoever_looks_when(
    rounds: list[tuple[LineState, int | None, int | None, int | None]],
    own: tuple[int | None, int | None, int | None],
    one: int,
    other: int,
) -> None:
    standard, cancelling, completed = own
    # The end comes last.
    left = [each for each in (standard, cancelling) if each is not None]
    if completed is not None and left:
        own = (standard, cancelling, max(completed, *left))
    for now in (one, other):
        positions = [position for position, _ in _seen(now, rounds, own)]
        assert positions == sorted(set(positions))
