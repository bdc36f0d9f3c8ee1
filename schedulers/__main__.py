"""`python -m schedulers`: rings the timetable until SIGTERM."""

import signal
import sys
import threading
from datetime import UTC
from types import FrameType

from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.schedulers.background import BackgroundScheduler

from models.session import connect
from schedulers.clock import Clock, Leadership
from schedulers.timetable import timetable
from schedulers.winder import LOOK_SECONDS, Winder
from settings import Settings, SettingsError, load, logs
from workers.bell import Bell


def build(settings: Settings, clock: Clock) -> BackgroundScheduler:
    """The scheduler with every entry of the timetable, not yet started."""
    # One thread: ticks are short, and the leader's connection is used by one thread at a time.
    scheduler = BackgroundScheduler(executors={"default": ThreadPoolExecutor(1)}, timezone=UTC)
    for entry in timetable(settings):
        scheduler.add_job(
            clock.tick,
            "interval",
            args=[entry],
            id=entry.actor.value,
            # Twice a slot: whichever comes first takes it, so no slot is missed for coming early.
            seconds=entry.every_seconds / 2,
            coalesce=True,
            max_instances=1,
            misfire_grace_time=entry.every_seconds,
        )
    return scheduler


def main() -> None:
    """Runs until told to stop; exits with a sentence if the environment is not usable."""
    try:
        settings = load()
    except SettingsError as error:
        sys.exit(str(error))
    logs.configure(settings.log_level)
    stopped = threading.Event()

    def stop(_signal: int, _frame: FrameType | None) -> None:
        stopped.set()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    engine = connect(settings.sqlalchemy_url, pool_size=2, name="offpeak-scheduler")
    leadership = Leadership(engine)
    scheduler = build(settings, Clock(engine, leadership, Bell(settings)))
    winder = Winder(scheduler)
    scheduler.start()
    while not stopped.wait(LOOK_SECONDS):
        winder.look()
    scheduler.shutdown(wait=True)
    leadership.resign()
    engine.dispose()


if __name__ == "__main__":
    main()
