"""Files and batches, kept on disk so that a restart goes on where it was.

<state>        JSON: files, batches, meter; replaced atomically
<state>.d/     served.jsonl, files/<id>, batches/<id>.<input|output|error>
"""

import secrets
import shutil
import tempfile
import time
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

import orjson

from local.simulator.meter import CLASSES, Meter, Tokens

BATCH_FILE_LIFE_SECONDS: Final = 30 * 86_400


class Status(StrEnum):
    """OpenAI's batch statuses; Anthropic's three are read off them."""

    VALIDATING = "validating"
    IN_PROGRESS = "in_progress"
    FINALIZING = "finalizing"
    CANCELLING = "cancelling"
    COMPLETED = "completed"
    FAILED = "failed"
    EXPIRED = "expired"
    CANCELLED = "cancelled"


TERMINAL: Final = frozenset({Status.COMPLETED, Status.FAILED, Status.EXPIRED, Status.CANCELLED})


@dataclass
class StoredFile:
    """A file as the caller sees it. Times are unix seconds."""

    id: str
    key: str
    filename: str
    purpose: str
    size_bytes: int
    created_at: float
    expires_at: int | None


@dataclass
class Batch:
    """One batch of either provider. `times` holds when each status was reached, in unix seconds."""

    id: str
    key: str
    provider: str
    endpoint: str
    created_at: float
    status: Status = Status.VALIDATING
    times: dict[str, float] = field(default_factory=dict)
    input_file_id: str = ""
    version: str = ""
    metadata: dict[str, str] | None = None
    output_life_seconds: int | None = None
    # Known once the input was looked through.
    validated: bool = False
    model: str | None = None
    total: int = 0
    enqueued_tokens: int = 0
    custom_ids: int = 0
    custom_ids_sha256: str | None = None
    errors: list[dict[str, Any]] = field(default_factory=list)
    # How far the work is; the byte counts are what a restart trusts of the files.
    next_line: int = 0
    completed: int = 0
    failed: int = 0
    unfinished: int = 0
    output_bytes: int = 0
    error_bytes: int = 0
    tokens: dict[str, int] = field(default_factory=lambda: dict.fromkeys(CLASSES, 0))
    output_file_id: str | None = None
    error_file_id: str | None = None
    # Faults that were drawn for this batch.
    stuck: bool = False
    shuffled: bool = False
    error_only: bool = False
    empty_error_id: bool = False
    cancel_loses: bool = False

    @property
    def ended(self) -> bool:
        return self.status in TERMINAL

    @property
    def ended_at(self) -> float | None:
        return self.times[self.status] if self.ended else None

    def move(self, status: Status) -> None:
        """Take on a status, now."""
        self.status = status
        # orjson takes a subclass of str for a value, not for a key.
        self.times[status.value] = time.time()

    def add_tokens(self, tokens: Tokens) -> None:
        for name in CLASSES:
            self.tokens[name] += getattr(tokens, name)


def new_id(prefix: str) -> str:
    return prefix + secrets.token_hex(12)


class Store:
    """All that this provider remembers. Without a state file it forgets at `close`."""

    def __init__(self, state: Path | None = None) -> None:
        self._state = state
        self._temporary = None if state else tempfile.TemporaryDirectory(prefix="simulator-")
        self._directory = Path(self._temporary.name) if self._temporary else Path(f"{state}.d")
        for folder in ("files", "batches"):
            (self._directory / folder).mkdir(parents=True, exist_ok=True)
        for leftover in self._directory.glob("upload-*"):
            leftover.unlink()
        self._saved = state.read_bytes() if state and state.exists() else b""
        snapshot = orjson.loads(self._saved) if self._saved else {}
        self.files = {item["id"]: StoredFile(**item) for item in snapshot.get("files", [])}
        self.batches = {
            item["id"]: Batch(**item | {"status": Status(item["status"])})
            for item in snapshot.get("batches", [])
        }
        self.meter = Meter(self._directory / "served.jsonl", snapshot.get("meter"))

    def save(self) -> None:
        """Write the snapshot if anything changed since the last one."""
        if self._state is None:
            return
        snapshot = orjson.dumps(
            {
                "files": list(self.files.values()),
                "batches": list(self.batches.values()),
                "meter": self.meter.snapshot(),
            }
        )
        if snapshot == self._saved:
            return
        fresh = Path(f"{self._state}.new")
        fresh.touch(mode=0o600)
        fresh.write_bytes(snapshot)
        fresh.replace(self._state)
        self._saved = snapshot

    def close(self) -> None:
        self.save()
        self.meter.close()
        if self._temporary:
            self._temporary.cleanup()

    def reset(self) -> None:
        """Forget everything."""
        self.files.clear()
        self.batches.clear()
        self.meter.reset()
        for folder in ("files", "batches"):
            shutil.rmtree(self._directory / folder)
            (self._directory / folder).mkdir()

    def scratch_path(self) -> Path:
        """Where an upload can grow before it becomes a file."""
        return self._directory / new_id("upload-")

    def file_path(self, file_id: str) -> Path:
        return self._directory / "files" / file_id

    def batch_path(self, batch_id: str, part: str) -> Path:
        """`part` is input, output or error."""
        return self._directory / "batches" / f"{batch_id}.{part}"

    def add_file(
        self, key: str, filename: str, purpose: str, source: Path, life_seconds: int | None
    ) -> StoredFile:
        """Take over the bytes at `source` as a file of that key."""
        now = time.time()
        stored = StoredFile(
            id=new_id("file-"),
            key=key,
            filename=filename,
            purpose=purpose,
            size_bytes=source.stat().st_size,
            created_at=now,
            expires_at=None if life_seconds is None else int(now) + life_seconds,
        )
        source.replace(self.file_path(stored.id))
        self.files[stored.id] = stored
        return stored

    def file(self, key: str, file_id: str) -> StoredFile | None:
        """The file, if it is that key's and has not expired."""
        stored = self.files.get(file_id)
        if stored is None or stored.key != key:
            return None
        gone = stored.expires_at is not None and stored.expires_at <= time.time()
        return None if gone else stored

    def delete_file(self, stored: StoredFile) -> None:
        del self.files[stored.id]
        self.file_path(stored.id).unlink()

    def batch(self, key: str, provider: str, batch_id: str) -> Batch | None:
        """The batch, if it is that key's."""
        batch = self.batches.get(batch_id)
        mine = batch is not None and (batch.key, batch.provider) == (key, provider)
        return batch if mine else None

    def batches_of(self, key: str, provider: str) -> list[Batch]:
        """That key's batches, newest first."""
        mine = (key, provider)
        found = [batch for batch in self.batches.values() if (batch.key, batch.provider) == mine]
        return found[::-1]

    def delete_batch(self, batch: Batch) -> None:
        del self.batches[batch.id]
        self.batch_path(batch.id, "output").unlink()
