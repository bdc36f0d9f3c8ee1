"""Any number of clocks have the effect of one, and some clock is always running."""

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field

import pytest
import redis
from sqlalchemy import Engine, create_engine, text

import settings
from models.migrate import sqlalchemy_url
from models.session import connect
from schedulers.__main__ import build
from schedulers.clock import LEADER_LOCK, Clock, Leadership
from schedulers.timetable import Entry, timetable
from schedulers.winder import Winder
from settings import Settings
from workers.bell import QUEUES, Actor, Bell

RARE = Entry(Actor.SWEEP_BATCHES, 86_400)
OFTEN = Entry(Actor.CUT_LANES, 1)


class Usurper(Leadership):
    """Believes that it leads, as one does who was cut off and has not noticed."""

    def held(self) -> bool:
        return True


@dataclass
class Process:
    """One scheduler process."""

    engine: Engine
    leadership: Leadership
    clock: Clock


@dataclass
class Town:
    """Scheduler processes on one database and one Redis."""

    settings: Settings
    client: redis.Redis
    cleanup: ExitStack
    processes: list[Process] = field(default_factory=list)

    def process(self, kind: type[Leadership] = Leadership) -> Process:
        engine = connect(self.settings.sqlalchemy_url, pool_size=2, name="clock-test")
        self.cleanup.callback(engine.dispose)
        leadership = kind(engine)
        # A process's end takes its lock away; within one process somebody has to.
        self.cleanup.callback(leadership.resign)
        process = Process(engine, leadership, Clock(engine, leadership, Bell(self.settings)))
        self.processes.append(process)
        return process

    def rings(self) -> int:
        return int(self.client.llen("dramatiq:clock"))


@pytest.fixture
def town(database_url: str, redis_url: str) -> Iterator[Town]:
    loaded = settings.load(
        {
            "DATABASE_URL": database_url,
            "REDIS_URL": redis_url,
            "SECRET_KEY": "s" * 32,
            "ENCRYPTION_KEY": "e" * 32,
        }
    )
    with ExitStack() as cleanup, redis.Redis.from_url(redis_url) as client:
        yield Town(loaded, client, cleanup)


