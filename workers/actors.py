"""The actors: each claims what it was rung for, and does nothing if that is not due."""

from uuid import UUID

import dramatiq

from gateway import reconciling
from gateway.analytics import low_balance, partitions
from gateway.calls import retention
from gateway.lanes import (
    cancellation,
    credentials,
    deadlines,
    doubt,
    due,
    escalation,
    grouping,
    ingestion,
    orphans,
    polling,
    submission,
)
from gateway.webhooks.retention import forget_old_events
from models.session import transaction
from workers.bell import BATCHES, CLOCK, WEBHOOKS, Actor
from workers.toolbox import tools

MINUTE = 60_000
LONG = 60 * MINUTE


@dramatiq.actor(queue_name=CLOCK, max_retries=0, time_limit=10 * MINUTE)
def cut_lanes() -> None:
    """Cuts every ripe lane and has its batches submitted; what has lost its key fails."""
    box = tools()
    if credentials.fail_waiting(box.engine):
        box.bell.ring(Actor.DELIVER_WEBHOOKS)
    with transaction(box.engine) as session:
        lane_ids = grouping.lane_ids(session)
    for lane_id in lane_ids:
        for batch_id in grouping.cut_lane(box.works, lane_id):
            box.bell.ring(Actor.SUBMIT_BATCH, str(batch_id))


@dramatiq.actor(queue_name=BATCHES, max_retries=0, time_limit=LONG)
def submit_batch(batch_id: str) -> None:
    """Takes one formed batch to its provider."""
    box = tools()
    with box.heavy_work() as entered:
        if entered:
            submission.submit(box.works, UUID(batch_id))


@dramatiq.actor(queue_name=BATCHES, max_retries=0, time_limit=10 * MINUTE)
def resolve_doubt(batch_id: str) -> None:
    """Looks for one creation whose outcome is unknown."""
    doubt.resolve(tools().works, UUID(batch_id))


@dramatiq.actor(queue_name=CLOCK, max_retries=0, time_limit=10 * MINUTE)
def poll_batches() -> None:
    """Looks at every due batch, and has those that ended ingested."""
    box = tools()
    for batch_id in polling.poll_due(box.works):
        box.bell.ring(Actor.INGEST_BATCH, str(batch_id))


@dramatiq.actor(queue_name=BATCHES, max_retries=0, time_limit=LONG)
def ingest_batch(batch_id: str) -> None:
    """Takes in one ended batch, and has its webhooks delivered."""
    box = tools()
    with box.heavy_work() as entered:
        if entered and ingestion.ingest(box.works, box.prices, UUID(batch_id)):
            box.bell.ring(Actor.DELIVER_WEBHOOKS)


@dramatiq.actor(queue_name=CLOCK, max_retries=0, time_limit=10 * MINUTE)
def cancel_batches() -> None:
    """Asks the providers to stop what nobody waits for any more, or what they should have ended."""
    works = tools().works
    cancellation.flag_overdue(works)
    cancellation.cancel_due(works)


@dramatiq.actor(queue_name=CLOCK, max_retries=0, time_limit=MINUTE)
def sweep_batches() -> None:
    """Rings for every batch that is due and that nobody works on."""
    box = tools()
    with transaction(box.engine) as session:
        rings = {
            Actor.SUBMIT_BATCH: due.batches(session, "formed", "uploading"),
            Actor.RESOLVE_DOUBT: due.batches(session, "submitting", "in_doubt"),
            Actor.INGEST_BATCH: due.batches(session, "ingesting"),
        }
    for actor, batch_ids in rings.items():
        for batch_id in batch_ids:
            box.bell.ring(actor, str(batch_id))


@dramatiq.actor(queue_name=CLOCK, max_retries=0, time_limit=10 * MINUTE)
def settle_orphans() -> None:
    """Cancels batches that exist twice, and books what they cost."""
    box = tools()
    orphans.settle_due(box.works, box.prices)


@dramatiq.actor(queue_name=CLOCK, max_retries=0, time_limit=10 * MINUTE)
def watch_orphans() -> None:
    """Looks through the providers' recent batches for some that exist twice."""
    orphans.watch(tools().works)


@dramatiq.actor(queue_name=CLOCK, max_retries=0, time_limit=10 * MINUTE)
def escalate_jobs() -> None:
    """Sends to the standard lane the jobs whose deadline comes too near for the batch lane."""
    box = tools()
    if escalation.escalate_due(box.works):
        for actor in (Actor.RUN_STANDARD, Actor.CANCEL_BATCHES, Actor.DELIVER_WEBHOOKS):
            box.bell.ring(actor)


@dramatiq.actor(queue_name=CLOCK, max_retries=0, time_limit=MINUTE)
def run_standard() -> None:
    """Starts the standard lane's calls that are due, as many as there is room for."""
    tools().standard_lane.start_due()


@dramatiq.actor(queue_name=CLOCK, max_retries=0, time_limit=10 * MINUTE)
def expire_jobs() -> None:
    """Ends the jobs whose deadline has passed."""
    box = tools()
    if deadlines.expire_overdue(box.engine):
        box.bell.ring(Actor.DELIVER_WEBHOOKS)


@dramatiq.actor(queue_name=CLOCK, max_retries=0, time_limit=MINUTE)
def release_holds() -> None:
    """Releases what dead processes held."""
    retention.release_expired_holds(tools().engine)


@dramatiq.actor(queue_name=CLOCK, max_retries=0, time_limit=10 * MINUTE)
def apply_retention() -> None:
    """Deletes what is kept no longer, and gives back what lay in suspense too long."""
    box = tools()
    while retention.delete_old_texts(box.engine, box.settings.retention_days):
        pass
    while forget_old_events(box.engine, box.settings.retention_days):
        pass
    retention.return_old_suspense(box.engine)
    retention.forget(box.engine)


@dramatiq.actor(queue_name=CLOCK, max_retries=0, time_limit=MINUTE)
def keep_request_log() -> None:
    """Makes the request log's coming days, and drops those that are too old."""
    partitions.keep(tools().engine)


@dramatiq.actor(queue_name=CLOCK, max_retries=0, time_limit=MINUTE)
def watch_balances() -> None:
    """Tells the accounts whose balance has become low."""
    box = tools()
    if low_balance.tell(box.engine):
        box.bell.ring(Actor.DELIVER_WEBHOOKS)


@dramatiq.actor(queue_name=CLOCK, max_retries=0, time_limit=LONG)
def reconcile() -> None:
    """Compares what the providers counted with the books."""
    box = tools()
    reconciling.reconcile(box.house, box.prices)


@dramatiq.actor(queue_name=WEBHOOKS, max_retries=0, time_limit=10 * MINUTE)
def deliver_webhooks() -> None:
    """Delivers every event that is due, and rings again while there may be more."""
    box = tools()
    if box.courier.drain():
        box.bell.ring(Actor.DELIVER_WEBHOOKS)
