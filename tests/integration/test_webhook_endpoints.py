"""What endpoints are sent, when they are given up, and how they catch up."""

import json
import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from sqlalchemy import event, text
from standardwebhooks import Webhook

from gateway.webhooks import endpoints, redelivery
from gateway.webhooks.claims import claim
from gateway.webhooks.events import JobEvent, record
from gateway.webhooks.redelivery import Resent
from gateway.webhooks.retention import forget_old_events
from gateway.webhooks.signing import new_secret
from models import ids
from models.session import transaction
from models.states import DeliveryStatus
from tests.integration.webhook_sink import Received, answer
from tests.integration.webhook_world import UNSEALED, World, make_account, make_world

HOUR = 3600.0
DAY = 24 * HOUR


@pytest.fixture
def world(database_url: str) -> Iterator[World]:
    with make_world(database_url) as made:
        yield made


def statuses(world: World) -> list[DeliveryStatus]:
    return [each.status for each in world.deliveries()]


def verifies(secret: str, received: Received) -> bool:
    told = Webhook(secret).verify(received.body.decode(), received.headers)
    return bool(told["id"] == received.headers["webhook-id"])


def test_an_endpoint_is_sent_every_event_of_its_types_and_only_its_accounts(world: World) -> None:
    stranger = make_account(world.engine, new_secret())
    _, secret = world.endpoint("/mine", include_result=True)
    world.endpoint("/failures", event_types=("job.failed",))
    world.endpoint("/theirs", account=stranger)
    job_ids, deliveries = world.complete([None, None])
    assert deliveries == 2
    assert world.courier.drain() == 2
    received = world.sink.at("/mine")
    told = [Webhook(secret).verify(each.body.decode(), each.headers) for each in received]
    assert {each["data"]["id"] for each in told} == {f"job_{job_id.hex}" for job_id in job_ids}
    assert all("result" in each["data"] for each in told)
    assert world.sink.at("/failures") == world.sink.at("/theirs") == []


def test_accounts_without_endpoints_cost_one_query_however_many_jobs_end(world: World) -> None:
    world.endpoint("/other", account=make_account(world.engine, new_secret()))
    ended = [JobEvent(world.account, ids.new(), "job.completed", None) for _ in range(500)]
    statements: list[str] = []
    event.listen(
        world.engine,
        "before_cursor_execute",
        lambda _c, _cursor, statement, *_rest: statements.append(statement),
    )
    with transaction(world.engine) as session:
        assert record(session, ended) == 0
    assert len(statements) == 1
    with world.engine.connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM events")) == 0


def test_a_job_may_name_an_endpoint_which_then_hears_of_it_once(world: World) -> None:
    subscribed, _ = world.endpoint("/subscribed")
    named, _ = world.endpoint("/named", event_types=("job.failed",))
    theirs, _ = world.endpoint("/theirs", account=make_account(world.engine, new_secret()))
    hooks = [{"endpoint": each.hex} for each in (subscribed, named, theirs)]
    (first, second, third), deliveries = world.complete([*hooks])
    assert deliveries == 4
    assert world.courier.drain() == 4

    def jobs_at(path: str) -> set[str]:
        return {json.loads(each.body)["data"]["id"] for each in world.sink.at(path)}

    assert jobs_at("/subscribed") == {f"job_{each.hex}" for each in (first, second, third)}
    assert len(world.sink.at("/subscribed")) == 3
    assert jobs_at("/named") == {f"job_{second.hex}"}
    assert world.sink.at("/theirs") == []


def test_a_rotation_between_two_attempts_lets_either_secret_verify(world: World) -> None:
    endpoint_id, old = world.endpoint("/hook")
    world.sink.scripts["/hook"] = [answer(500), answer(500), answer(200)]
    world.complete()
    assert world.courier.drain() == 1
    with transaction(world.engine) as session:
        rotated = endpoints.rotate_secret(
            session, UNSEALED, world.account, endpoint_id, keep_old=True
        )
    assert rotated is not None
    _, new = rotated
    world.let_time_pass()
    assert world.courier.drain() == 1
    world.age(24 * HOUR + 1)
    assert world.courier.drain() == 1
    first, second, third = world.sink.at("/hook")
    assert [len(each.headers["webhook-signature"].split()) for each in (first, second, third)] == [
        1,
        2,
        1,
    ]
    assert verifies(old, first)
    assert verifies(old, second)
    assert verifies(new, second)
    assert verifies(new, third)
    with pytest.raises(Exception, match="No matching signature"):
        verifies(old, third)


