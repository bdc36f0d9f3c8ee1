"""`python -m benchmarks.batch_path [--lines N]`: what the batch path costs, against its floors.

Each figure stands beside what the same machine did in the same run with only the unavoidable
part of the work. Sizes are measured in processes of their own, so that memory is theirs alone.
"""

import argparse
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

import orjson
import psutil
from sqlalchemy import text

from benchmarks import front_door
from benchmarks.journey import cut_and_upload, ingest, lanes, wait_for_provider
from benchmarks.world import World, world
from gateway.billing import audit
from gateway.lanes import deadlines, due, grouping
from models.bulk import cursor
from models.session import transaction

SMALL = 1_000
FINISHED_ROWS = 1_000_000
WAITING_JOBS = 10
SWEEPS = 200


@dataclass(frozen=True, slots=True)
class Figures:
    """One journey of `lines` lines, in seconds, and the worker's peak memory in MB."""

    lines: int
    cut_and_upload_seconds: float
    ingest_seconds: float
    ingest_cpu_seconds: float
    floor_seconds: float
    peak_megabytes: float


def timed(work: Callable[[], object]) -> float:
    """Seconds that the work took."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def peak_megabytes() -> float:
    """The most memory that this process ever held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def journey(lines: int, spool_root: Path) -> Figures:
    """Cuts, submits and ingests one lane of that many jobs."""
    with world(spool_root) as here:
        here.accept(lines)
        time.sleep(here.house.policy.window.total_seconds())
        uploading = timed(lambda: cut_and_upload(here))
        wait_for_provider(here)
        cpu = _cpu_seconds(here)
        ingesting = timed(lambda: ingest(here.works))
        cpu = _cpu_seconds(here) - cpu
        peak = peak_megabytes()
        report = audit.verify(here.house.engine)
        if not report.is_clean or report.open_holds:
            raise RuntimeError(f"the books are off: {report}")
        floor = _floor(here, lines, spool_root)
        return Figures(lines, uploading, ingesting, cpu, floor, peak)


def _cpu_seconds(here: World) -> float:
    """CPU time so far of this process and of the database."""
    times = [
        each.cpu_times()
        for each in (psutil.Process(), *psutil.Process(here.database_pid).children(recursive=True))
    ]
    return float(sum(each.user + each.system for each in times))


def _floor(here: World, lines: int, spool_root: Path) -> float:
    """Parsing as many result lines with orjson and COPYing them into one table."""
    answer = {
        "id": "chatcmpl-0",
        "object": "chat.completion",
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": "word " * 30}},
        ],
        "usage": {"prompt_tokens": 20, "completion_tokens": 30, "total_tokens": 50},
    }
    path = spool_root / "floor.jsonl"
    with path.open("wb") as out:
        for number in range(lines):
            response = {"status_code": 200, "request_id": "req", "body": answer}
            line = {"id": "r", "custom_id": str(number), "response": response, "error": None}
            out.write(orjson.dumps(line) + b"\n")

    def copy() -> None:
        with transaction(here.house.engine) as session:
            session.execute(text("CREATE TABLE floor (custom_id text PRIMARY KEY, body bytea)"))
            with (
                path.open("rb") as file,
                cursor(session) as driver,
                driver.copy("COPY floor FROM STDIN") as rows,
            ):
                for line in file:
                    parsed = orjson.loads(line)
                    body = orjson.dumps(parsed["response"]["body"])
                    rows.write_row((parsed["custom_id"], body))

    return timed(copy)


def sweep(here: World) -> None:
    """One round of every sweep that looks for due work."""
    with transaction(here.house.engine) as session:
        due.batches(session, "formed", "uploading")
        due.batches(session, "submitting", "in_doubt")
        due.batches(session, "ingesting")
    for lane_id in lanes(here):
        grouping.cut_lane(here.works, lane_id)
    deadlines.expire_overdue(here.house.engine)


