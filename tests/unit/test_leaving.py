"""When jobs must leave the batch lane: whatever the deadlines, in time and not before they must."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from gateway.lanes.leaving import Candidate, Pace, last_moments, must_leave, pace

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)
PACE = Pace(quick_batch=20 * MINUTE, call=2 * MINUTE, turn=timedelta(seconds=0.5))


def job(
    number: int, deadline: timedelta, *, life: timedelta = 72 * HOUR, waiting: bool = False
) -> Candidate:
    """A job whose deadline is so far away."""
    deadline_at = NOW + deadline
    return Candidate(UUID(int=number), deadline_at - life, deadline_at, waiting, PACE)


seconds = st.integers(0, 7200).map(lambda each: timedelta(seconds=each))
jobs = st.lists(
    st.builds(
        lambda deadline, life, waiting: (deadline, life + timedelta(seconds=1), waiting),
        seconds,
        seconds,
        st.booleans(),
    ),
    max_size=60,
).map(
    lambda rows: [
        job(number, deadline, life=life, waiting=waiting)
        for number, (deadline, life, waiting) in enumerate(rows)
    ]
)


def kept_free(candidate: Candidate) -> timedelta:
    """The time that a job's call is to have."""
    return min(PACE.call, (candidate.deadline_at - candidate.created_at) / 4)


@given(jobs)
def test_who_starts_at_the_last_moment_has_the_time_of_a_call_even_in_a_queue(
    candidates: list[Candidate],
) -> None:
    lane_free_at = None
    for candidate, moment in last_moments(candidates):
        started = moment if lane_free_at is None else max(moment, lane_free_at)
        assert candidate.deadline_at - started >= kept_free(candidate)
        lane_free_at = started + PACE.turn


@given(jobs)
def test_nobody_leaves_before_somebody_has_to(candidates: list[Candidate]) -> None:
    """Each last moment is the job's own, or just makes room for the next one's."""
    after = None
    for candidate, moment in reversed(last_moments(candidates)):
        own = candidate.deadline_at - kept_free(candidate)
        assert moment in {own, None if after is None else after - PACE.turn}
        assert moment <= own
        after = moment


@given(jobs, seconds)
def test_a_later_look_lets_go_whom_an_earlier_one_let_go_and_others(
    candidates: list[Candidate], later: timedelta
) -> None:
    gone = must_leave(candidates, NOW)
    assert set(gone) <= set(must_leave(candidates, NOW + later))
    assert len(gone) == len(set(gone))


@given(jobs)
def test_who_waits_for_a_batch_goes_no_later_than_who_is_in_one(
    candidates: list[Candidate],
) -> None:
    def as_if(waiting: bool) -> set[UUID]:
        changed = [
            Candidate(each.job_id, each.created_at, each.deadline_at, waiting, each.pace)
            for each in candidates
        ]
        return set(must_leave(changed, NOW))

    assert as_if(False) <= set(must_leave(candidates, NOW)) <= as_if(True)


def test_a_job_in_a_batch_stays_until_the_last_safe_moment() -> None:
    assert must_leave([job(1, 2 * MINUTE)], NOW) == []
    assert must_leave([job(1, 2 * MINUTE)], NOW + timedelta(seconds=1)) == [UUID(int=1)]


def test_a_job_that_waits_goes_when_a_quick_batch_would_come_too_late() -> None:
    assert must_leave([job(1, 22 * MINUTE, waiting=True)], NOW) == []
    gone = must_leave([job(1, 22 * MINUTE, waiting=True)], NOW + timedelta(seconds=1))
    assert gone == [UUID(int=1)]


def test_a_short_lived_job_keeps_a_quarter_of_its_life_for_its_call() -> None:
    candidate = job(1, timedelta(seconds=10), life=timedelta(seconds=40))
    assert must_leave([candidate], NOW) == []
    assert must_leave([candidate], NOW + timedelta(seconds=1)) == [UUID(int=1)]


def test_of_a_thousand_with_one_deadline_some_go_sooner_so_that_all_come_in_time() -> None:
    candidates = [job(number, 6 * MINUTE) for number in range(1000)]
    # They take 500 seconds to start, and the last of them has to start 120 before the deadline.
    assert len(must_leave(candidates, NOW)) == 1000 - 2 * 240 - 1
    assert must_leave(candidates[:400], NOW) == []


def test_what_was_not_measured_is_assumed_with_care() -> None:
    unknown = pace(quick_batch=None, slow_call=None, typical_call=None, at_once=32)
    assert unknown == Pace(timedelta(0), timedelta(seconds=120), timedelta(seconds=0.125))


def test_a_call_is_given_twice_what_a_slow_one_took_within_bounds() -> None:
    def call(slow: float) -> float:
        measured = pace(
            quick_batch=HOUR,
            slow_call=timedelta(seconds=slow),
            typical_call=timedelta(seconds=1),
            at_once=4,
        )
        assert (measured.quick_batch, measured.turn) == (HOUR, timedelta(seconds=0.25))
        return measured.call.total_seconds()

    assert [call(1), call(40), call(10_000)] == [30, 80, 600]
