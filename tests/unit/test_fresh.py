"""Look-ups that callers share."""

from collections.abc import Collection, Mapping

import gevent
import pytest

from web.fresh import Fresh


class Shelf:
    """What there is, and what was asked for together."""

    def __init__(self, **items: int) -> None:
        self.items = items
        self.asked: list[set[str]] = []
        self.error: Exception | None = None

    def look_up(self, keys: Collection[str]) -> Mapping[str, int]:
        """Takes a moment, in which others come."""
        self.asked.append(set(keys))
        gevent.sleep(0.01)
        if self.error is not None:
            raise self.error
        return {key: self.items[key] for key in keys if key in self.items}


def test_who_comes_during_a_look_up_shares_the_next() -> None:
    shelf = Shelf(a=1, b=2, c=3)
    fresh = Fresh(shelf.look_up)
    first = gevent.spawn(fresh.get, "a")
    gevent.sleep(0)
    others = [gevent.spawn(fresh.get, key) for key in ("b", "c", "b", "d")]
    gevent.joinall([first, *others])
    assert [each.value for each in (first, *others)] == [1, 2, 3, 2, None]
    assert shelf.asked == [{"a"}, {"b", "c", "d"}]


def test_what_was_found_is_remembered_and_what_was_not_is_asked_for_again() -> None:
    shelf = Shelf(a=1)
    fresh = Fresh(shelf.look_up)
    assert [fresh.get(key) for key in ("a", "a", "b", "b")] == [1, 1, None, None]
    assert shelf.asked == [{"a"}, {"b"}, {"b"}]
    fresh.forget("a")
    assert fresh.get("a") == 1
    assert len(shelf.asked) == 4


def test_a_look_up_that_fails_fails_for_all_who_share_it_and_no_longer() -> None:
    shelf = Shelf(a=1)
    shelf.error = LookupError("away")
    fresh = Fresh(shelf.look_up)

    def is_refused() -> bool:
        with pytest.raises(LookupError):
            fresh.get("a")
        return True

    asking = [gevent.spawn(is_refused) for _ in range(3)]
    gevent.joinall(asking)
    assert all(each.value for each in asking)
    shelf.error = None
    assert fresh.get("a") == 1
