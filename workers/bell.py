"""Ringing an actor by its name: all that the other doors know of the workers.

A ring carries ids only and may be lost, doubled or late without harm: the truth is in PostgreSQL
and a sweep rings again for whatever is due. So a ring never fails loudly and never waits long.
"""

import logging
from collections.abc import Mapping
from enum import StrEnum

import redis
from dramatiq import Broker, Message, Middleware
from dramatiq.brokers.redis import RedisBroker
from dramatiq.errors import BrokerConnectionError

from settings import Settings

log = logging.getLogger(__name__)

SOCKET_TIMEOUT_SECONDS = 2.0
RING_MAX_AGE_MILLISECONDS = 60_000
"""A ring that nobody heard for a minute is worth nothing: a sweep has rung since."""


class Actor(StrEnum):
    """Every actor by its name; `workers.actors` has a function of the same name for each."""

    CUT_LANES = "cut_lanes"
    SUBMIT_BATCH = "submit_batch"
    RESOLVE_DOUBT = "resolve_doubt"
    POLL_BATCHES = "poll_batches"
    INGEST_BATCH = "ingest_batch"
    CANCEL_BATCHES = "cancel_batches"
    SWEEP_BATCHES = "sweep_batches"
    SETTLE_ORPHANS = "settle_orphans"
    WATCH_ORPHANS = "watch_orphans"
    ESCALATE_JOBS = "escalate_jobs"
    RUN_STANDARD = "run_standard"
    EXPIRE_JOBS = "expire_jobs"
    RELEASE_HOLDS = "release_holds"
    APPLY_RETENTION = "apply_retention"
    DELIVER_WEBHOOKS = "deliver_webhooks"
    KEEP_REQUEST_LOG = "keep_request_log"
    WATCH_BALANCES = "watch_balances"
    RECONCILE = "reconcile"


BATCHES, CLOCK, WEBHOOKS = "batches", "clock", "webhooks"

QUEUES: Mapping[Actor, str] = {
    Actor.CUT_LANES: CLOCK,
    Actor.SUBMIT_BATCH: BATCHES,
    Actor.RESOLVE_DOUBT: BATCHES,
    Actor.POLL_BATCHES: CLOCK,
    Actor.INGEST_BATCH: BATCHES,
    Actor.CANCEL_BATCHES: CLOCK,
    Actor.SWEEP_BATCHES: CLOCK,
    Actor.SETTLE_ORPHANS: CLOCK,
    Actor.WATCH_ORPHANS: CLOCK,
    Actor.ESCALATE_JOBS: CLOCK,
    Actor.RUN_STANDARD: CLOCK,
    Actor.EXPIRE_JOBS: CLOCK,
    Actor.RELEASE_HOLDS: CLOCK,
    Actor.APPLY_RETENTION: CLOCK,
    Actor.DELIVER_WEBHOOKS: WEBHOOKS,
    Actor.KEEP_REQUEST_LOG: CLOCK,
    Actor.WATCH_BALANCES: CLOCK,
    Actor.RECONCILE: CLOCK,
}


def redis_client(
    settings: Settings, timeout_seconds: float = SOCKET_TIMEOUT_SECONDS
) -> redis.Redis:
    """A client for the doorbell's Redis; nothing connects yet."""
    return redis.Redis.from_url(
        settings.redis_url.get_secret_value(),
        socket_timeout=timeout_seconds,
        socket_connect_timeout=timeout_seconds,
        **settings.redis_options,
    )


class Doorbell(RedisBroker):
    """Dramatiq's broker, of which a worker can take its leave while Redis is away."""

    def do_requeue(self, queue_name: str, *message_ids: str) -> None:
        """Hands back the rings that a worker took in and did not get to; a sweep repeats them.

        Dramatiq lets Redis's errors through here: the worker died of them in the middle of its
        orderly end, with a traceback on stderr.
        """
        try:
            super().__getattr__("do_requeue")(queue_name, *message_ids)  # type: ignore[no-untyped-call]
        except redis.RedisError as error:
            fields = {"rings": len(message_ids), "error": type(error).__name__}
            log.warning("rings.not_handed_back", extra=fields)


def redis_broker(client: redis.Redis, middleware: list[Middleware]) -> Broker:
    """Dramatiq's broker on that Redis; nothing connects yet."""
    return Doorbell(client=client, middleware=middleware)  # type: ignore[no-untyped-call]


class Bell:
    """Rings actors through Redis."""

    def __init__(self, settings: Settings) -> None:
        self._client = redis_client(settings)
        self._broker = redis_broker(self._client, [])

    def is_heard(self) -> bool:
        """Whether Redis answers."""
        try:
            return bool(self._client.ping())
        except redis.RedisError:
            return False

    def ring(self, actor: Actor, *ids: str) -> bool:
        """Whether the ring went out; if it did not, the next sweep makes up for it."""
        message: Message[None] = Message(
            queue_name=QUEUES[actor],
            actor_name=actor.value,
            args=ids,
            kwargs={},
            options={"max_age": RING_MAX_AGE_MILLISECONDS},
        )
        try:
            self._broker.enqueue(message)
        except (redis.RedisError, BrokerConnectionError) as error:
            log.warning("bell.not_heard", extra={"actor": actor, "error": type(error).__name__})
            return False
        return True
