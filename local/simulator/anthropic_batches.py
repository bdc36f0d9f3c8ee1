"""Anthropic's message batches: the inline requests, the lines, the object the caller sees."""

import codecs
import hashlib
import json
import re
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import orjson

from local.simulator import anthropic_answers, faults, models
from local.simulator.batch_lines import Inspection, LineResult, offsets_of
from local.simulator.errors import ApiError, invalid
from local.simulator.knobs import Knobs
from local.simulator.meter import BATCH, Served, Tokens
from local.simulator.store import Batch, Status, new_id

MAX_REQUESTS: Final = 100_000
MAX_BODY_BYTES: Final = 256 * 1024 * 1024
WINDOW_SECONDS: Final = 86_400
_CHUNK_BYTES: Final = 1024 * 1024
_LONGEST_OPENING: Final = 4096
_OPENING: Final = re.compile(r'\s*\{\s*"requests"\s*:\s*\[')
_CLOSING: Final = re.compile(r"\s*\}\s*$")
_BLANK: Final = re.compile(r"\s*")
_CUSTOM_ID: Final = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_UNFINISHED: Final = {Status.EXPIRED: "expired", Status.CANCELLED: "canceled"}


class _Text:
    """A window on a body that is read as it is needed."""

    def __init__(self, read: Callable[[int], bytes]) -> None:
        self._read = read
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._seen_bytes = 0
        self.text = ""
        self.position = 0

    def more(self) -> bool:
        """Read on, twice as much if a lot is waiting already. Raises ApiError over the limit."""
        raw = self._read(max(_CHUNK_BYTES, len(self.text) - self.position))
        self._seen_bytes += len(raw)
        if self._seen_bytes > MAX_BODY_BYTES:
            raise ApiError(413, "Request exceeds the maximum size")
        try:
            fresh = self._decoder.decode(raw, final=not raw)
        except UnicodeDecodeError as error:
            raise _malformed() from error
        self.text = self.text[self.position :] + fresh
        self.position = 0
        return bool(raw)

    def peek(self) -> str:
        """The next character that is not blank; empty at the end."""
        while True:
            blank = _BLANK.match(self.text, self.position)
            self.position = blank.end() if blank else self.position
            if self.position < len(self.text):
                return self.text[self.position]
            if not self.more():
                return ""


def _malformed() -> ApiError:
    return invalid("The request body is not valid JSON")


def read_requests(read: Callable[[int], bytes]) -> Iterator[bytes]:
    """The elements of `{"requests": [...]}`, each as the JSON it was sent as, on one line.

    Holds one element at a time, however long the body. Raises ApiError.
    """
    body, decoder = _Text(read), json.JSONDecoder()
    while not (opening := _OPENING.match(body.text)):
        if len(body.text) > _LONGEST_OPENING or not body.more():
            raise invalid("requests: Field required")
    body.position = opening.end()
    while body.peek() != "]":
        yield _element(body, decoder)
        if body.peek() == ",":
            body.position += 1
            if body.peek() == "]":
                raise _malformed()
        elif body.peek() != "]":
            raise _malformed()
    body.position += 1
    while body.more():
        if len(body.text) > _LONGEST_OPENING:
            raise _malformed()
    if not _CLOSING.fullmatch(body.text):
        raise _malformed()


def _element(body: _Text, decoder: json.JSONDecoder) -> bytes:
    while True:
        try:
            _value, end = decoder.raw_decode(body.text, body.position)
        except (json.JSONDecodeError, RecursionError) as error:
            # It may only be cut short.
            if not body.more():
                raise _malformed() from error
            continue
        raw = body.text[body.position : end]
        body.position = end
        # Between the tokens of JSON a line break is nothing but space.
        return raw.replace("\n", " ").replace("\r", " ").encode()


def receive(key: str, version: str, read: Callable[[int], bytes], path: Path) -> Batch:
    """Write the requests of a body to `path`, a line each, and make their batch.

    Only ids and sizes are checked here; what is in `params` is judged line by line, later.
    """
    seen: set[str] = set()
    ids_hash = hashlib.sha256()
    with path.open("wb") as lines:
        for index, raw in enumerate(read_requests(read)):
            custom_id = _custom_id(index, raw, seen)
            seen.add(custom_id)
            ids_hash.update(custom_id.encode() + b"\n")
            lines.write(raw + b"\n")
            if len(seen) > MAX_REQUESTS:
                raise invalid(f"requests: List should have at most {MAX_REQUESTS} items")
    if not seen:
        raise invalid("requests: List should have at least 1 item")
    return Batch(
        id=new_id("msgbatch_01"),
        key=key,
        provider=models.ANTHROPIC,
        endpoint="/v1/messages",
        created_at=time.time(),
        version=version,
        validated=True,
        total=len(seen),
        custom_ids=len(seen),
        custom_ids_sha256=ids_hash.hexdigest(),
    )


