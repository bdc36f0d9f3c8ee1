"""The timetable: what is rung, and how often."""

from dataclasses import dataclass

from gateway.lanes.escalation import LOOK_SECONDS
from settings import Settings
from workers.bell import Actor


@dataclass(frozen=True, slots=True)
class Entry:
    """One actor and the seconds between its turns."""

    actor: Actor
    every_seconds: int


def timetable(settings: Settings) -> tuple[Entry, ...]:
    """Every recurring task under these settings."""
    sweep = settings.sweep_seconds
    return (
        Entry(Actor.CUT_LANES, min(sweep, settings.batch_window_seconds)),
        Entry(Actor.SWEEP_BATCHES, sweep),
        Entry(Actor.POLL_BATCHES, min(sweep, settings.batch_poll_seconds)),
        Entry(Actor.DELIVER_WEBHOOKS, 1),  # the first retry is due within five seconds
        Entry(Actor.ESCALATE_JOBS, LOOK_SECONDS),
        Entry(Actor.RUN_STANDARD, min(sweep, LOOK_SECONDS)),
        Entry(Actor.EXPIRE_JOBS, sweep),
        Entry(Actor.CANCEL_BATCHES, sweep),
        Entry(Actor.SETTLE_ORPHANS, sweep),
        Entry(Actor.WATCH_ORPHANS, 60),
        Entry(Actor.RELEASE_HOLDS, 60),
        Entry(Actor.APPLY_RETENTION, 300),
        Entry(Actor.KEEP_REQUEST_LOG, 600),
        Entry(Actor.WATCH_BALANCES, 60),
        Entry(Actor.RECONCILE, 3600),
    )
