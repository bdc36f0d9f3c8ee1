"""The steps of a lane's journey, as the worker takes them."""

import time
from uuid import UUID

from sqlalchemy import text

from benchmarks.world import World
from gateway.billing.pricing import PriceBook
from gateway.lanes import due, grouping, ingestion, polling, submission
from gateway.lanes.works import Works
from models.session import transaction

PROVIDER_SECONDS = 300


def lanes(here: World) -> list[int]:
    """All lanes."""
    with transaction(here.house.engine) as session:
        return grouping.lane_ids(session)


def cut_and_upload(here: World) -> None:
    """Takes whatever waits to the provider."""
    for lane_id in lanes(here):
        for batch_id in grouping.cut_lane(here.works, lane_id):
            submission.submit(here.works, batch_id)


def wait_for_provider(here: World) -> None:
    """Polls until the provider has ended every batch."""
    until = time.monotonic() + PROVIDER_SECONDS
    while time.monotonic() < until:
        polling.poll_due(here.works)
        with transaction(here.house.engine) as session:
            running = session.execute(
                text("SELECT count(*) FROM provider_batches WHERE status <> 'ingesting'")
            ).scalar_one()
        if not running:
            return
        time.sleep(0.5)
    raise TimeoutError("the provider did not finish")


def ingest(works: Works) -> None:
    """Takes in every batch that has ended."""
    with transaction(works.engine) as session:
        ended: list[UUID] = list(due.batches(session, "ingesting"))
    prices = PriceBook()
    for batch_id in ended:
        if not ingestion.ingest(works, prices, batch_id):
            raise RuntimeError("a batch was not taken in")
