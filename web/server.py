"""gunicorn's settings: gevent workers, JSON logs, a drain of 25 seconds.

Executed by gunicorn before its workers patch the standard library, so it imports nothing of the
app.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import gevent
from gevent import monkey, socket
from gunicorn.workers.ggevent import GeventWorker  # type: ignore[import-untyped]  # has no types

from settings import load

_settings = load()

IDLE_SECONDS = 1.0
"""After SIGTERM: how long a connection without a call stays open."""
CALL_SECONDS = 20.0
"""After SIGTERM: how long a call may go on; what cannot finish ends with the error object."""
BOOKS_SECONDS = 1.5
"""After the last call: how long its settlement may take, and how long a read."""


class DrainingWorker(GeventWorker):  # type: ignore[misc]  # as above
    """A worker that ends within 25 seconds of SIGTERM, and settles what it answered."""

    sockets: list[Any]

    def patch(self) -> None:
        """Makes the waits of greenlets cooperative, but not locks.

        gevent's locks lose wake-ups between native threads (gevent issue 1744), and a thread that
        waits for one in the connection pool, say, is gone for good.
        """
        monkey.patch_all(thread=False)
        self.sockets = [
            socket.socket(each.FAMILY, socket.SOCK_STREAM, fileno=each.sock.detach())
            for each in self.sockets
        ]

    def init_process(self) -> None:
        """Runs the worker, in its own process."""
        self._idle: dict[gevent.Greenlet[..., object], gevent.Timeout] = {}
        super().init_process()

    @contextmanager
    def timeout_ctx(self) -> Iterator[None]:
        """Around the wait for a connection's next request."""
        seconds = self.cfg.keepalive if self.alive else IDLE_SECONDS
        greenlet, timer = gevent.getcurrent(), gevent.Timeout.start_new(seconds)
        assert isinstance(greenlet, gevent.Greenlet)
        self._idle[greenlet] = timer
        try:
            yield
        except gevent.Timeout as expired:
            if expired is not timer:
                raise
        finally:
            timer.close()
            del self._idle[greenlet]

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """SIGTERM."""
        super().handle_exit(sig, frame)
        gevent.spawn(self._let_go)

    def run(self) -> None:
        """Returns when every call has been answered, or was told that it cannot be."""
        super().run()
        self.wsgi.extensions["offpeak"].close(BOOKS_SECONDS)

    def _let_go(self) -> None:
        gevent.sleep(IDLE_SECONDS)
        for greenlet, timer in list(self._idle.items()):
            greenlet.kill(timer, block=False)
        gevent.sleep(CALL_SECONDS - IDLE_SECONDS)
        self.wsgi.extensions["offpeak"].in_flight.interrupt()


# psycopg runs on native threads only, where its own wait is the cheap one; it would choose
# another for finding gevent in the process.
os.environ["PSYCOPG_WAIT_FUNC"] = "wait_c"

bind = f"0.0.0.0:{_settings.port}"
workers = _settings.web_concurrency
worker_class = DrainingWorker
worker_connections = 2000
graceful_timeout = 25
timeout = 60
keepalive = 75
accesslog = None
logconfig_dict = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"json": {"()": "settings.logs.JsonFormatter"}},
    "handlers": {
        "json": {
            "class": "logging.StreamHandler",
            "formatter": "json",
            "stream": "ext://sys.stdout",
        }
    },
    "root": {"level": _settings.log_level, "handlers": ["json"]},
    "loggers": {
        "gunicorn.error": {"level": _settings.log_level, "handlers": [], "propagate": True},
        # The app logs every request itself.
        "gunicorn.access": {"level": "CRITICAL", "handlers": [], "propagate": False},
    },
}
