import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler

import pytest
from sqlalchemy import text

from gateway.webhooks import redelivery
from gateway.webhooks.claims import Outcome, claim, finish
from gateway.webhooks.redelivery import Resent
from gateway.webhooks.schedule import ATTEMPTS_MAX
from models.session import transaction
from models.states import DeliveryStatus
from tests.integration.webhook_sink import Sink, answer
from tests.integration.webhook_world import (
    APPLICATION_NAME,
    World,
    make_account,
    make_world,
    wait_until,
)

DELIVERED = Outcome(DeliveryStatus.DELIVERED, http_status=200)


@pytest.fixture
def world(database_url: str) -> Iterator[World]:
    with make_world(database_url) as made:
        yield made


def test_the_attempt_is_written_before_the_post_and_no_transaction_is_open_during_it(
    world: World,
) -> None:
    seen: list[tuple[int, int]] = []

    def look(handler: BaseHTTPRequestHandler) -> None:
        with world.engine.connect() as connection:
            begun = connection.scalar(
                text("SELECT count(*) FROM delivery_attempts WHERE finished_at IS NULL")
            )
            open_transactions = connection.scalar(
                text(
                    "SELECT count(*) FROM pg_stat_activity WHERE application_name = :name"
                    " AND datname = current_database() AND pid <> pg_backend_pid()"
                    " AND state LIKE 'idle in transaction%'"
                ),
                {"name": APPLICATION_NAME},
            )
        seen.append((begun or 0, open_transactions or 0))
        answer(204)(handler)

    world.sink.scripts["/hook"] = [look]
    world.happen(world.sink.url("/hook"))
    assert world.courier.drain() == 1
    assert seen == [(1, 0)]


def test_a_claim_whose_worker_died_is_taken_again_after_its_lease_and_not_before(
    world: World,
) -> None:
    world.happen(world.sink.url("/hook"))
    with transaction(world.engine) as session:
        parcels, _ = claim(session, 16, "")
    assert len(parcels) == 1
    assert world.courier.drain() == 0
    assert 28 < world.deliveries()[0].due_in_seconds <= 30
    world.let_time_pass()
    assert world.courier.drain() == 1
    first, second = world.attempts()
    assert (first.finished_at, first.http_status, first.error) == (None, None, None)
    assert second.http_status == 204
    assert world.deliveries()[0].status == DeliveryStatus.DELIVERED


def test_an_outcome_under_an_old_epoch_changes_nothing(world: World) -> None:
    world.happen(world.sink.url("/hook"))
    with transaction(world.engine) as session:
        (late,), _ = claim(session, 16, "")
    world.let_time_pass()
    with transaction(world.engine) as session:
        (current,), _ = claim(session, 16, "")
    before = world.deliveries()[0]
    with transaction(world.engine) as session:
        assert not finish(session, late, DELIVERED).won
    after = world.deliveries()[0]
    assert (after.status, after.epoch, after.leased_until) == (
        before.status,
        before.epoch,
        before.leased_until,
    )
    assert [each.finished_at for each in world.attempts()] == [None, None]
    with transaction(world.engine) as session:
        assert finish(session, current, DELIVERED).won
        assert not finish(session, current, DELIVERED).won


def test_a_delivery_that_kills_its_worker_every_time_is_given_up(world: World) -> None:
    world.happen(world.sink.url("/hook"))
    for expected in [1] * ATTEMPTS_MAX + [0, 0]:
        with transaction(world.engine) as session:
            assert len(claim(session, 16, "")[0]) == expected
        world.let_time_pass()
    assert world.deliveries()[0].status == DeliveryStatus.FAILED


def test_one_hanging_url_with_a_long_backlog_does_not_delay_the_others(world: World) -> None:
    world.sink.scripts["/hang"] = [world.sink.hang]
    world.happen(*[world.sink.url("/hang")] * 600)
    world.let_time_pass()
    world.happen(*[world.sink.url(f"/good/{n}") for n in range(20)])
    thread = threading.Thread(target=world.courier.drain)
    thread.start()
    wait_until(lambda: all(world.sink.at(f"/good/{n}") for n in range(20)), 5.0)
    world.happen(world.sink.url("/later"))
    wait_until(lambda: bool(world.sink.at("/later")), 2.0)
    assert world.sink.most_at_once["/hang"] == 4
    world.sink.close()
    world.courier.close()
    thread.join()


