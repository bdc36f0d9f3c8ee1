"""JSON lines on stdout: the one way that any process of the service speaks.

A line holds `ts` (RFC 3339, UTC), `level`, `logger`, `event`, the record's `extra` fields and
the ids that `bind` has set. Prompts, completions and secrets are the caller's to keep out.
"""

import logging
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from types import MappingProxyType
from typing import TextIO

import orjson

EXCEPTION_MESSAGE_MAX_CHARACTERS = 300

_IDS = ("request_id", "job_id", "batch_id")
_bound: ContextVar[Mapping[str, str]] = ContextVar("bound_ids", default=MappingProxyType({}))

# What a bare record holds already: everything else on a record came from `extra`.
_OWN_ATTRIBUTES = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}

# Libraries that bring a handler of their own, or say at INFO what nobody reads.
_PROPAGATED = ("gunicorn", "gunicorn.error", "gunicorn.access", "dramatiq", "apscheduler")
_QUIET = ("httpx", "httpcore", "apscheduler", "alembic")


@contextmanager
def bind(**ids: str | None) -> Iterator[None]:
    """Put `request_id`, `job_id` or `batch_id` on every line logged inside the block."""
    unknown = ids.keys() - set(_IDS)
    if unknown:
        raise TypeError(f"bind takes {', '.join(_IDS)}; not {', '.join(sorted(unknown))}")
    known = {name: value for name, value in ids.items() if value is not None}
    token = _bound.set(MappingProxyType({**_bound.get(), **known}))
    try:
        yield
    finally:
        _bound.reset(token)


class JsonFormatter(logging.Formatter):
    """One record, one JSON line; no line breaks, no locals, no arguments' values in tracebacks."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "ts": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "event": record.getMessage(),
            **_bound.get(),
        }
        for name, value in vars(record).items():
            if name not in _OWN_ATTRIBUTES:
                line.setdefault(name, value)
        if record.exc_info and record.exc_info[1] is not None:
            line["exception"] = describe_exception(record.exc_info[1])
        try:
            return orjson.dumps(line, default=str, option=orjson.OPT_NON_STR_KEYS).decode()
        except orjson.JSONEncodeError:
            # A lone surrogate or a reference to itself: say what can be said rather than raise.
            safe = {key: ascii(value) for key, value in line.items()}
            return orjson.dumps(safe).decode()


def describe_exception(error: BaseException) -> dict[str, object]:
    """An exception as type, message and frames, its causes included; no source, no values.

    Only the message's first line is kept: what psycopg, SQLAlchemy and pydantic quote from a row
    or an input stands on the lines after it.
    """
    frames = traceback.extract_tb(error.__traceback__)
    described: dict[str, object] = {
        "type": f"{type(error).__module__}.{type(error).__qualname__}",
        "message": str(error).partition("\n")[0][:EXCEPTION_MESSAGE_MAX_CHARACTERS],
        "frames": [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames],
    }
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if cause is not None:
        described["cause"] = describe_exception(cause)
    return described


def configure(level: str = "INFO", stream: TextIO | None = None) -> None:
    """Make the root logger write JSON lines to stdout and every library's logger use it."""
    handler = logging.StreamHandler(stream if stream is not None else sys.stdout)
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for name in _PROPAGATED:
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
    for name in _QUIET:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))
    logging.captureWarnings(True)
    # Nothing of this is on a line, and finding it out takes as long as writing the line.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging._srcfile = None  # see "Optimization" in the documentation of `logging`
