"""The lines of a batch: how a provider's dialect treats them, and the files they lie in."""

import random
from array import array
from dataclasses import dataclass, field
from io import BufferedRandom
from pathlib import Path
from typing import Any, Protocol

from local.simulator.meter import Served
from local.simulator.store import Batch, Status, Store


@dataclass
class Inspection:
    """What a look through the input found. `offsets` is where each line starts, and the end."""

    offsets: "array[int]"
    custom_ids: int = 0
    custom_ids_sha256: str | None = None
    model: str | None = None
    enqueued_tokens: int = 0
    errors: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class LineResult:
    """One line of a result file; `served` is None where the request was refused."""

    record: bytes
    served: Served | None


class Dialect(Protocol):
    """How one provider reads and writes a batch's lines."""

    # Whether refused and unfinished lines have a file of their own.
    separates_errors: bool
    # Whether a bad input or a full quota fails all of the batch.
    fails_as_a_whole: bool

    def inspect(self, batch: Batch, path: Path) -> Inspection: ...

    def answer(self, batch: Batch, raw: bytes, misreport: str | None) -> LineResult: ...

    def refuse(self, batch: Batch, raw: bytes, status: int) -> LineResult: ...

    def unfinished(self, raw: bytes, why: Status) -> bytes: ...

    def stranger(self) -> bytes: ...

    def publish(self, batch: Batch) -> None: ...


class Results:
    """The result files of one batch, cut to what the batch knows it has written."""

    def __init__(self, store: Store, batch: Batch, *, separates_errors: bool) -> None:
        self._batch = batch
        self._output = _opened(store.batch_path(batch.id, "output"), batch.output_bytes)
        self._error = self._output
        if separates_errors:
            self._error = _opened(store.batch_path(batch.id, "error"), batch.error_bytes)

    def __enter__(self) -> "Results":
        return self

    def __exit__(self, *_exc: object) -> None:
        self.flush()
        self._output.close()
        self._error.close()

    def write(self, record: bytes, *, succeeded: bool) -> None:
        (self._output if succeeded else self._error).write(record + b"\n")

    def flush(self) -> None:
        """Make what was written count."""
        self._output.flush()
        self._batch.output_bytes = self._output.tell()
        if self._error is not self._output:
            self._error.flush()
            self._batch.error_bytes = self._error.tell()


def _opened(path: Path, size_bytes: int) -> BufferedRandom:
    path.touch()
    opened = path.open("r+b")
    opened.truncate(size_bytes)
    opened.seek(size_bytes)
    return opened


class Lines:
    """A batch's input by line number, in the order in which the lines are worked on."""

    def __init__(self, path: Path, shuffler: random.Random | None) -> None:
        self._offsets = offsets_of(path)
        self._order = list(range(len(self._offsets) - 1))
        if shuffler:
            shuffler.shuffle(self._order)
        self._file = path.open("rb")

    def __enter__(self) -> "Lines":
        return self

    def __exit__(self, *_exc: object) -> None:
        self._file.close()

    def read(self, position: int) -> bytes:
        line = self._order[position]
        self._file.seek(self._offsets[line])
        return self._file.read(self._offsets[line + 1] - self._offsets[line])


def offsets_of(path: Path) -> "array[int]":
    """Where each line of a file starts, and where the last one ends."""
    offsets = array("q", [0])
    with path.open("rb") as lines:
        for line in lines:
            offsets.append(offsets[-1] + len(line))
    return offsets