def test_one_hanging_host_under_a_url_a_job_does_not_delay_the_others(world: World) -> None:
    other = Sink()
    world.sink.scripts["/hang"] = [world.sink.hang]
    world.happen(*[world.sink.url(f"/hang?job={n}") for n in range(400)])
    world.let_time_pass()
    world.happen(*[other.url(f"/good?job={n}") for n in range(20)])
    thread = threading.Thread(target=world.courier.drain)
    thread.start()
    wait_until(lambda: len(other.at("/good")) == 20, 5.0)
    assert world.sink.most_at_once["/hang"] == 8
    world.sink.close()
    other.close()
    world.courier.close()
    thread.join()


def test_two_workers_share_the_four_places_of_a_url_and_deliver_each_event_once(
    world: World,
) -> None:
    def slowly(handler: BaseHTTPRequestHandler) -> None:
        time.sleep(0.01)
        answer(204)(handler)

    world.sink.scripts["/hook"] = [slowly]
    world.happen(*[world.sink.url("/hook")] * 60)
    couriers = [world.make_courier() for _ in range(2)]
    threads = [threading.Thread(target=each.drain) for each in couriers]
    for thread in threads:
        thread.start()
    for thread, each in zip(threads, couriers, strict=True):
        thread.join()
        each.close()
    received = world.sink.at("/hook")
    assert len(received) == len({each.headers["webhook-id"] for each in received}) == 60
    assert world.sink.most_at_once["/hook"] <= 4
    assert {each.status for each in world.deliveries()} == {DeliveryStatus.DELIVERED}


def test_a_drain_stops_at_its_limit(world: World) -> None:
    world.happen(*[world.sink.url(f"/hook/{n}") for n in range(6)])
    assert world.courier.drain(limit=2) == 2
    world.courier.close()
    statuses = [each.status for each in world.deliveries()]
    assert statuses.count(DeliveryStatus.DELIVERED) == 2
    assert statuses.count(DeliveryStatus.PENDING) == 4


def test_a_call_to_drain_meanwhile_leaves_what_is_new_to_the_drain_that_runs(world: World) -> None:
    answers: list[int] = []

    def ring(handler: BaseHTTPRequestHandler) -> None:
        world.happen(world.sink.url("/new"))
        answers.append(world.courier.drain())
        answer(204)(handler)

    world.sink.scripts["/ring"] = [ring]
    world.happen(world.sink.url("/ring"))
    assert world.courier.drain() == 2
    assert answers == [0]
    assert len(world.sink.at("/new")) == 1


def test_a_closed_courier_begins_nothing(world: World) -> None:
    world.courier.close()
    world.happen(world.sink.url("/hook"))
    assert world.courier.drain() == 0
    assert world.sink.at("/hook") == []


def test_a_secret_that_cannot_be_read_stops_no_other_delivery(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.happen(world.sink.url("/broken"), account=make_account(world.engine, "broken"))
    world.happen(world.sink.url("/hook"))
    assert world.courier.drain() == 2
    assert (len(world.sink.at("/broken")), len(world.sink.at("/hook"))) == (0, 1)
    assert "webhook attempt broke off" in caplog.messages


@pytest.mark.parametrize("has_failed", [False, True])
def test_an_attempt_from_before_a_delivery_was_sent_again_does_not_answer_for_it(
    world: World, has_failed: bool
) -> None:
    """A worker stopped beyond its lease; meanwhile the delivery's owner asks for it anew."""
    endpoint_id, _ = world.endpoint("/hook")
    world.complete()
    with transaction(world.engine) as session:
        (late,), _ = claim(session, 16, "")
    world.let_time_pass()
    if has_failed:
        world.change(endpoint_id, enabled=False)
        world.change(endpoint_id, enabled=True)
    with transaction(world.engine) as session:
        assert redelivery.resend(session, world.account, late.delivery_id) is Resent.DONE
    with transaction(world.engine) as session:
        assert not finish(session, late, Outcome(DeliveryStatus.FAILED)).won
    assert world.deliveries()[0].status == DeliveryStatus.PENDING
    assert world.courier.drain() == 1
    assert len(world.sink.at("/hook")) == 1
