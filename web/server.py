"""gunicorn's settings: gevent workers, JSON logs, a drain of 25 seconds.

Executed by gunicorn before its workers patch the standard library, so it imports nothing of the
app that waits or locks.
"""

import os
import resource
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import gevent
from gevent import monkey, socket
from gunicorn.glogging import Logger  # type: ignore[import-untyped]  # has no types
from gunicorn.workers.ggevent import GeventWorker  # type: ignore[import-untyped]  # has no types

from gateway import collecting
from settings import load

_settings = load()

IDLE_SECONDS = 1.0
"""After SIGTERM: how long a connection without a call stays open."""
CALL_SECONDS = 20.0
"""After SIGTERM: how long a call may go on; what cannot finish ends with the error object."""
END_SECONDS = 0.5
"""How long what was interrupted then may take to end."""
BOOKS_SECONDS = 1.5
"""After the last call: how long its settlement may take, and how long a read."""

OPEN_FILES = 16_384
METRICS_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""The variable by which prometheus_client knows that several processes count together."""


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
        self._let_go_at = time.monotonic()
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
        self._let_go_at = time.monotonic()
        super().handle_exit(sig, frame)
        gevent.spawn(self._let_go)

    def run(self) -> None:
        """Returns when every call has been answered, or was told that it cannot be."""
        collecting.spare_what_stays()
        super().run()
        # Streams that are read to their end although their callers have left.
        left = self._let_go_at + CALL_SECONDS - time.monotonic()
        self.wsgi.extensions["offpeak"].in_flight.finish(max(0.0, left) + END_SECONDS)
        self.wsgi.extensions["offpeak"].close(BOOKS_SECONDS)

    def _let_go(self) -> None:
        self.wsgi.extensions["offpeak"].waiters.dismiss()
        gevent.sleep(IDLE_SECONDS)
        for greenlet, timer in list(self._idle.items()):
            greenlet.kill(timer, block=False)
        gevent.sleep(CALL_SECONDS - IDLE_SECONDS)
        self.wsgi.extensions["offpeak"].in_flight.interrupt()


class ErrorLogger(Logger):  # type: ignore[misc]  # as above
    """gunicorn's own log, without its line for every request, which the app writes itself."""

    def access(self, *_: object) -> None:
        """Writes nothing; gunicorn itself would put the line together and then drop it."""


# psycopg runs on native threads only, where its own wait is the cheap one; it would choose
# another for finding gevent in the process.
os.environ["PSYCOPG_WAIT_FUNC"] = "wait_c"

# Dramatiq's broker asks Redis for this once, holding a native lock meanwhile: a second greenlet
# that rings before Redis has answered would wait for that lock with the whole event loop.
os.environ["dramatiq_lua_max_stack"] = "4000"  # noqa: SIM112 (Dramatiq's own name)

# A stream takes two sockets, and many systems begin with 1,024 for a process.
_soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
if _soft != resource.RLIM_INFINITY:
    _most = OPEN_FILES if _hard == resource.RLIM_INFINITY else min(OPEN_FILES, _hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(_soft, _most), _hard))


def on_starting(_server: object) -> None:
    """Makes the folder where all workers keep their counters, each in files of its own."""
    os.environ[METRICS_FOLDER] = tempfile.mkdtemp(prefix="offpeak-metrics-")


def child_exit(_server: object, worker: DrainingWorker) -> None:
    """Forgets the gauges of a worker that is gone; what it counted stays."""
    for path in Path(os.environ[METRICS_FOLDER]).glob(f"gauge_live*_{worker.pid}.db"):
        path.unlink(missing_ok=True)


def on_exit(_server: object) -> None:
    """Leaves nothing behind."""
    shutil.rmtree(os.environ[METRICS_FOLDER], ignore_errors=True)


bind = f"0.0.0.0:{_settings.port}"
workers = _settings.web_concurrency
worker_class = DrainingWorker
worker_connections = 2000
graceful_timeout = 25
timeout = 60
keepalive = 75
# The longest that gunicorn can: a hundred ids and what else a list is asked by fit in.
limit_request_line = 8190
accesslog = None
logger_class = ErrorLogger
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
    },
}
