"""OpenAI's batches: the look through the input, the lines, the object the caller sees."""

import hashlib
import secrets
import time
from array import array
from pathlib import Path
from typing import Any, Final

import gevent
import orjson

from local.simulator import faults, models
from local.simulator.batch_lines import Inspection, LineResult
from local.simulator.errors import ApiError, invalid
from local.simulator.knobs import Knobs
from local.simulator.meter import BATCH, Served, Tokens
from local.simulator.openai_answers import EMBEDDINGS, answer, usage
from local.simulator.store import (
    BATCH_FILE_LIFE_SECONDS,
    TERMINAL,
    Batch,
    Status,
    Store,
    new_id,
)

MAX_REQUESTS: Final = 50_000
MAX_EMBEDDING_INPUTS: Final = 50_000
WINDOW_SECONDS: Final = 86_400
_MAX_ERRORS: Final = 1000
_LINES_PER_BREATH: Final = 200
_UNFINISHED: Final = {
    Status.EXPIRED: (
        "batch_expired",
        "This request could not be executed before the completion window expired.",
    ),
    Status.CANCELLED: ("batch_cancelled", "This request was cancelled with its batch."),
}


class _Inspector:
    """Looks through an input line by line; one bad line fails the batch as a whole."""

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint
        self._seen: set[str] = set()
        self._inputs = 0
        self._ids_hash = hashlib.sha256()
        self.found = Inspection(array("q", [0]))

    def line(self, number: int, raw: bytes) -> None:
        found = self.found
        found.offsets.append(found.offsets[-1] + len(raw))
        # Near enough to the prompt's tokens, without judging the body, which is done later.
        found.enqueued_tokens += len(raw) // 4
        try:
            line = orjson.loads(raw)
        except orjson.JSONDecodeError:
            line = None
        if not isinstance(line, dict):
            self._error("invalid_json_line", "This line is not parseable as valid JSON.", number)
            return
        for name, kind in (("custom_id", str), ("method", str), ("url", str), ("body", dict)):
            if not isinstance(line.get(name), kind):
                message = f"Missing required parameter: '{name}'."
                self._error("missing_required_parameter", message, number, name)
                return
        self._consistency(number, line)

    def _consistency(self, number: int, line: dict[str, Any]) -> None:
        custom_id = line["custom_id"]
        if custom_id in self._seen:
            message = f"The custom_id '{custom_id}' is not unique in this batch."
            self._error("duplicate_custom_id", message, number, "custom_id")
        self._seen.add(custom_id)
        self._ids_hash.update(custom_id.encode() + b"\n")
        if line["method"] != "POST":
            self._error("invalid_request", "The method must be POST.", number, "method")
        if line["url"] != self._endpoint:
            message = "The URL provided for this request does not match the batch endpoint."
            self._error("url_mismatch", message, number, "url")
        model = line["body"].get("model")
        if self.found.model is None and isinstance(model, str):
            self.found.model = model
        elif model != self.found.model:
            message = "Each batch must contain requests for a single model."
            self._error("model_mismatch", message, number, "body.model")
        if self._endpoint == EMBEDDINGS:
            given = line["body"].get("input")
            self._inputs += len(given) if isinstance(given, list) else 1

    def finish(self) -> Inspection:
        found = self.found
        found.custom_ids = len(self._seen)
        found.custom_ids_sha256 = self._ids_hash.hexdigest()
        total = len(found.offsets) - 1
        if total == 0:
            self._error("empty_file", "The input file is empty.", None)
        if total > MAX_REQUESTS or self._inputs > MAX_EMBEDDING_INPUTS:
            message = f"The batch has more than {MAX_REQUESTS} requests or embedding inputs."
            self._error("too_many_tasks", message, None)
        return found

    def _error(self, code: str, message: str, line: int | None, param: str | None = None) -> None:
        if len(self.found.errors) < _MAX_ERRORS:
            error = {"code": code, "message": message, "param": param, "line": line}
            self.found.errors.append(error)


