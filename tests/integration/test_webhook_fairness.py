"""One bad endpoint among many good ones."""

import threading
from collections.abc import Iterator
from datetime import timedelta
from math import ceil
from uuid import UUID

import pytest
from sqlalchemy import text

from gateway.webhooks.signing import new_secret
from tests.integration.webhook_sink import Sink
from tests.integration.webhook_world import World, make_account, make_world, wait_until

ACCOUNTS, ENDPOINTS_EACH, EVENTS_EACH = 4, 30, 1
GOOD = ACCOUNTS * ENDPOINTS_EACH * EVENTS_EACH
BACKLOG = 250

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
    # Twice leaves room for a busy machine; a backlog in the way would cost half a minute.
    assert beside < 2 * alone + timedelta(seconds=1), (alone, beside)
