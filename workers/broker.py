"""Sets the worker up: logs, broker, toolbox. The `dramatiq` command calls `setup` first.

Messages are never retried and may be dropped: a sweep rings again for whatever is due.
"""

import sys
import time

from dramatiq import Broker, Middleware, Worker, set_broker
from dramatiq.middleware import AgeLimit, Retries, TimeLimit

from gateway.lanes.standard_lane import CLOSE_SECONDS
from settings import SettingsError, load, logs
from workers import toolbox
from workers.bell import redis_broker, redis_client


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
    except SettingsError as error:
        # 3 is Dramatiq's own code for a worker that cannot boot.
        print(str(error), file=sys.stderr)
        sys.exit(3)
    logs.configure(settings.log_level)
    middleware = [AgeLimit(), TimeLimit(), Retries(max_retries=0), Closing()]
    set_broker(redis_broker(redis_client(settings), middleware))
    toolbox.fill(settings)
