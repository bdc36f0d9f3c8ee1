"""What a worker says when an actor fails."""

import logging
from collections.abc import Iterator

import dramatiq
import pytest
import redis
from dramatiq import MessageProxy, Worker
from dramatiq.brokers.stub import StubBroker
from dramatiq.middleware import Retries
from sqlalchemy.exc import DataError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from workers.bell import redis_broker
from workers.broker import Away

POOL_TAKEN = PoolTimeout("QueuePool limit of size 7 overflow 0 reached")
REFUSED = DataError("SELECT 1", {}, ValueError("out of range"))


@pytest.fixture
def broker() -> Iterator[StubBroker]:
    broker = StubBroker(middleware=[Retries(max_retries=0), Away()])
    yield broker
    broker.close()


def process(broker: StubBroker, error: Exception) -> None:
    """An actor that is rung for once fails."""

    def act() -> None:
        raise error

    actor = dramatiq.actor(broker=broker)(act)
    worker = Worker(broker, worker_timeout=10, worker_threads=1)
    worker.start()
    actor.send()
    broker.join(actor.queue_name, fail_fast=False)
    worker.join()
    worker.stop()


def test_an_actor_without_a_connection_says_so_in_one_line(
    broker: StubBroker, caplog: pytest.LogCaptureFixture
) -> None:
    process(broker, POOL_TAKEN)
    loud = [each for each in caplog.records if each.levelno >= logging.WARNING]
    assert [(each.message, each.exc_info) for each in loud] == [("actor.database_away", None)]


def test_a_worker_ends_in_order_though_redis_takes_no_ring_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    nowhere = redis.Redis("127.0.0.1", port=1, socket_connect_timeout=1)
    broker = redis_broker(nowhere, [])
    actor = dramatiq.actor(broker=broker)(print)
    consumer = broker.consume(actor.queue_name)
    ring = MessageProxy(actor.message_with_options(args=(), redis_message_id="1"))
    consumer.requeue([ring])
    told = [(each.message, vars(each).get("rings")) for each in caplog.records]
    assert ("rings.not_handed_back", 1) in told


@pytest.mark.parametrize("error", [REFUSED, ZeroDivisionError("a fault of ours")])
def test_what_is_a_fault_of_ours_is_told_with_its_traceback(
    broker: StubBroker, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    process(broker, error)
    (loud,) = (each for each in caplog.records if each.levelno >= logging.ERROR)
    assert loud.exc_info