def sweeps(spool_root: Path) -> tuple[float, float]:
    """A sweep over empty tables, and over the same with a million finished jobs.

    In turns, after the million has come to rest: what else the machine does strikes both alike.
    """
    with world(spool_root) as empty, world(spool_root) as full:
        for here in (empty, full):
            here.accept(WAITING_JOBS)
        with transaction(full.house.engine) as session:
            session.execute(text("SET LOCAL statement_timeout = 0"))
            session.execute(
                text(
                    """
                    INSERT INTO jobs (id, account_id, key_id, lane_id, status, endpoint, model,
                                      body_bytes, standard_nanos, price_id, markup_bps,
                                      deadline_at, completed_at)
                    SELECT gen_random_uuid(), account_id, account_id, 1, 'completed', 'e', 'm', 1,
                           2, 'p', 0, now() + interval '1 day', now()
                    FROM generate_series(1, :rows), (SELECT account_id FROM balances) AS owner
                    """
                ),
                {"rows": FINISHED_ROWS},
            )
        for here in (empty, full):
            with here.house.engine.connect() as connection:
                plain = connection.execution_options(isolation_level="AUTOCOMMIT")
                plain.execute(text("SET statement_timeout = 0"))
                plain.execute(text("VACUUM (ANALYZE)"))
                plain.execute(text("CHECKPOINT"))
                plain.execute(text("RESET statement_timeout"))
            # What is ripe by then is cut, so that all sweeps find the same.
            sweep(here)
        seconds = [
            (timed(partial(sweep, empty)), timed(partial(sweep, full))) for _ in range(SWEEPS)
        ]
        return median(each for each, _ in seconds), median(each for _, each in seconds)


def _in_child(pipe: Connection, work: Callable[..., object], *args: object) -> None:
    with tempfile.TemporaryDirectory(prefix="offpeak-bench-") as folder:
        pipe.send(work(*args, Path(folder)))


def alone(work: Callable[..., Any], *args: object) -> Any:
    """`work(*args, folder)` in a process of its own; its result."""
    mine, theirs = multiprocessing.Pipe()
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=_in_child, args=(theirs, work, *args))
    process.start()
    theirs.close()
    try:
        return mine.recv()
    finally:
        process.join()


def main() -> None:
    """Prints the figures, each with its aim."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lines", type=int, default=100_000)
    lines = parser.parse_args().lines

    ours, bare = alone(front_door.accepting)
    print(f"calls accepted      {ours.a_second:10,.0f} calls/s")
    ratio = ours.cpu_micros / bare.cpu_micros
    print(f"  CPU of one        {ours.cpu_micros:10,.0f} µs")
    print(
        f"  against its floor {ratio:10.1f} x         "
        f"(a bare view with one INSERT: {bare.a_second:,.0f} calls/s; aim: 2.5 or less)"
    )
    small: Figures = alone(journey, SMALL)
    large: Figures = alone(journey, lines)
    per_second = lines / large.cut_and_upload_seconds
    print(f"cut and upload      {per_second:10,.0f} lines/s   (aim: 15,000 or more)")
    per_second = lines / large.ingest_seconds
    ratio = large.ingest_seconds / large.floor_seconds
    print(f"ingest and settle   {per_second:10,.0f} lines/s   (aim: 5,000 or more)")
    print(f"  against its floor {ratio:10.1f} x         (aim: 8 or less)")
    print(f"  CPU of one line   {large.ingest_cpu_seconds / lines * 1e6:10.0f} µs")
    apart = large.peak_megabytes - small.peak_megabytes
    print(f"memory, {SMALL:,} to {lines:,} lines: {apart:+.0f} MB   (aim: less than 60)")
    idle, busy = alone(front_door.disturbed, lines)
    print(
        f"intake p99 while {lines:,} lines are ingested: {busy / idle:.1f} x "
        f"({idle * 1000:.0f} ms idle; aim: 2 or less)"
    )
    empty, full = alone(sweeps)
    print(
        f"sweep, with {FINISHED_ROWS:,} finished jobs: {full / empty:.2f} x "
        f"({empty * 1000:.1f} ms empty; aim: 1.3 or less)"
    )


if __name__ == "__main__":
    main()
