"""A provider in memory that fails on command: the whole of `Dialect`, without a network.

What a test wants to happen is scripted by operation (`upload`, `create`, `get_batch`, …), before
the operation takes effect or after it. Batches run until a test ends them.
"""

import json
import threading
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import orjson

from gateway.providers.dialect import (
    Answer,
    BatchLimits,
    BatchReport,
    BatchState,
    Credential,
    Dialect,
    Endpoint,
    Framing,
    LineResult,
    Rejected,
    StreamPiece,
)
from tests.integration.fake_batches import (
    UNDER_WAY,
    USAGE,
    FakeBatch,
    FakeLine,
    Json,
    parse_result,
    succeeded,
)

T = TypeVar("T")


class Killed(BaseException):
    """The process is gone; nothing in it gets to handle that."""


@dataclass(frozen=True, slots=True)
class Step:
    """What happens to one call, before it takes effect or after it."""

    strike: Callable[[], None]
    after: bool


def failing(error: BaseException, *, after: bool) -> Step:
    """The call raises this."""

    def strike() -> None:
        raise error

    return Step(strike, after)


class FakeDialect(Dialect):
    """Any number of threads may use it.

    `calls` counts by operation; `whim` decides what happens to calls that nothing is scripted for.
    """

    framing = Framing(opening=b"", separator=b"\n", closing=b"\n")

    def __init__(
        self,
        name: str = "fake",
        *,
        keeps_metadata: bool = True,
        limits: BatchLimits | None = None,
    ) -> None:
        self.name = name
        self.keeps_metadata = keeps_metadata
        self.limits = limits or BatchLimits(requests=50_000, bytes=100_000_000)
        self.files: dict[str, tuple[str, bytes]] = {}
        self.made: dict[str, FakeBatch] = {}
        self.calls: Counter[str] = Counter()
        self.whim: Callable[[str], Step | None] = lambda _operation: None
        self.scripts: dict[str, deque[Step]] = defaultdict(deque)
        self._lock = threading.RLock()

    # What tests do.

    def fail(self, operation: str, *errors: BaseException, after: bool = False) -> None:
        """The next calls of the operation raise these; with `after` once they have taken effect."""
        for error in errors:
            self.scripts[operation].append(failing(error, after=after))

    def happens(self, operation: str, what: Callable[[], None], *, after: bool = False) -> None:
        """Something else goes on while the next call of the operation is under way."""
        self.scripts[operation].append(Step(what, after))

    @property
    def only(self) -> FakeBatch:
        """The one batch there is."""
        (batch,) = self.made.values()
        return batch

    @property
    def running(self) -> list[FakeBatch]:
        """Batches that have not ended, oldest first."""
        return [batch for batch in self.made.values() if batch.state in UNDER_WAY]

    def doubled(self) -> set[str]:
        """The `custom_id`s that more than one batch was left to run, or ran, with."""
        counts = Counter(
            line.custom_id
            for batch in self.made.values()
            if batch.state is not BatchState.FAILED and not batch.was_cancelled
            for line in batch.lines
        )
        return {custom_id for custom_id, count in counts.items() if count > 1}

    # The dialect.

    def unsupported(self, endpoint: Endpoint, body: Json) -> str | None:  # noqa: ARG002 (the interface's)
        return "service_tier" if "service_tier" in body else None

    def call(
        self,
        credential: Credential,  # noqa: ARG002 (the interface's; every key is right here)
        endpoint: Endpoint,  # noqa: ARG002 (the interface's; all endpoints are one here)
        model: str,
        body: Json,
        timeout_seconds: float,  # noqa: ARG002 (the interface's; nothing takes long here)
    ) -> Answer:
        def act() -> Answer:
            answer = succeeded(FakeLine("", model, body))
            assert answer is not None
            return Answer(answer["body"], USAGE)

        return self._play("call", act)

    def batches(self, endpoint: Endpoint) -> bool:
        return endpoint in (Endpoint.CHAT_COMPLETIONS, Endpoint.EMBEDDINGS)

    def stream(
        self,
        credential: Credential,
        model: str,
        body: Json,
        timeout_seconds: float,
    ) -> AbstractContextManager[Iterator[StreamPiece]]:
        answer = self.call(credential, Endpoint.CHAT_COMPLETIONS, model, body, timeout_seconds)
        delta = answer.body["choices"][0]["message"]
        chunk = {"object": "chat.completion.chunk", "choices": [{"index": 0, "delta": delta}]}
        pieces = [
            StreamPiece(orjson.dumps(chunk)),
            StreamPiece(orjson.dumps({**chunk, "choices": []}), USAGE, usage_only=True),
        ]
        return nullcontext(iter(pieces))

    def encode_line(self, custom_id: str, endpoint: Endpoint, model: str, body: Json) -> bytes:
        line = {"custom_id": custom_id, "endpoint": endpoint, "model": model, "body": body}
        return json.dumps(line).encode()

    def upload(self, credential: Credential, spool: Path, file_name: str) -> str | None:  # noqa: ARG002 (the interface's; every key is right here)
        def act() -> str | None:
            if not self.keeps_metadata:
                return None
            file_id = f"file-{len(self.files) + 1}"
            self.files[file_id] = (file_name, spool.read_bytes())
            return file_id

        return self._play("upload", act)

    def find_upload(self, credential: Credential, file_name: str) -> str | None:  # noqa: ARG002 (the interface's; every key is right here)
        def act() -> str | None:
            found = [id_ for id_, (name, _) in self.files.items() if name == file_name]
            return found[-1] if found else None

        return self._play("find_upload", act)

    def create(
        self,
        credential: Credential,  # noqa: ARG002 (the interface's; every key is right here)
        endpoint: Endpoint,  # noqa: ARG002 (the interface's; all endpoints are one here)
        batch_ref: str,
        file_id: str | None,
        spool: Path,
    ) -> BatchReport:
        def act() -> BatchReport:
            data = spool.read_bytes() if file_id is None else self.files[file_id][1]
            return self.add(
                batch_ref if self.keeps_metadata else None, data, input_file_id=file_id
            ).report

        return self._play("create", act)

    def add(self, ref: str | None, data: bytes, *, input_file_id: str | None = None) -> FakeBatch:
        """A batch that appears at the provider."""
        lines = [json.loads(line) for line in data.splitlines()]
        batch = FakeBatch(
            external_id=f"ext-{len(self.made) + 1:04}",
            ref=ref,
            created_at=datetime.now(UTC),
            lines=[FakeLine(line["custom_id"], line["model"], line["body"]) for line in lines],
            input_file_id=input_file_id,
        )
        self.made[batch.external_id] = batch
        return batch

    def get_batch(self, credential: Credential, external_id: str) -> BatchReport | None:  # noqa: ARG002 (the interface's; every key is right here)
        def act() -> BatchReport | None:
            batch = self.made.get(external_id)
            return batch.report if batch is not None and batch.is_known else None

        return self._play("get_batch", act)

    def list_batches(self, credential: Credential, since: datetime) -> Iterator[BatchReport]:  # noqa: ARG002 (the interface's; every key is right here)
        def act() -> list[BatchReport]:
            return [
                batch.report
                for batch in reversed(self.made.values())
                if batch.is_listed and batch.created_at >= since
            ]

        return iter(self._play("list_batches", act))

    def cancel_batch(self, credential: Credential, external_id: str) -> None:  # noqa: ARG002 (the interface's; every key is right here)
        def act() -> None:
            batch = self.made[external_id]
            if batch.state in UNDER_WAY:
                batch.state = BatchState.CANCELLING
                batch.was_cancelled = True

        self._play("cancel_batch", act)

    def download(self, credential: Credential, file: str, destination: Path) -> None:  # noqa: ARG002 (the interface's; every key is right here)
        def act() -> None:
            for batch in self.made.values():
                if file in batch.files:
                    destination.write_bytes(batch.files[file])
                    return
            raise Rejected("no such file", status=404)

        self._play("download", act)

    def delete_file(self, credential: Credential, file_id: str) -> None:  # noqa: ARG002 (the interface's; every key is right here)
        def act() -> None:
            self.files.pop(file_id, None)

        self._play("delete_file", act)

    def parse_line(self, line: bytes) -> LineResult:
        return self._play("parse_line", lambda: parse_result(line))

    def _play(self, operation: str, act: Callable[[], T]) -> T:
        with self._lock:
            self.calls[operation] += 1
            steps = self.scripts[operation]
            step = steps.popleft() if steps else self.whim(operation)
        if step is not None and not step.after:
            step.strike()
        with self._lock:
            result = act()
        if step is not None and step.after:
            step.strike()
        return result
