"""The life of a batch, whichever provider's: one greenlet for each, which a restart starts again.

validating ──> in_progress ──> finalizing ──> completed
    │               ├───────────────────────> expired
    └──> failed     └──> cancelling ────────> cancelled
"""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any, Final

import gevent

from local.simulator import faults
from local.simulator.batch_lines import Dialect, Inspection, Lines, Results
from local.simulator.knobs import Knobs
from local.simulator.store import Batch, Status, Store

TICK_SECONDS: Final = 0.02
LINES_AT_A_TIME: Final = 50
HALF_A_PAIR: Final = b"\\ud800"


class Engine:
    """Runs batches, reading the knobs as it goes: they can be turned under a running batch."""

    def __init__(self, store: Store, knobs: Knobs, dialects: dict[str, Dialect]) -> None:
        self._store = store
        self._knobs = knobs
        self._dialects = dialects
        self._greenlets: dict[str, gevent.Greenlet[..., None]] = {}
        self._garbage = 0
        self._steps: dict[Status, Callable[[Batch], None]] = {
            Status.VALIDATING: self._validate,
            Status.IN_PROGRESS: self._work,
            Status.CANCELLING: self._cancel,
            Status.FINALIZING: self._finalize,
        }

    def resume(self) -> None:
        """Go on with what an earlier process left."""
        for batch in self._store.batches.values():
            if not batch.ended:
                self._spawn(batch)

    def stop(self) -> None:
        """Stop all work where it is."""
        gevent.killall(list(self._greenlets.values()))
        self._greenlets.clear()

    def start(self, batch: Batch, source: Path) -> None:
        """Take in a new batch, whose input is linked or moved to `source` beforehand."""
        knobs = self._knobs
        source.replace(self._store.batch_path(batch.id, "input"))
        batch.stuck = knobs.strikes("stuck_validating")
        batch.shuffled = knobs.strikes("shuffle")
        batch.error_only = knobs.strikes("error_only")
        batch.empty_error_id = knobs.strikes("empty_string_error_file_id")
        self._store.batches[batch.id] = batch
        self._store.save()
        self._spawn(batch)
        # What needs no time has begun when the creation is answered, so that tests see no race.
        gevent.sleep(0)

    def cancel(self, batch: Batch) -> None:
        """Ask for an end; what is done by then stays done."""
        if batch.status is Status.CANCELLING:
            return
        batch.cancel_loses = batch.validated and self._knobs.strikes("cancel_race")
        batch.move(Status.CANCELLING)

    def _spawn(self, batch: Batch) -> None:
        greenlet = gevent.spawn(self._live, batch)
        self._greenlets[batch.id] = greenlet
        greenlet.link(lambda _ended: self._greenlets.pop(batch.id, None))

    def _live(self, batch: Batch) -> None:
        while not batch.ended:
            self._steps[batch.status](batch)

    def _wait(self, batch: Batch, until: float) -> None:
        """Sleep until that time, or until the batch's status is changed by somebody else."""
        status = batch.status
        while batch.status is status and (left := until - time.time()) > 0:
            gevent.sleep(min(left, TICK_SECONDS))

    def _validate(self, batch: Batch) -> None:
        while self._is_stuck(batch):
            self._wait(batch, time.time() + TICK_SECONDS)
        self._wait(batch, batch.created_at + self._knobs.settings.batch_validating_seconds)
        if batch.status is not Status.VALIDATING:
            return
        inspection = self._inspect(batch)
        if batch.status is not Status.VALIDATING:
            return
        batch.model = inspection.model
        batch.custom_ids = inspection.custom_ids
        batch.custom_ids_sha256 = inspection.custom_ids_sha256
        batch.enqueued_tokens = inspection.enqueued_tokens
        batch.errors = inspection.errors
        if self._dialects[batch.provider].fails_as_a_whole and not batch.errors:
            batch.errors = self._induced_errors() or self._quota_errors(batch)
        if batch.errors:
            batch.move(Status.FAILED)
            return
        batch.total = len(inspection.offsets) - 1
        batch.validated = True
        batch.move(Status.IN_PROGRESS)

    def _is_stuck(self, batch: Batch) -> bool:
        waiting = batch.stuck and batch.status is Status.VALIDATING
        return waiting and self._knobs.is_set("stuck_validating")

    def _inspect(self, batch: Batch) -> Inspection:
        path = self._store.batch_path(batch.id, "input")
        return self._dialects[batch.provider].inspect(batch, path)

    def _induced_errors(self) -> list[dict[str, Any]]:
        if not self._knobs.strikes("validation_failure"):
            return []
        code = self._knobs.settings.validation_code
        return [
            {"code": code, "message": f"Line {line} is not valid.", "param": None, "line": line}
            for line in self._knobs.lines("validation_failure")
        ]

    def _quota_errors(self, batch: Batch) -> list[dict[str, Any]]:
        limits = self._knobs.settings.token_limit or {}
        limit = limits.get(batch.model or "", limits.get("*"))
        if limit is None or self._enqueued(batch) + batch.enqueued_tokens <= limit:
            return []
        message = (
            f"Enqueued token limit reached for {batch.model} in organization org-simulated. Limit: "
            f"{limit:,} enqueued tokens. Please try again once some in_progress batches have been "
            "completed."
        )
        return [{"code": "token_limit_exceeded", "message": message, "param": None, "line": None}]

    def _enqueued(self, batch: Batch) -> int:
        """Prompt tokens that the key's other batches of that model hold."""
        released = time.time() - self._knobs.settings.quota_release_seconds
        return sum(
            other.enqueued_tokens
            for other in self._store.batches_of(batch.key, batch.provider)
            if other.model == batch.model
            and other.validated
            and (other.ended_at is None or other.ended_at > released)
        )

    def _work(self, batch: Batch) -> None:
        fraction = self._knobs.settings.expire_after_fraction
        stop = batch.total if fraction is None else int(batch.total * min(1.0, fraction))
        self._run_lines(batch, stop, self._allowed)
        if batch.status is not Status.IN_PROGRESS:
            return
        if fraction is not None and batch.next_line < batch.total:
            self._leave_rest(batch, Status.EXPIRED)
            self._end(batch, Status.EXPIRED)
        else:
            batch.move(Status.FINALIZING)

    def _allowed(self, batch: Batch) -> int:
        """How many lines may be done by now, so that the work is spread over its time."""
        settings = self._knobs.settings
        whole = max(settings.batch_seconds, batch.total * settings.batch_line_ms / 1000)
        spent = time.time() - batch.times[Status.IN_PROGRESS]
        return batch.total if spent >= whole else int(batch.total * spent / whole)

    def _run_lines(self, batch: Batch, stop: int, allowed: Callable[[Batch], int]) -> None:
        """Answer lines up to `stop`, as fast as `allowed`, until the status is changed."""
        status = batch.status
        dialect = self._dialects[batch.provider]
        with self._input(batch) as lines, self._results(batch) as results:
            while batch.status is status and batch.next_line < stop:
                until = min(stop, allowed(batch), batch.next_line + LINES_AT_A_TIME)
                if until <= batch.next_line:
                    gevent.sleep(TICK_SECONDS)
                    continue
                while batch.next_line < until:
                    self._run_line(batch, dialect, lines.read(batch.next_line), results)
                    batch.next_line += 1
                results.flush()
                gevent.sleep(0)

    def _run_line(self, batch: Batch, dialect: Dialect, raw: bytes, results: Results) -> None:
        knobs = self._knobs
        if batch.error_only or knobs.strikes("line_error"):
            result = dialect.refuse(batch, raw, knobs.settings.line_error_status)
        else:
            result = dialect.answer(batch, raw, faults.misreport(knobs))
        succeeded = result.served is not None
        batch.completed += succeeded
        batch.failed += not succeeded
        if knobs.strikes("missing_lines"):
            return
        record = (
            self._with_garbage(result.record) if knobs.strikes("garbage_lines") else result.record
        )
        is_doubled = knobs.strikes("duplicate_lines")
        if result.served is not None:
            # Nobody can read what a line with half a surrogate pair says of its usage.
            is_hidden = HALF_A_PAIR in record and not is_doubled
            served = replace(result.served, unreported=True) if is_hidden else result.served
            self._store.meter.record(served)
            batch.add_tokens(served.tokens)
        results.write(record, succeeded=succeeded)
        if is_doubled:
            results.write(result.record, succeeded=succeeded)
        if knobs.strikes("unknown_lines"):
            results.write(dialect.stranger(), succeeded=True)

    def _with_garbage(self, record: bytes) -> bytes:
        """The line spoilt, or something spoilt in front of it; each time in another way."""
        self._garbage += 1
        spoilt = (
            record[: len(record) // 2] + b"\n" + record,
            b"\n" + record,
            b"\xef\xbb\xbf" + record,
            record.replace(b"echo:", HALF_A_PAIR + b"echo:"),
            record.replace(b"echo:", b"\\u0000echo:"),
        )
        return spoilt[(self._garbage - 1) % len(spoilt)]

    def _leave_rest(self, batch: Batch, why: Status) -> None:
        """Write the lines that will not be answered."""
        dialect = self._dialects[batch.provider]
        with self._input(batch) as lines, self._results(batch) as results:
            while batch.next_line < batch.total:
                record = dialect.unfinished(lines.read(batch.next_line), why)
                results.write(record, succeeded=False)
                batch.next_line += 1
                batch.unfinished += 1
                if batch.unfinished % LINES_AT_A_TIME == 0:
                    results.flush()
                    gevent.sleep(0)

    def _cancel(self, batch: Batch) -> None:
        asked_at = batch.times[Status.CANCELLING]
        self._wait(batch, asked_at + self._knobs.settings.batch_cancelling_seconds)
        if batch.cancel_loses:
            self._run_lines(batch, batch.total, lambda running: running.total)
            self._end(batch, Status.COMPLETED)
        else:
            self._leave_rest(batch, Status.CANCELLED)
            self._end(batch, Status.CANCELLED)

    def _finalize(self, batch: Batch) -> None:
        began_at = batch.times[Status.FINALIZING]
        self._wait(batch, began_at + self._knobs.settings.batch_finalizing_seconds)
        if batch.status is Status.FINALIZING:
            self._end(batch, Status.COMPLETED)

    def _end(self, batch: Batch, status: Status) -> None:
        self._dialects[batch.provider].publish(batch)
        batch.move(status)
        # Until this is known to have ended, a restart needs the input.
        self._store.save()
        self._store.batch_path(batch.id, "input").unlink()

    def _results(self, batch: Batch) -> Results:
        separates = self._dialects[batch.provider].separates_errors
        return Results(self._store, batch, separates_errors=separates)

    def _input(self, batch: Batch) -> Lines:
        path = self._store.batch_path(batch.id, "input")
        return Lines(path, Random(batch.id) if batch.shuffled else None)
