"""Batches of the provider in memory: their lines, what each comes to, and the result files."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

import orjson

from gateway.catalogue.usage import Usage
from gateway.providers.dialect import (
    BatchReport,
    BatchState,
    BatchTotals,
    Broken,
    LineFault,
    LineOutcome,
    LineResult,
)

Json = dict[str, Any]
USAGE = Usage(input_uncached=100, output=50)
UNDER_WAY = frozenset({BatchState.VALIDATING, BatchState.RUNNING, BatchState.CANCELLING})


@dataclass(frozen=True, slots=True)
class FakeLine:
    """One request of a batch as it was uploaded."""

    custom_id: str
    model: str
    body: Json


Answering = Callable[[FakeLine], Json | None]
"""What a line comes to, as the wire says it; None if the provider leaves it out."""


def succeeded(line: FakeLine, usage: Usage | None = USAGE) -> Json | None:
    """An answer that repeats the question."""
    content = line.body["messages"][0]["content"]
    message = {"role": "assistant", "content": f"echo: {content}"}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return {
        "outcome": LineOutcome.SUCCEEDED,
        "body": {"id": "fake-1", "model": f"{line.model}-2026", "choices": [choice]},
        "usage": None if usage is None else asdict(usage),
    }


def using(usage: Usage | None) -> Answering:
    """Answers with this usage."""
    return lambda line: succeeded(line, usage)


def ending(outcome: LineOutcome, error: str = "the provider says no") -> Answering:
    """Answers that did not succeed."""
    return lambda _line: {"outcome": outcome, "error": error}


@dataclass
class FakeBatch:
    """A batch as the provider has it."""

    external_id: str
    ref: str | None
    created_at: datetime
    lines: list[FakeLine]
    input_file_id: str | None
    state: BatchState = BatchState.RUNNING
    files: dict[str, bytes] = field(default_factory=dict)
    faults: tuple[LineFault, ...] = ()
    over_enqueued_tokens: bool = False
    retention_over: bool = False
    is_listed: bool = True
    is_known: bool = True
    was_cancelled: bool = False
    answered_count: int | None = None
    totals: BatchTotals | None = None

    @property
    def report(self) -> BatchReport:
        return BatchReport(
            external_id=self.external_id,
            state=self.state,
            status=f"fake_{self.state}",
            created_at=self.created_at,
            request_count=len(self.lines),
            batch_ref=self.ref,
            input_file_id=self.input_file_id,
            result_files=tuple(self.files),
            faults=self.faults,
            over_enqueued_tokens=self.over_enqueued_tokens,
            retention_over=self.retention_over,
            answered_count=self.answered_count,
            totals=self.totals,
        )

    def end(self, answering: Answering = succeeded, *also: bytes) -> None:
        """Ends it with an answer for each line, in the files that real providers make of them.

        `also` are further lines of the output file, as they are.
        """
        output, errors = list[bytes](), list[bytes]()
        for line in self.lines:
            answer = answering(line)
            if answer is not None:
                file = output if answer["outcome"] == LineOutcome.SUCCEEDED else errors
                file.append(result_line(line.custom_id, answer))
        self.end_with([*output, *also], errors)

    def count(self, answered: int, usage: Usage = USAGE) -> None:
        """Tells, from now on, that so many lines were answered with that usage each."""
        self.answered_count = answered
        self.totals = BatchTotals(
            answered * (usage.input_total - usage.cache_read),
            answered * usage.cache_read,
            answered * usage.output,
        )

    def end_with(self, *files: Sequence[bytes]) -> None:
        """Ends it with these lines in its result files."""
        self.state = BatchState.ENDED
        self.files = {
            f"{self.external_id}-{number}": b"".join(line + b"\n" for line in lines)
            for number, lines in enumerate(files)
            if lines
        }

    def refuse(self, *faults: LineFault, over_enqueued_tokens: bool = False) -> None:
        """Fails it as a whole."""
        self.state = BatchState.FAILED
        self.faults = faults
        self.over_enqueued_tokens = over_enqueued_tokens


def result_line(custom_id: str, answer: Json) -> bytes:
    """One line of a result file."""
    return json.dumps({"custom_id": custom_id, **answer}).encode()


def parse_result(line: bytes) -> LineResult:
    """What `result_line` wrote; Broken if it cannot be read."""
    try:
        fields = orjson.loads(line)
        usage = fields.get("usage")
        return LineResult(
            custom_id=fields["custom_id"],
            outcome=LineOutcome(fields["outcome"]),
            body=fields.get("body"),
            usage=None if usage is None else Usage(**usage),
            error=fields.get("error"),
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        raise Broken("a line that nobody can read") from None
