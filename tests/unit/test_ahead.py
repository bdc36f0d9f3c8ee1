"""Chunks are made one ahead of their use, in order, and a failure comes in its place."""

import threading
from collections.abc import Iterator

import pytest

from gateway.lanes.results import ahead


def test_items_come_in_their_order_and_end_when_they_end() -> None:
    assert list(ahead(iter(range(1, 6)))) == [1, 2, 3, 4, 5]
    assert list(ahead(iter(()))) == []


def test_one_item_is_made_while_another_is_in_use_and_no_more() -> None:
    made = threading.Semaphore(0)
    count = 0

    def items() -> Iterator[int]:
        nonlocal count
        for count in range(1, 5):
            made.release()
            yield count

    following = ahead(items())
    assert next(following) == 1
    assert made.acquire(timeout=5)
    assert made.acquire(timeout=5)
    assert not made.acquire(timeout=0.05)
    assert list(following) == [2, 3, 4]


def test_a_failure_comes_after_what_was_made_before_it() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise OSError("the disk is gone")

    following = ahead(items())
    assert next(following) == 1
    with pytest.raises(OSError, match="the disk is gone"):
        next(following)


def test_who_stops_early_leaves_no_thread_behind() -> None:
    before = threading.active_count()
    following = ahead(iter(range(1, 100)))
    assert next(following) == 1
    following.close()
    assert threading.active_count() == before