def cut_off(process: Process, database_url: str) -> None:
    """Ends the session that holds the lock, as a failover or an administrator would."""
    admin = create_engine(sqlalchemy_url(database_url), isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(
            text(
                "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' "
                "AND ((classid::bigint << 32) | objid::bigint) = :lock AND granted "
                "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
            ),
            {"lock": LEADER_LOCK},
        )
    admin.dispose()
    assert process.leadership.held() is False, "it notices"


def test_a_slot_is_rung_for_once_by_one_process(town: Town) -> None:
    clock = town.process().clock
    assert [clock.tick(RARE) for _ in range(3)] == [True, False, False]
    assert town.rings() == 1


def test_each_task_has_slots_of_its_own_and_each_slot_is_rung_for(town: Town) -> None:
    clock = town.process().clock
    assert clock.tick(RARE)
    assert clock.tick(OFTEN)
    time.sleep(1.05)
    assert clock.tick(OFTEN)
    assert not clock.tick(RARE)


def test_of_three_processes_one_leads(town: Town) -> None:
    processes = [town.process() for _ in range(3)]
    assert [process.leadership.held() for process in processes] == [True, False, False]
    assert [process.clock.tick(RARE) for process in processes] == [True, False, False]


def test_three_that_all_believe_to_lead_have_the_effect_of_one(town: Town) -> None:
    processes = [town.process(Usurper) for _ in range(3)]
    taken: list[bool] = []
    start = threading.Barrier(3, timeout=10)

    def tick(clock: Clock) -> None:
        start.wait()
        taken.extend(clock.tick(RARE) for _ in range(5))

    threads = [threading.Thread(target=tick, args=[each.clock]) for each in processes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert (len(taken), sum(taken), town.rings()) == (15, 1, 1)


def test_when_the_leader_is_cut_off_another_takes_over_and_both_never_lead(
    town: Town, database_url: str
) -> None:
    first, second = town.process(), town.process()
    assert first.leadership.held()
    assert not second.leadership.held()
    cut_off(first, database_url)
    assert second.leadership.held()
    assert not first.leadership.held()
    assert second.clock.tick(RARE)
    assert not first.clock.tick(RARE)


def test_a_leader_that_was_cut_off_may_lead_again(town: Town, database_url: str) -> None:
    process = town.process()
    assert process.leadership.held()
    cut_off(process, database_url)
    assert process.clock.tick(RARE)


def test_a_leader_that_ends_makes_way(town: Town) -> None:
    first, second = town.process(), town.process()
    assert first.leadership.held()
    # A killed process's sessions end with it.
    with second.engine.connect() as connection:
        connection.execute(
            text(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
                "WHERE application_name = 'clock-test' AND pid <> pg_backend_pid() "
                "AND datname = current_database()"
            )
        )
    assert second.clock.tick(RARE)


def test_a_leader_that_resigns_makes_way_at_once_and_may_lead_again(town: Town) -> None:
    first, second = town.process(), town.process()
    assert first.leadership.held()
    first.leadership.resign()
    assert second.leadership.held()
    assert not first.leadership.held()
    second.leadership.resign()
    assert first.leadership.held()


def forget_turns(town: Town, slots: int) -> None:
    """So many slots go by without anybody who takes them."""
    with town.processes[0].engine.begin() as connection:
        connection.execute(text("UPDATE ticks SET slot = slot - :slots"), {"slots": slots})


def test_when_the_leader_is_stopped_the_others_take_its_slots(town: Town) -> None:
    """A leader that hangs keeps its session, and with it the lock."""
    leader, other = town.process(), town.process()
    assert leader.clock.tick(RARE)
    assert not other.clock.tick(RARE)
    forget_turns(town, 2)
    assert not other.clock.tick(RARE), "the leader may be late"
    forget_turns(town, 1)
    assert other.clock.tick(RARE)
    assert not leader.clock.tick(RARE), "the slot is taken"
    assert town.rings() == 2


def test_when_the_databases_clock_is_set_back_the_timetable_goes_on(town: Town) -> None:
    """Set back by ten minutes: the slots that come again are rung for again, once each."""
    leader, other = town.process(), town.process()
    assert leader.clock.tick(RARE)
    forget_turns(town, -600)
    assert leader.clock.tick(RARE), "its slot lies 600 ahead"
    assert not leader.clock.tick(RARE)
    assert not other.clock.tick(RARE)
    with leader.engine.connect() as connection:
        assert len(connection.execute(text("SELECT slot FROM ticks")).all()) == 1
    forget_turns(town, 1)
    assert leader.clock.tick(RARE), "the next one"
    assert town.rings() == 3


def test_when_the_databases_clock_is_set_forward_the_slots_between_are_left_out(
    town: Town,
) -> None:
    process = town.process()
    assert process.clock.tick(RARE)
    forget_turns(town, 600)
    assert [process.clock.tick(RARE) for _ in range(3)] == [True, False, False]


def test_when_the_machines_clock_is_set_back_every_task_is_due_at_once(town: Town) -> None:
    """Otherwise the scheduler would sleep until the time of day that it had planned."""
    wall, steady = 1_800_000_000.0, 50.0
    scheduler = build(town.settings, town.process().clock)
    scheduler.start(paused=True)
    winder = Winder(scheduler, lambda: wall, lambda: steady)
    planned = {job.id: job.next_run_time for job in scheduler.get_jobs()}
    wall, steady = wall + 1, steady + 1
    assert not winder.look()
    wall, steady = wall + 600, steady + 1
    assert not winder.look(), "what is due now is late, and runs"
    assert {job.id: job.next_run_time for job in scheduler.get_jobs()} == planned
    wall, steady = wall - 600, steady + 1
    assert winder.look()
    assert {job.next_run_time.timestamp() for job in scheduler.get_jobs()} == {wall}
    assert not winder.look(), "once"
    scheduler.shutdown()


def test_leading_holds_no_transaction_open(town: Town) -> None:
    process = town.process()
    for _ in range(2):
        assert process.leadership.held()
    with process.engine.connect() as connection:
        states = connection.execute(
            text(
                "SELECT state FROM pg_stat_activity WHERE application_name = 'clock-test' "
                "AND pid <> pg_backend_pid() AND datname = current_database()"
            )
        ).scalars()
        assert list(states) == ["idle"]


def test_without_redis_the_slot_is_taken_and_nothing_breaks(town: Town) -> None:
    process = town.process()
    away = town.settings.model_copy(
        update={"redis_url": type(town.settings.redis_url)("redis://127.0.0.1:9/0")}
    )
    clock = Clock(process.engine, process.leadership, Bell(away))
    assert clock.tick(RARE)


def test_without_the_database_nothing_is_rung_and_nothing_breaks(
    town: Town, database_url: str
) -> None:
    nowhere = sqlalchemy_url(database_url).replace("/offpeak_", "/no_such_database_")
    engine = connect(nowhere, pool_size=1, name="clock-test")
    for leadership in (Leadership(engine), Usurper(engine)):
        assert not Clock(engine, leadership, Bell(town.settings)).tick(RARE)
    engine.dispose()
    assert town.rings() == 0


def test_every_entry_has_an_actor_a_queue_and_two_turns_a_slot(town: Town) -> None:
    entries = timetable(town.settings)
    assert len({entry.actor for entry in entries}) == len(entries)
    assert all(entry.actor in QUEUES and entry.every_seconds > 0 for entry in entries)
    jobs = {job.id: job for job in build(town.settings, town.process().clock).get_jobs()}
    assert set(jobs) == {entry.actor.value for entry in entries}
    for entry in entries:
        assert jobs[entry.actor.value].trigger.interval.total_seconds() * 2 == entry.every_seconds


def test_whatever_is_unfinished_is_swept_within_a_quarter_of_a_minute(town: Town) -> None:
    every = {entry.actor: entry.every_seconds for entry in timetable(town.settings)}
    sweeps = {
        Actor.CUT_LANES,
        Actor.SWEEP_BATCHES,
        Actor.POLL_BATCHES,
        Actor.EXPIRE_JOBS,
        Actor.SETTLE_ORPHANS,
        Actor.DELIVER_WEBHOOKS,
    }
    assert max(every[actor] for actor in sweeps) <= 15
