"""Requests a minute: which buckets a call counts in, and what the counts say."""

import random

import pytest

from gateway.access.keys import Identity
from gateway.access.limits import (
    WINDOW_SECONDS,
    Bucket,
    LocalCounts,
    Verdict,
    buckets_of,
    judge,
)
from models import ids

NOON = 1_790_000_000.0
SMALL = (Bucket("small", 3),)


def identity(requests_per_minute: int | None = None) -> Identity:
    return Identity(ids.new(), ids.new(), requests_per_minute, None, None, None)


def call(counts: LocalCounts, buckets: tuple[Bucket, ...], now: float) -> Verdict:
    (held,) = counts.take([buckets], now)
    return judge(buckets, held, now)


def test_a_key_has_sixty_a_minute_and_ten_keys_of_an_account_fill_its_bucket() -> None:
    caller = identity()
    own, shared = buckets_of(caller, reading=False)
    assert (own.limit, shared.limit) == (60, 600)
    assert caller.key_id.hex in own.name
    assert caller.account_id.hex in shared.name


def test_a_lower_limit_stays_in_the_accounts_bucket_and_a_raised_one_stands_outside() -> None:
    assert [bucket.limit for bucket in buckets_of(identity(5), reading=False)] == [5, 600]
    assert [bucket.limit for bucket in buckets_of(identity(5000), reading=False)] == [5000]


@pytest.mark.parametrize(("limit", "reads"), [(None, 600), (5, 600), (5000, 5000)])
def test_polls_have_a_bucket_of_their_own_that_is_no_smaller_than_the_keys(
    limit: int | None, reads: int
) -> None:
    caller = identity(limit)
    (bucket,) = buckets_of(caller, reading=True)
    assert bucket.limit == reads
    assert bucket.name not in {each.name for each in buckets_of(caller, reading=False)}


def test_the_call_after_the_last_is_refused_until_the_first_leaves_the_window() -> None:
    counts = LocalCounts()
    verdicts = [call(counts, SMALL, NOON + second) for second in (0, 10, 20)]
    assert [verdict.remaining for verdict in verdicts] == [2, 1, 0]
    refused = call(counts, SMALL, NOON + 25)
    assert (refused.admitted, refused.remaining, refused.retry_after_seconds) == (False, 0, 35)
    assert refused.reset_seconds == 35
    assert call(counts, SMALL, NOON + 25 + refused.retry_after_seconds).admitted
    assert not call(counts, SMALL, NOON + 61).admitted
    assert call(counts, SMALL, NOON + 70).admitted


def test_what_is_refused_does_not_count() -> None:
    counts = LocalCounts()
    for second in range(WINDOW_SECONDS):
        call(counts, SMALL, NOON + second)
    # The three of the first seconds leave together with them, whatever was tried since.
    assert [call(counts, SMALL, NOON + 60 + second).admitted for second in range(3)] == [True] * 3


def test_a_call_counts_in_all_of_its_buckets_or_in_none() -> None:
    counts = LocalCounts()
    wide, narrow = Bucket("wide", 10), Bucket("narrow", 1)
    assert call(counts, (wide, narrow), NOON).admitted
    refused = call(counts, (wide, narrow), NOON)
    assert (refused.admitted, refused.limit, refused.remaining) == (False, 10, 9)
    assert call(counts, (wide,), NOON).remaining == 8


def test_no_sixty_seconds_hold_more_than_the_limit() -> None:
    rng = random.Random(7)
    counts, now = LocalCounts(), NOON
    admitted = []
    for _ in range(3000):
        now += rng.random()
        if call(counts, SMALL, now).admitted:
            admitted.append(int(now))
    assert all(
        later - first >= WINDOW_SECONDS
        for first, later in zip(admitted, admitted[3:], strict=False)
    )
    # As many as fit: three in each minute and the second that its end falls into.
    assert len(admitted) >= 3 * int((now - NOON) / (WINDOW_SECONDS + 2))


def test_a_clock_that_is_set_back_neither_frees_nor_locks_a_bucket() -> None:
    counts = LocalCounts()
    assert [call(counts, SMALL, NOON - back).admitted for back in (0, 100, 200)] == [True] * 3
    assert not call(counts, SMALL, NOON).admitted
    assert call(counts, SMALL, NOON + WINDOW_SECONDS).admitted


def test_buckets_that_nobody_uses_are_forgotten() -> None:
    counts = LocalCounts()
    for number in range(100):
        call(counts, (Bucket(f"key {number}", 1),), NOON)
    call(counts, SMALL, NOON + 2 * WINDOW_SECONDS)
    assert len(counts) == 1
