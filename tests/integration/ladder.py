"""What a test of the ladder does besides the steps of `lane_world`: deadlines, runs, and looks."""

from typing import Any
from uuid import UUID

from gateway.calls import jobs
from gateway.calls.jobs import JobView
from gateway.lanes import deadlines, escalation, runs, standard
from gateway.lanes.records import Target
from gateway.lanes.runs import Run
from gateway.lanes.standard import Ask
from gateway.providers.dialect import Answer
from models.session import transaction
from tests.integration.lane_world import World

STANDARD_NANOS = 660
"""What a standard call with the fake's usual usage is charged: 600, and the markup."""
STANDARD_COST_NANOS = 600


def ask(target: Target, body: dict[str, Any], timeout_seconds: float) -> Answer:
    """The provider's answer, at once."""
    return target.dialect.call(
        target.credential, target.endpoint, target.model, body, timeout_seconds
    )


def near(world: World, *job_ids: UUID, seconds: float = 60) -> None:
    """These jobs' deadline is so many seconds away; they have lived for long."""
    world.run(
        "UPDATE jobs SET deadline_at = now() + make_interval(secs => :seconds), "
        "created_at = now() - interval '1 day' WHERE id = ANY(:ids)",
        seconds=seconds,
        ids=list(job_ids),
    )


def escalate(world: World) -> int:
    return escalation.escalate_due(world.works)


def claim(world: World, limit: int = 100) -> list[Run]:
    with transaction(world.engine) as session:
        return runs.claim(session, limit)


def perform(world: World, run: Run, how: Ask = ask) -> None:
    standard.perform(world.works, world.prices, how, run)


def run_due(world: World) -> int:
    """Makes the calls that are due; how many there were."""
    claimed = claim(world)
    for run in claimed:
        world.survive(perform, world, run)
    return len(claimed)


def pass_time(world: World) -> None:
    """Runs that were put off are due, and leases have ended."""
    world.pass_time()
    world.run(
        "UPDATE standard_runs SET due_at = least(due_at, now()), "
        "leased_until = leased_until - interval '1 hour' WHERE ended_at IS NULL"
    )


def sweep(world: World) -> None:
    """One round of everything that the clock rings for."""
    pass_time(world)
    escalate(world)
    run_due(world)
    deadlines.expire_overdue(world.engine)
    world.sweep()


def in_a_batch(world: World, count: int = 1, **options: Any) -> list[UUID]:
    """Jobs in a batch that runs at the provider, with a deadline that comes near."""
    job_ids = world.accept(count, **options)
    (batch_id,) = world.cut()
    world.submit(batch_id)
    near(world, *job_ids)
    return job_ids


def seen(world: World, job_id: UUID) -> JobView:
    """The job as its owner sees it."""
    with transaction(world.engine) as session:
        (row,) = world.rows("SELECT account_id FROM jobs WHERE id = :id", id=job_id)
        (view,) = jobs.get(session, row.account_id, [job_id])
    return view


def run_row(world: World, job_id: UUID) -> Any:
    (row,) = world.rows("SELECT * FROM standard_runs WHERE id = :id", id=job_id)
    return row


def held_nanos(world: World, job_id: UUID) -> int:
    (row,) = world.rows("SELECT amount_nanos FROM holds WHERE id = :id", id=job_id)
    nanos: int = row.amount_nanos
    return nanos