class OpenAIBatches:
    """How OpenAI reads and writes a batch's lines."""

    separates_errors = True
    fails_as_a_whole = True

    def __init__(self, store: Store, knobs: Knobs) -> None:
        self._store = store
        self._knobs = knobs

    def inspect(self, batch: Batch, path: Path) -> Inspection:
        inspector = _Inspector(batch.endpoint)
        with path.open("rb") as lines:
            for number, raw in enumerate(lines, start=1):
                inspector.line(number, raw)
                if number % _LINES_PER_BREATH == 0:
                    gevent.sleep(0)
        return inspector.finish()

    def answer(self, batch: Batch, raw: bytes, misreport: str | None) -> LineResult:
        line = orjson.loads(raw)
        try:
            if line["body"].get("stream"):
                raise invalid("'stream' is not supported in a batch.", "stream")
            strict = self._knobs.settings.reject_unknown_fields
            answered = answer(batch.endpoint, line["body"], strict=strict)
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
        body = faults.misreported(answered.body, misreport)
        return LineResult(_record(line["custom_id"], _http(200, body), None), served)

    def refuse(self, batch: Batch, raw: bytes, status: int) -> LineResult:
        custom_id = orjson.loads(raw)["custom_id"]
        if status == 408:
            # A time-out is not an HTTP answer, so OpenAI reports it beside the response.
            error = {"code": "request_timeout", "message": "The request timed out."}
            return LineResult(_record(custom_id, None, error), None)
        refusal = ApiError(status, f"The request of batch {batch.id} failed.")
        return LineResult(_refusal(custom_id, refusal), None)

    def unfinished(self, raw: bytes, why: Status) -> bytes:
        code, message = _UNFINISHED[why]
        return _record(orjson.loads(raw)["custom_id"], None, {"code": code, "message": message})

    def stranger(self) -> bytes:
        message = {"role": "assistant", "content": "This answers nobody.", "refusal": None}
        body = {
            "id": new_id("chatcmpl-"),
            "object": "chat.completion",
            "created": int(time.time()),
            "model": "gpt-4o-mini-2024-07-18",
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": usage(Tokens(input_uncached=8, output=5)),
        }
        return _record(new_id("unknown-"), _http(200, body), None)

    def publish(self, batch: Batch) -> None:
        """Turn the results into files that the caller can download."""
        output = self._file(batch, "output", batch.output_bytes)
        error = self._file(batch, "error", batch.error_bytes)
        batch.output_file_id = output
        batch.error_file_id = "" if error is None and batch.empty_error_id else error

    def _file(self, batch: Batch, part: str, size_bytes: int) -> str | None:
        if not size_bytes:
            return None
        source = self._store.batch_path(batch.id, part)
        life = batch.output_life_seconds or BATCH_FILE_LIFE_SECONDS
        name = f"{batch.id}_{part}.jsonl"
        return self._store.add_file(batch.key, name, "batch_output", source, life).id


def _http(status: int, body: dict[str, Any]) -> dict[str, Any]:
    return {"status_code": status, "request_id": "req_" + secrets.token_hex(8), "body": body}


def _refusal(custom_id: str, error: ApiError) -> bytes:
    # The error of an HTTP answer sits in its body; the line's own `error` stays null.
    return _record(custom_id, _http(error.status, error.body(models.OPENAI, None)), None)


def _record(custom_id: str, response: dict[str, Any] | None, error: dict[str, Any] | None) -> bytes:
    identity = "batch_req_" + secrets.token_hex(8)
    return orjson.dumps(
        {"id": identity, "custom_id": custom_id, "response": response, "error": error}
    )


def new_batch(
    key: str,
    endpoint: str,
    input_file_id: str,
    metadata: dict[str, str] | None,
    output_life_seconds: int | None,
) -> Batch:
    """A batch as it is before anybody looked into its input."""
    return Batch(
        id=new_id("batch_"),
        key=key,
        provider=models.OPENAI,
        endpoint=endpoint,
        created_at=time.time(),
        input_file_id=input_file_id,
        metadata=metadata,
        output_life_seconds=output_life_seconds,
    )


def shown(batch: Batch, knobs: Knobs) -> dict[str, Any]:
    """The batch as the caller sees it, `status_regress` and the moment without files included."""
    status = batch.status
    times = {f"{name}_at": int(when) for name, when in batch.times.items()}
    ended_at = batch.ended_at
    hides_files = (
        ended_at is not None
        and time.time() < ended_at + knobs.settings.null_file_ids_moment_seconds
    )
    if status is Status.COMPLETED and knobs.strikes("status_regress"):
        status, hides_files = Status.IN_PROGRESS, True
        times = {"in_progress_at": times.get("in_progress_at", int(batch.created_at))}
    names = ("in_progress", "finalizing", "cancelling", *sorted(TERMINAL))
    errors = {"object": "list", "data": batch.errors} if batch.errors else None
    return {
        "id": batch.id,
        "object": "batch",
        "endpoint": batch.endpoint,
        "model": batch.model,
        "errors": errors,
        "input_file_id": batch.input_file_id,
        "completion_window": "24h",
        "status": status,
        "output_file_id": None if hides_files else batch.output_file_id,
        "error_file_id": None if hides_files else batch.error_file_id,
        "created_at": int(batch.created_at),
        "expires_at": int(batch.created_at) + WINDOW_SECONDS,
        **{f"{name}_at": times.get(f"{name}_at") for name in names},
        "request_counts": {
            "total": batch.total,
            "completed": batch.completed,
            "failed": batch.failed,
        },
        "usage": _usage(batch),
        "metadata": batch.metadata,
    }


def _usage(batch: Batch) -> dict[str, Any]:
    tokens = batch.tokens
    given = tokens["input_uncached"] + tokens["cache_read"] + tokens["cache_write_short"]
    return {
        "input_tokens": given,
        "input_tokens_details": {"cached_tokens": tokens["cache_read"]},
        "output_tokens": tokens["output"],
        "output_tokens_details": {"reasoning_tokens": tokens["reasoning"]},
        "total_tokens": given + tokens["output"],
    }
