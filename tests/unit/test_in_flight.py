"""Work that goes on beside the request that waits for it."""

from contextvars import ContextVar

import gevent
import pytest

from web.errors import Stopping
from web.in_flight import InFlight, Work


def test_a_work_gives_what_its_function_returns_or_raises() -> None:
    def fail() -> int:
        raise LookupError("not there")

    given, failed = Work(InFlight(), lambda: 7), Work(InFlight(), fail)
    assert given.is_over(1.0)
    assert failed.is_over(1.0)
    assert given.result() == 7
    assert isinstance(failed.error, LookupError)
    with pytest.raises(LookupError):
        failed.result()


def test_a_work_is_not_over_before_its_end_and_may_be_ended() -> None:
    told: list[str] = []
    work = Work(InFlight(), lambda: gevent.sleep(60), lambda: told.append("over"))
    assert not work.is_over(0.01)
    assert told == []
    work.end(LookupError("enough"))
    assert work.is_over(1.0)
    assert isinstance(work.error, LookupError)
    assert told == ["over"]


def test_a_work_that_is_interrupted_before_it_began_is_stopping() -> None:
    told: list[str] = []
    in_flight = InFlight()
    work = Work(in_flight, lambda: told.append("began"), lambda: told.append("over"))
    in_flight.interrupt()
    assert work.is_over(1.0)
    with pytest.raises(Stopping):
        work.result()
    assert told == ["over"]


def test_a_process_waits_for_works_that_nobody_waits_for() -> None:
    told: list[str] = []

    def work() -> None:
        gevent.sleep(0.05)
        told.append("done")

    in_flight = InFlight()
    Work(in_flight, work)
    in_flight.finish(1.0)
    assert told == ["done"]


def test_a_work_is_done_by_the_greenlet_that_did_the_last_one() -> None:
    in_flight = InFlight()
    works = [Work(in_flight, gevent.getcurrent) for _ in range(3)]
    assert all(work.is_over(1.0) for work in works)
    greenlets = {work.result() for work in works}
    assert len(greenlets) == 3
    for _ in range(3):
        again = Work(in_flight, gevent.getcurrent)
        assert again.is_over(1.0)
        assert again.result() in greenlets


def test_what_was_to_end_a_work_that_is_over_does_not_end_the_next() -> None:
    in_flight = InFlight()
    first = Work(in_flight, lambda: 1)
    assert first.is_over(1.0)
    first.end(LookupError("too late"))
    second = Work(in_flight, lambda: gevent.sleep(0.01))
    assert second.is_over(1.0)
    assert (first.error, second.error) == (None, None)


def test_a_greenlet_that_was_ended_by_an_error_does_the_next_work() -> None:
    in_flight = InFlight()
    first = Work(in_flight, lambda: gevent.sleep(60))
    gevent.sleep(0)
    first.end(LookupError("enough"))
    assert first.is_over(1.0)
    second = Work(in_flight, lambda: 2)
    assert second.is_over(1.0)
    assert second.result() == 2


def test_a_work_sees_nothing_of_the_request_that_its_greenlet_was_made_for() -> None:
    variable: ContextVar[str] = ContextVar("variable", default="nothing")
    variable.set("of this request")
    work = Work(InFlight(), variable.get)
    assert work.is_over(1.0)
    assert work.result() == "nothing"