def _custom_id(index: int, raw: bytes, seen: set[str]) -> str:
    where = f"requests.{index}"
    try:
        item = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise _malformed() from error
    if not isinstance(item, dict):
        raise invalid(f"{where}: Input should be a valid dictionary")
    custom_id = item.get("custom_id")
    if not isinstance(custom_id, str):
        raise invalid(f"{where}.custom_id: Field required")
    if len(custom_id) > 64:
        raise invalid(f"{where}.custom_id: String should have at most 64 characters")
    if not _CUSTOM_ID.fullmatch(custom_id):
        raise invalid(f"{where}.custom_id: String should match pattern '^[a-zA-Z0-9_-]{{1,64}}$'")
    if custom_id in seen:
        raise invalid(f"{where}.custom_id: must be unique in the batch")
    if not isinstance(item.get("params"), dict):
        raise invalid(f"{where}.params: Field required")
    return custom_id


class AnthropicBatches:
    """How Anthropic reads and writes a batch's lines."""

    separates_errors = False
    fails_as_a_whole = False

    def __init__(self, knobs: Knobs) -> None:
        self._knobs = knobs

    def inspect(self, batch: Batch, path: Path) -> Inspection:
        return Inspection(
            offsets_of(path), custom_ids=batch.custom_ids, custom_ids_sha256=batch.custom_ids_sha256
        )

    def answer(self, batch: Batch, raw: bytes, misreport: str | None) -> LineResult:
        line = orjson.loads(raw)
        try:
            if line["params"].get("stream"):
                raise invalid("stream: is not supported in a batch")
            strict = self._knobs.settings.reject_unknown_fields
            answered = anthropic_answers.message(
                line["params"], batch.version, BATCH, strict=strict
            )
        except ApiError as error:
            return LineResult(_refusal(line["custom_id"], error), None)
        served = Served(
            key=batch.key,
            provider=batch.provider,
            model=answered.model,
            lane=BATCH,
            tokens=answered.tokens,
            unreported=misreport is not None,
            custom_id=line["custom_id"],
            batch_id=batch.id,
        )
        message = faults.misreported(answered.body, misreport)
        result = {"type": "succeeded", "message": message}
        return LineResult(_record(line["custom_id"], result), served)

    def refuse(self, batch: Batch, raw: bytes, status: int) -> LineResult:
        refusal = ApiError(status, f"The request of batch {batch.id} failed.")
        return LineResult(_refusal(orjson.loads(raw)["custom_id"], refusal), None)

    def unfinished(self, raw: bytes, why: Status) -> bytes:
        return _record(orjson.loads(raw)["custom_id"], {"type": _UNFINISHED[why]})

    def stranger(self) -> bytes:
        message = {
            "id": new_id("msg_01"),
            "type": "message",
            "role": "assistant",
            "model": "claude-haiku-4-5-20251001",
            "content": [{"type": "text", "text": "This answers nobody."}],
            "stop_reason": "end_turn",
            "stop_sequence": None,
            "usage": anthropic_answers.usage(Tokens(input_uncached=8, output=5), BATCH),
        }
        return _record(new_id("unknown-"), {"type": "succeeded", "message": message})

    def publish(self, batch: Batch) -> None:
        """Nothing to do: the results are downloaded from where they were written."""


def _refusal(custom_id: str, error: ApiError) -> bytes:
    body = error.body(models.ANTHROPIC, None)
    return _record(custom_id, {"type": "errored", "error": body})


def _record(custom_id: str, result: dict[str, Any]) -> bytes:
    return orjson.dumps({"custom_id": custom_id, "result": result})


def shown(batch: Batch, knobs: Knobs, base_url: str) -> dict[str, Any]:
    """The batch as the caller sees it. Its counters stay zero until all of it has ended."""
    ended_at = batch.ended_at
    if ended_at is not None and knobs.strikes("status_regress"):
        ended_at = None
    cancelled_at = batch.times.get(Status.CANCELLING)
    status = "canceling" if batch.status is Status.CANCELLING else "in_progress"
    has_results = (
        ended_at is not None
        and time.time() >= ended_at + knobs.settings.null_file_ids_moment_seconds
    )
    return {
        "id": batch.id,
        "type": "message_batch",
        "processing_status": status if ended_at is None else "ended",
        "request_counts": _counts(batch, ended=ended_at is not None),
        "created_at": rfc3339(batch.created_at),
        "expires_at": rfc3339(batch.created_at + WINDOW_SECONDS),
        "ended_at": None if ended_at is None else rfc3339(ended_at),
        "cancel_initiated_at": None if cancelled_at is None else rfc3339(cancelled_at),
        "archived_at": None,
        "results_url": f"{base_url}v1/messages/batches/{batch.id}/results" if has_results else None,
    }


def _counts(batch: Batch, *, ended: bool) -> dict[str, int]:
    return {
        "processing": 0 if ended else batch.total,
        "succeeded": batch.completed if ended else 0,
        "errored": batch.failed if ended else 0,
        "canceled": batch.unfinished if ended and batch.status is Status.CANCELLED else 0,
        "expired": batch.unfinished if ended and batch.status is Status.EXPIRED else 0,
    }


def rfc3339(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")
