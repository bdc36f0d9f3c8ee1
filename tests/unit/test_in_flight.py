"""Work that goes on beside the request that waits for it."""

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
    # It is told by the event loop, at its next turn.
    gevent.sleep(0.01)
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
