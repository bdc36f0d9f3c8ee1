"""What accepting an asynchronous call costs, and how long it takes while results come in."""

import http.client
import multiprocessing
import os
import signal
import statistics
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import orjson
import psutil
import psycopg
from sqlalchemy import text

from benchmarks import bare_insert
from benchmarks.journey import cut_and_upload, ingest, wait_for_provider
from benchmarks.overhead.load import Request, call
from benchmarks.world import MODEL, World, works, world
from gateway import collecting
from gateway.house import build
from local.processes import free_port
from settings import load

AT_ONCE = 32
MEASURED_SECONDS = 6.0
A_SECOND = 40
IDLE_SECONDS = 15.0
START_SECONDS = 60.0
CALLERS = 8
PATH = "/v1/chat/completions"


@dataclass(frozen=True, slots=True)
class Accepting:
    """Calls accepted a second, and the CPU time of one, web and database together, in µs."""

    a_second: float
    cpu_micros: float


def body() -> bytes:
    """One asynchronous call."""
    question = {"role": "user", "content": "What will the weather be like?"}
    return orjson.dumps(
        {"model": MODEL, "messages": [question], "max_tokens": 30, "prefer_async": True}
    )


@contextmanager
def served(command: Sequence[str], port: int, environ: Mapping[str, str]) -> Iterator[int]:
    """A web server in a process group of its own; its process id."""
    process = subprocess.Popen(
        command, env={**os.environ, **environ}, stdout=subprocess.DEVNULL, start_new_session=True
    )
    try:
        _wait(process, port)
        yield process.pid
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(START_SECONDS)


def _wait(process: "subprocess.Popen[bytes]", port: int) -> None:
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until:
        if process.poll() is not None:
            raise RuntimeError(f"the server ended with {process.returncode}")
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("GET", "/health")
            connection.getresponse().read()
        except OSError:
            time.sleep(0.2)
        else:
            return
        finally:
            connection.close()
    raise TimeoutError("the server does not answer")


@contextmanager
def ours(here: World) -> Iterator[tuple[int, int]]:
    """One web process on this world's database; its process id and port."""
    port = free_port()
    command = ["gunicorn", "--config", "web/server.py", "web:create_app()"]
    with served(command, port, {**here.environ, "PORT": str(port), "WEB_CONCURRENCY": "1"}) as pid:
        yield pid, port


def accepting(spool_root: Path) -> tuple[Accepting, Accepting]:
    """Ours, and the floor: a bare view with one INSERT under the same kind of server."""
    with world(spool_root) as here:
        headers = {"Authorization": f"Bearer {here.key}"}
        with ours(here) as (pid, port):
            figures = _measured(here, pid, port, headers)
        with psycopg.connect(here.url) as connection:
            connection.execute(bare_insert.TABLE)
        port = free_port()
        app = f"benchmarks.bare_insert:create_app({here.url!r})"
        options = ["--worker-class", "gevent", "--workers", "1", "--bind", f"127.0.0.1:{port}"]
        with served(["gunicorn", *options, "--log-level", "error", app], port, {}) as pid:
            return figures, _measured(here, pid, port, headers)


def _measured(here: World, pid: int, port: int, headers: Mapping[str, str]) -> Accepting:
    request = Request(f"http://127.0.0.1:{port}{PATH}", (headers,), body())
    call(request, AT_ONCE, 1.0)
    families = [psutil.Process(each) for each in (pid, here.database_pid)]
    before = sum(map(_cpu_seconds, families))
    heard = call(request, AT_ONCE, MEASURED_SECONDS)
    cpu = sum(map(_cpu_seconds, families)) - before
    if heard.failures:
        raise RuntimeError(f"{len(heard.failures)} calls failed: {heard.failures[0]!r}")
    count = len(heard.latencies)
    return Accepting(count / heard.seconds, cpu / count * 1e6)


def _cpu_seconds(process: psutil.Process) -> float:
    times = [each.cpu_times() for each in (process, *process.children(recursive=True))]
    return float(sum(each.user + each.system for each in times))


def disturbed(lines: int, spool_root: Path) -> tuple[float, float]:
    """Seconds that intake takes at the 99th percentile: idle, and while `lines` are ingested.

    Calls come at a steady rate, and each one's time counts from when it was due.
    """
    with world(spool_root) as here:
        here.accept(lines)
        time.sleep(here.house.policy.window.total_seconds())
        cut_and_upload(here)
        wait_for_provider(here)
        _recycle_log(here)
        with ours(here) as (_, port):
            _paced(here, port, seconds=1.0)
            idle = _paced(here, port, seconds=IDLE_SECONDS)
            context = multiprocessing.get_context("spawn")
            taking_in = context.Process(target=_take_in, args=(dict(here.environ), spool_root))
            taking_in.start()
            busy = _paced(here, port, while_running=taking_in)
            taking_in.join()
            if taking_in.exitcode:
                raise RuntimeError("a batch was not taken in")
    return _p99(idle), _p99(busy)


def _recycle_log(here: World) -> None:
    """Leaves segments of the write-ahead log to be used again, as in a database that has worked.

    A new one fills each with zeros first, 16 MB every few chunks, and every commit waits for that.
    """
    with here.house.engine.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT").execute(text("CHECKPOINT"))


def _take_in(environ: dict[str, str], spool_root: Path) -> None:
    house = build(load(environ), name="benchmark-worker", pool_size=7)
    collecting.spare_what_stays()
    ingest(works(house, spool_root))
    house.close()


def _paced(
    here: World,
    port: int,
    *,
    seconds: float = 600.0,
    while_running: multiprocessing.process.BaseProcess | None = None,
) -> list[float]:
    """The latencies of calls that come `A_SECOND`, for so long."""
    headers = {"Authorization": f"Bearer {here.key}", "Content-Type": "application/json"}
    content = body()

    def one(due: float) -> float:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        connection.request("POST", PATH, content, headers)
        answer = connection.getresponse()
        answer.read()
        connection.close()
        if answer.status != 202:
            raise RuntimeError(f"a call was answered with {answer.status}")
        return time.monotonic() - due

    began = time.monotonic()
    with ThreadPoolExecutor(CALLERS) as callers:
        calls: list[Future[float]] = []
        while (due := began + len(calls) / A_SECOND) < began + seconds:
            if while_running is not None and not while_running.is_alive():
                break
            time.sleep(max(0.0, due - time.monotonic()))
            calls.append(callers.submit(one, due))
        return [each.result() for each in calls]


def _p99(latencies: Sequence[float]) -> float:
    return statistics.quantiles(latencies, n=100, method="inclusive")[98]