def test_a_rotation_that_keeps_nothing_ends_the_old_secret_at_once(world: World) -> None:
    endpoint_id, old = world.endpoint("/hook")
    with transaction(world.engine) as session:
        for keep_old in (True, False):
            rotated = endpoints.rotate_secret(
                session, UNSEALED, world.account, endpoint_id, keep_old=keep_old
            )
        assert rotated is not None
        assert endpoints.secrets(session, UNSEALED, world.account, endpoint_id) == [rotated[1]]
    world.complete()
    assert world.courier.drain() == 1
    with pytest.raises(Exception, match="No matching signature"):
        verifies(old, world.sink.at("/hook")[0])


def test_410_disables_an_endpoint_ends_what_waits_for_it_and_tells_the_accounts_others(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    endpoint_id, _ = world.endpoint("/gone")
    _, secret = world.endpoint("/owner", event_types=("webhook_endpoint.disabled",))
    world.sink.scripts["/gone"] = [answer(500)]
    world.complete([None, None])
    assert world.courier.drain() == 2
    world.sink.scripts["/gone"] = [answer(410)]
    world.complete()
    # The disabling itself is an event, which the same drain delivers.
    assert world.courier.drain() == 2
    found = world.look(endpoint_id)
    assert (found.disabled_at is not None, found.disabled_reason) == (True, "gone")
    assert statuses(world) == [DeliveryStatus.FAILED] * 3 + [DeliveryStatus.DELIVERED]
    (told,) = world.sink.at("/owner")
    assert Webhook(secret).verify(told.body.decode(), told.headers)["data"] == {
        "id": f"whe_{endpoint_id.hex}",
        "name": "/gone",
        "url": world.sink.url("/gone"),
        "disabled_reason": "gone",
    }
    assert "webhook_endpoint.disabled" in caplog.messages


def test_what_is_in_flight_when_its_endpoint_is_disabled_still_counts(world: World) -> None:
    endpoint_id, _ = world.endpoint("/hook")
    world.complete([None, None])
    with transaction(world.engine) as session:
        parcels, _ = claim(session, 1, None)
    assert len(parcels) == 1
    world.change(endpoint_id, enabled=False)
    assert statuses(world).count(DeliveryStatus.PENDING) == 1
    world.let_time_pass()
    assert world.courier.drain() == 0
    assert statuses(world) == [DeliveryStatus.FAILED] * 2
    assert world.sink.at("/hook") == []


def test_an_endpoint_that_fails_for_five_days_is_disabled(world: World) -> None:
    endpoint_id, _ = world.endpoint("/hook")
    world.sink.scripts["/hook"] = [answer(500)]
    world.complete()
    assert world.courier.drain() == 1
    world.age(5 * DAY - 60)
    assert world.courier.drain() == 1
    assert world.look(endpoint_id).disabled_at is None
    world.age(120)
    world.complete()
    assert world.courier.drain() == 1
    found = world.look(endpoint_id)
    assert (found.disabled_at is not None, found.disabled_reason) == (True, "failing")
    assert statuses(world) == [DeliveryStatus.FAILED] * 2


def test_one_success_in_five_days_keeps_an_endpoint(world: World) -> None:
    endpoint_id, _ = world.endpoint("/hook")
    world.sink.scripts["/hook"] = [answer(500), answer(200), answer(500)]
    world.complete()
    assert world.courier.drain() == 1
    world.age(3 * DAY)
    assert world.courier.drain() == 1
    assert world.look(endpoint_id).failing_since is None
    world.age(3 * DAY)
    world.complete()
    assert world.courier.drain() == 1
    assert world.look(endpoint_id).disabled_at is None
    assert world.look(endpoint_id).failing_since is not None


def test_an_enabled_endpoint_recovers_what_it_missed_since_a_moment_and_no_more(
    world: World,
) -> None:
    endpoint_id, _ = world.endpoint("/hook")
    world.change(endpoint_id, enabled=False)
    world.complete()
    since = datetime.now(UTC)
    missed, deliveries = world.complete([None, None])
    assert deliveries == 2
    assert world.courier.drain() == 0
    with transaction(world.engine) as session:
        assert redelivery.recover(session, world.account, endpoint_id, since) == (
            Resent.DISABLED,
            0,
        )
    assert world.change(endpoint_id, enabled=True).disabled_reason is None
    with transaction(world.engine) as session:
        assert redelivery.recover(session, world.account, endpoint_id, since) == (Resent.DONE, 2)
        assert redelivery.recover(session, world.account, endpoint_id, since) == (Resent.DONE, 0)
    assert world.courier.drain() == 2
    told = {json.loads(each.body)["data"]["id"] for each in world.sink.at("/hook")}
    assert told == {f"job_{job_id.hex}" for job_id in missed}
    assert statuses(world) == [DeliveryStatus.FAILED] + [DeliveryStatus.DELIVERED] * 2


def resend(world: World, delivery_id: UUID) -> Resent:
    with transaction(world.engine) as session:
        return redelivery.resend(session, world.account, delivery_id)


def test_what_is_sent_again_keeps_its_id_counts_on_and_begins_a_new_schedule(world: World) -> None:
    world.endpoint("/hook")
    world.sink.scripts["/hook"] = [answer(500)]
    world.complete()
    for _ in range(10):
        assert world.courier.drain() == 1
        world.let_time_pass()
    assert world.courier.drain() == 0
    (failed,) = world.deliveries()
    assert (failed.status, failed.attempts) == (DeliveryStatus.FAILED, 10)
    assert resend(world, failed.id) is Resent.DONE
    assert world.courier.drain() == 1
    (again,) = world.deliveries()
    assert (again.status, again.attempts) == (DeliveryStatus.PENDING, 11)
    assert 4.5 < again.due_in_seconds <= 5.5
    world.sink.scripts["/hook"] = [answer(200)]
    world.let_time_pass()
    assert world.courier.drain() == 1
    assert [each.number for each in world.attempts()] == list(range(1, 13))
    received = world.sink.at("/hook")
    assert len({each.headers["webhook-id"] for each in received}) == 1
    assert len({each.body for each in received}) == 1


def test_a_delivered_event_can_be_sent_again_and_one_in_flight_cannot(world: World) -> None:
    world.happen(world.sink.url("/hook"))
    assert world.courier.drain() == 1
    (delivery,) = world.deliveries()
    assert resend(world, delivery.id) is Resent.DONE
    with transaction(world.engine) as session:
        parcels, _ = claim(session, 1, None)
    assert [each.attempt for each in parcels] == [2]
    assert resend(world, delivery.id) is Resent.IN_FLIGHT
    world.let_time_pass()
    assert resend(world, delivery.id) is Resent.DONE
    assert world.courier.drain() == 1
    assert [each.http_status for each in world.attempts()] == [204, None, 204]


def test_what_waits_for_an_endpoint_goes_to_its_new_url(world: World) -> None:
    endpoint_id, _ = world.endpoint("/old")
    world.sink.scripts["/old"] = [answer(500)]
    world.complete()
    assert world.courier.drain() == 1
    before = world.look(endpoint_id)
    unchanged = world.change(endpoint_id, url=before.url, name=before.name)
    assert unchanged.updated_at == before.updated_at
    assert world.change(endpoint_id, url=world.sink.url("/new")).updated_at > before.updated_at
    world.let_time_pass()
    assert world.courier.drain() == 1
    assert (len(world.sink.at("/old")), len(world.sink.at("/new"))) == (1, 1)


def test_a_deleted_endpoint_is_sent_nothing_more_not_even_what_was_written_meanwhile(
    world: World,
) -> None:
    endpoint_id, _ = world.endpoint("/hook")
    world.complete()
    with transaction(world.engine) as session:
        assert endpoints.delete(session, world.account, endpoint_id)
        assert not endpoints.delete(session, world.account, endpoint_id)
    assert statuses(world) == [DeliveryStatus.FAILED]
    # As a transaction would that had read the endpoints before the deletion.
    with transaction(world.engine) as session:
        session.execute(
            text("UPDATE deliveries SET status = 'pending' WHERE endpoint_id = :id"),
            {"id": endpoint_id},
        )
    assert world.courier.drain() == 0
    assert statuses(world) == [DeliveryStatus.FAILED]
    assert resend(world, world.deliveries()[0].id) is Resent.NOT_FOUND
    assert world.sink.at("/hook") == []


def test_nobody_reads_changes_or_resends_what_is_somebody_elses(world: World) -> None:
    endpoint_id, _ = world.endpoint("/hook")
    world.complete()
    (delivery,) = world.deliveries()
    stranger = make_account(world.engine, new_secret())
    with transaction(world.engine) as session:
        assert endpoints.get(session, stranger, endpoint_id) is None
        assert endpoints.page(session, stranger, limit=9) == []
        assert endpoints.change(session, stranger, endpoint_id, {"enabled": False}) is None
        assert endpoints.secrets(session, UNSEALED, stranger, endpoint_id) == []
        rotated = endpoints.rotate_secret(session, UNSEALED, stranger, endpoint_id, keep_old=True)
        assert rotated is None
        assert not endpoints.delete(session, stranger, endpoint_id)
        assert redelivery.page(session, stranger, endpoint_id, limit=9) == []
        assert redelivery.get(session, stranger, delivery.id) is None
        assert redelivery.resend(session, stranger, delivery.id) is Resent.NOT_FOUND
        since = datetime.now(UTC) - timedelta(days=1)
        missing = redelivery.recover(session, stranger, endpoint_id, since)
        assert missing == (Resent.NOT_FOUND, 0)
        pairs = [(stranger, endpoint_id), (world.account, endpoint_id)]
        assert endpoints.unknown(session, pairs) == {(stranger, endpoint_id)}
    assert world.look(endpoint_id).disabled_at is None


class Hasty(random.Random):
    """Dice that always fall for the shortest wait."""

    def uniform(self, a: float, _b: float) -> float:
        return a


@pytest.mark.parametrize("rng", [Hasty(), random.Random(3)])
def test_a_receiver_that_was_down_for_76_hours_still_gets_the_event_under_its_id(
    world: World, rng: random.Random
) -> None:
    world.endpoint("/hook")
    world.sink.scripts["/hook"] = [answer(503)]
    courier = world.make_courier(rng=rng)
    world.complete()
    hours, attempts = 0.0, 0
    while statuses(world) == [DeliveryStatus.PENDING]:
        wait = max(0.0, float(world.deliveries()[0].due_in_seconds))
        world.age(wait)
        hours += wait / HOUR
        if hours > 76:
            world.sink.scripts["/hook"] = [answer(200)]
        attempts += courier.drain()
    assert statuses(world) == [DeliveryStatus.DELIVERED]
    assert attempts == 10
    assert 76 < hours < 84
    received = world.sink.at("/hook")
    assert len({each.headers["webhook-id"] for each in received}) == 1


def test_old_events_are_forgotten_with_their_deliveries_unless_one_still_waits(
    world: World,
) -> None:
    world.endpoint("/done")
    world.complete([{"url": world.sink.url("/waits")}])
    world.sink.scripts["/waits"] = [answer(500)]
    world.complete()
    assert world.courier.drain() == 3
    assert forget_old_events(world.engine, 1) == 0
    assert forget_old_events(world.engine, -1) == 1
    assert {each.url for each in world.deliveries()} == {
        world.sink.url("/waits"),
        world.sink.url("/done"),
    }
    with transaction(world.engine) as session:
        session.execute(text("UPDATE deliveries SET status = 'failed' WHERE status = 'pending'"))
    assert forget_old_events(world.engine, -1) == 1
    assert (world.deliveries(), world.attempts()) == ([], [])
