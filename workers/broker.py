"""Sets the worker up: logs, broker, toolbox. The `dramatiq` command calls `setup` first.

Messages are never retried and may be dropped: a sweep rings again for whatever is due.
"""

import logging
import sys
import time
from typing import Any

import psycopg
from dramatiq import Actor, Broker, MessageProxy, Middleware, Worker, set_broker
from dramatiq.middleware import AgeLimit, Retries, TimeLimit
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from gateway import collecting
from gateway.lanes.standard_lane import CLOSE_SECONDS
from models.session import is_away
from settings import SettingsError, load, logs
from workers import toolbox
from workers.bell import redis_broker, redis_client

log = logging.getLogger(__name__)


class Away(Middleware):
    """While the database is away, or all connections are taken, actors fail with one line each.

    Nothing is lost by it: what they were rung for stays due, and a sweep rings for it again.
    """

    def after_declare_actor(self, broker: Broker, actor: Actor[..., Any]) -> None:  # noqa: ARG002 (Dramatiq's signature)
        """Has Dramatiq write no traceback for what the database says."""
        actor.options["throws"] = (DBAPIError, PoolTimeout, psycopg.OperationalError)

    def after_process_message(
        self,
        broker: Broker,  # noqa: ARG002 (Dramatiq's signature)
        message: MessageProxy,
        *,
        result: object = None,  # noqa: ARG002 (Dramatiq's signature)
        exception: BaseException | None = None,
    ) -> None:
        """Tells what failed; what the database refused, rather than could not do, in full."""
        if exception is None:
            return
        fields = {"actor": message.actor_name, "error": type(exception).__name__}
        if is_away(exception):
            log.warning("actor.database_away", extra=fields)
        elif isinstance(exception, DBAPIError):
            log.error("actor.failed", exc_info=exception, extra={**fields, "alert": True})


class Closing(Middleware):
    """Lets webhooks and calls that are on their way finish before the process ends."""

    def before_worker_shutdown(self, broker: Broker, worker: Worker) -> None:  # noqa: ARG002 (Dramatiq's signature)
        """Claims nothing more and waits for what is in flight."""
        box, began = toolbox.tools(), time.monotonic()
        box.standard_lane.close(0.0)
        box.courier.close()
        box.standard_lane.close(max(0.0, CLOSE_SECONDS - (time.monotonic() - began)))


def setup() -> None:
    """Makes this process a worker; exits with a sentence if the environment is not usable."""
    try:
        settings = load()
        logs.configure(settings.log_level)
        middleware = [AgeLimit(), TimeLimit(), Retries(max_retries=0), Away(), Closing()]
        set_broker(redis_broker(redis_client(settings), middleware))
        toolbox.fill(settings)
    except SettingsError as error:
        # 3 is Dramatiq's own code for a worker that cannot boot.
        print(str(error), file=sys.stderr)
        sys.exit(3)
    collecting.spare_what_stays()
