"""When a lane is ripe, and how it is cut."""

import itertools
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.lanes.cutting import LINE_OVERHEAD_BYTES, LaneLoad, Waiting, cut, is_ripe
from gateway.lanes.works import LanePolicy, backoff_seconds
from gateway.providers.dialect import BatchLimits

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
LIMITS = BatchLimits(requests=100, bytes=10_000)
POLICY = LanePolicy(
    window=timedelta(seconds=300),
    ripe_requests=50,
    poll_interval=timedelta(seconds=30),
    doubt=timedelta(seconds=120),
)


def load(
    requests: int = 1,
    size: int = 1,
    age: timedelta = timedelta(0),
    left: timedelta = timedelta(hours=72),
) -> LaneLoad:
    return LaneLoad(requests, size, NOW - age, NOW + left)


def jobs(*sizes: int, inputs: int = 0) -> list[Waiting]:
    return [Waiting(UUID(int=number), size, inputs) for number, size in enumerate(sizes)]


def cut_sizes(waiting: Sequence[Waiting], limits: BatchLimits) -> list[int]:
    return [len(batch) for batch in cut(waiting, limits)]


@pytest.mark.parametrize(
    ("waiting", "ripe"),
    [
        (load(), False),
        (load(age=timedelta(seconds=299)), False),
        (load(age=timedelta(seconds=300)), True),
        (load(requests=49), False),
        (load(requests=50), True),
        (load(size=9_999), False),
        (load(size=10_000), True),
        (load(left=timedelta(minutes=10, seconds=1)), False),
        (load(left=timedelta(minutes=10)), True),
        (load(left=timedelta(seconds=-1)), True),
    ],
)
def test_a_lane_is_ripe_by_age_number_bytes_or_a_near_deadline(
    waiting: LaneLoad, ripe: bool
) -> None:
    assert is_ripe(waiting, LIMITS, POLICY, NOW) is ripe


def test_as_many_as_a_batch_may_hold_are_ripe_whatever_the_setting() -> None:
    few = BatchLimits(requests=3, bytes=10_000)
    assert not is_ripe(load(requests=2), few, POLICY, NOW)
    assert is_ripe(load(requests=3), few, POLICY, NOW)


def test_a_deadline_leaves_at_least_two_windows() -> None:
    long_window = LanePolicy(timedelta(hours=1), 50, timedelta(seconds=30), timedelta(seconds=120))
    assert is_ripe(load(left=timedelta(hours=2)), LIMITS, long_window, NOW)
    assert not is_ripe(load(left=timedelta(hours=2, seconds=1)), LIMITS, long_window, NOW)


def test_what_fits_is_one_batch() -> None:
    assert cut_sizes(jobs(*[1] * 30), LIMITS) == [30]
    assert cut_sizes([], LIMITS) == []


def test_each_limit_cuts() -> None:
    assert cut_sizes(jobs(*[1] * 7), BatchLimits(requests=3, bytes=10**9)) == [3, 3, 1]
    three_lines = 3 * (100 + LINE_OVERHEAD_BYTES)
    assert cut_sizes(jobs(*[100] * 7), BatchLimits(requests=50, bytes=three_lines)) == [3, 3, 1]
    by_inputs = BatchLimits(requests=50, bytes=10**9, embedding_inputs=10)
    assert cut_sizes(jobs(*[1] * 7, inputs=4), by_inputs) == [2, 2, 2, 1]


def test_a_job_that_is_alone_over_a_limit_has_a_batch_of_its_own() -> None:
    assert cut_sizes(jobs(1, 50_000, 1), LIMITS) == [1, 1, 1]
    by_inputs = BatchLimits(requests=50, bytes=10**9, embedding_inputs=3)
    assert cut_sizes(jobs(1, 1, inputs=9), by_inputs) == [1, 1]


def test_a_setting_may_lower_a_providers_limit_and_never_raises_it() -> None:
    embedding = BatchLimits(requests=100, bytes=10_000, embedding_inputs=7)

    def within(max_requests: int | None) -> BatchLimits:
        policy = LanePolicy(timedelta(0), 1, timedelta(0), timedelta(0), max_requests=max_requests)
        return policy.within(embedding)

    assert within(None) == within(1_000) == embedding
    assert within(10) == BatchLimits(requests=10, bytes=10_000, embedding_inputs=7)


WAITING = st.lists(
    st.builds(
        Waiting,
        job_id=st.uuids(),
        body_bytes=st.integers(0, 5_000),
        embedding_inputs=st.integers(0, 30),
    ),
    max_size=60,
)
ANY_LIMITS = st.builds(
    BatchLimits,
    requests=st.integers(1, 20),
    bytes=st.integers(1, 10_000),
    embedding_inputs=st.none() | st.integers(1, 50),
)


@given(WAITING, ANY_LIMITS)
def test_limits_hold_order_stays_and_nothing_is_lost(
    waiting: list[Waiting], limits: BatchLimits
) -> None:
    batches = list(cut(waiting, limits))
    assert [job for batch in batches for job in batch] == waiting
    for batch in batches:
        assert 0 < len(batch) <= limits.requests
        if len(batch) > 1:
            assert sum(job.body_bytes + LINE_OVERHEAD_BYTES for job in batch) <= limits.bytes
            inputs = sum(job.embedding_inputs for job in batch)
            assert limits.embedding_inputs is None or inputs <= limits.embedding_inputs


@given(WAITING, ANY_LIMITS)
def test_no_batch_ends_before_it_has_to(waiting: list[Waiting], limits: BatchLimits) -> None:
    batches = list(cut(waiting, limits))
    for batch, following in itertools.pairwise(batches):
        assert len(list(cut([*batch, following[0]], limits))) == 2


@pytest.mark.parametrize(
    ("going_on", "seconds"), [(0, 10), (100, 10), (1_000, 100), (10**6, 900), (-50, 10)]
)
def test_what_has_failed_for_long_is_tried_less_often(going_on: float, seconds: float) -> None:
    age = timedelta(seconds=going_on)
    assert backoff_seconds(age, shortest=10, longest=900) == seconds
