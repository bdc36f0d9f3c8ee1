"""One bad endpoint among many good ones."""

import threading
from collections.abc import Iterator
from datetime import timedelta
from math import ceil
from uuid import UUID

import pytest
from sqlalchemy import insert, text

from gateway.webhooks.claims import IN_FLIGHT_PER_URL, Outcome, claim, finish
from gateway.webhooks.endpoints import ENDPOINTS_MAX
from gateway.webhooks.signing import hint, new_secret
from models import ids
from models.session import transaction
from models.states import DeliveryStatus
from models.webhooks import WebhookEndpoint
from tests.integration.webhook_sink import Sink
from tests.integration.webhook_world import World, make_account, make_world, wait_until

ACCOUNTS, ENDPOINTS_EACH, EVENTS_EACH = 4, 30, 1
GOOD = ACCOUNTS * ENDPOINTS_EACH * EVENTS_EACH
BACKLOG = 250
THOUSAND = 1_000
PLACES = 64

_LATENCIES = text(
    """
    SELECT finished_at - created_at FROM deliveries
    WHERE status = 'delivered' AND url LIKE :good ORDER BY 1
    """
)


@pytest.fixture
def world(database_url: str) -> Iterator[World]:
    with make_world(database_url) as made:
        yield made


def customers(world: World, sink: Sink) -> list[UUID]:
    """Accounts whose endpoints all answer."""
    accounts = [make_account(world.engine, new_secret()) for _ in range(ACCOUNTS)]
    for number, account in enumerate(accounts):
        for endpoint in range(ENDPOINTS_EACH):
            world.endpoint(f"/good/{number}/{endpoint}", account=account, sink=sink)
    return accounts


def p99(world: World, accounts: list[UUID], sink: Sink, bad: Sink | None = None) -> timedelta:
    """How long the good endpoints' events take; what hangs in `bad` is let go in the end."""
    for account in accounts:
        world.complete([None] * EVENTS_EACH, account=account)
    courier = world.make_courier(timeout_seconds=20.0)
    thread = threading.Thread(target=courier.drain)
    thread.start()

    def latencies() -> list[timedelta]:
        with world.engine.connect() as connection:
            return list(connection.scalars(_LATENCIES, {"good": sink.url("/good/%")}))

    wait_until(lambda: len(latencies()) == GOOD, 60.0)
    found = latencies()
    if bad is not None:
        bad.close()
    courier.close()
    thread.join()
    with world.engine.begin() as connection:
        connection.execute(text("TRUNCATE events, deliveries, delivery_attempts"))
    return found[ceil(0.99 * len(found)) - 1]


def test_a_bad_endpoint_with_a_long_backlog_leaves_the_good_ones_p99_as_it_is(
    world: World,
) -> None:
    good = Sink()
    world.cleanup.callback(good.close)
    accounts = customers(world, good)
    alone = p99(world, accounts, good)
    world.endpoint("/bad")
    world.sink.scripts["/bad"] = [world.sink.hang]
    world.complete([None] * BACKLOG)
    world.let_time_pass()
    beside = p99(world, accounts, good, world.sink)
    assert world.sink.at("/bad")
    # This leaves room for a busy machine; a backlog in the way would cost half a minute.
    assert beside < 2 * alone + timedelta(seconds=5), (alone, beside)


def thousand_endpoints(world: World) -> None:
    """Each with an event: one of them at the sink, the others on hosts of their own."""
    for number in range(THOUSAND // ENDPOINTS_MAX):
        account, secret = make_account(world.engine, new_secret()), new_secret()
        rows = [
            {
                "id": ids.new(),
                "account_id": account,
                "name": "good",
                "url": f"https://{number}-{endpoint}.test/good",
                "event_types": ["job.completed"],
                "secret": secret.encode(),
                "secret_hint": hint(secret),
            }
            for endpoint in range(ENDPOINTS_MAX)
        ]
        with transaction(world.engine) as session:
            session.execute(insert(WebhookEndpoint), rows)
        world.complete(account=account)


def test_of_a_thousand_endpoints_one_that_hangs_takes_four_places_and_no_more(
    world: World,
) -> None:
    """Its backlog is older than all the others' events, which are answered as soon as sent."""
    world.endpoint("/hangs")
    world.complete([None] * BACKLOG)
    world.let_time_pass()
    thousand_endpoints(world)
    walked_to: str | None = ""
    hanging = delivered = rounds = 0
    while delivered < THOUSAND and rounds < THOUSAND:
        rounds += 1
        with transaction(world.engine) as session:
            parcels, walked_to = claim(session, PLACES - hanging, walked_to or "")
            good = [parcel for parcel in parcels if parcel.url.endswith("/good")]
            for parcel in good:
                assert finish(session, parcel, Outcome(DeliveryStatus.DELIVERED)).won
        hanging += len(parcels) - len(good)
        delivered += len(good)
    assert (hanging, delivered) == (IN_FLIGHT_PER_URL, THOUSAND)
    # The first round may find other places taken than the following ones.
    assert rounds <= ceil(THOUSAND / (PLACES - IN_FLIGHT_PER_URL)) + 1, "places were left empty"
