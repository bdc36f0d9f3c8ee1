"""OpenAI's routes, under `/v1`."""

from collections.abc import Iterator
from typing import Any, Final

from flask import Blueprint, Response, request

from local.simulator import faults, models, openai_answers, openai_batches
from local.simulator.errors import ApiError, invalid
from local.simulator.meter import STANDARD, Served
from local.simulator.openai_answers import Answered
from local.simulator.openai_files import EXPIRES_AFTER_SECONDS, FileRoutes
from local.simulator.paging import limit_of, page_after
from local.simulator.store import Batch
from local.simulator.web import (
    Simulator,
    current_key,
    current_plan,
    event,
    json_body,
    json_response,
    pause,
    stream,
)

_ENDPOINTS: Final = (openai_answers.CHAT, openai_answers.EMBEDDINGS)


class OpenAIRoutes:
    """Chat, embeddings, models and batches."""

    def __init__(self, simulator: Simulator) -> None:
        self._simulator = simulator

    def blueprint(self) -> Blueprint:
        """The routes; their names are the operations that faults can be aimed at."""
        routes = Blueprint(models.OPENAI, __name__, url_prefix="/v1")
        FileRoutes(self._simulator.store).add_to(routes)
        for rule, name, view, method in (
            ("/chat/completions", "chat", self.chat, "POST"),
            ("/embeddings", "embeddings", self.embeddings, "POST"),
            ("/batches", "batch_create", self.create_batch, "POST"),
            ("/batches", "batch_list", self.list_batches, "GET"),
            ("/batches/<batch_id>", "batch_get", self.get_batch, "GET"),
            ("/batches/<batch_id>/cancel", "batch_cancel", self.cancel_batch, "POST"),
        ):
            routes.add_url_rule(rule, name, view, methods=[method])
        return routes

    def chat(self) -> Response:
        body = json_body()
        knobs = self._simulator.knobs
        answered = openai_answers.chat(body, strict=knobs.settings.reject_unknown_fields)
        if not body.get("stream"):
            return self._finished(answered)
        breaks = current_plan().stream_error
        completion = answered.body if breaks else self._metered(answered)
        options = body.get("stream_options") or {}
        with_usage = isinstance(options, dict) and options.get("include_usage") is True
        return stream(_events(completion, with_usage=with_usage, breaks=breaks), knobs)

    def embeddings(self) -> Response:
        strict = self._simulator.knobs.settings.reject_unknown_fields
        return self._finished(openai_answers.embed(json_body(), strict=strict))

    def _finished(self, answered: Answered) -> Response:
        pause(self._simulator.knobs.settings.latency_ms)
        return json_response(self._metered(answered))

    def _metered(self, answered: Answered) -> dict[str, Any]:
        """Count the call, and give its answer as the caller is to see it."""
        misreport = faults.misreport(self._simulator.knobs)
        served = Served(
            key=current_key(),
            provider=models.OPENAI,
            model=answered.model,
            lane=STANDARD,
            tokens=answered.tokens,
            unreported=misreport is not None or current_plan().cuts,
        )
        self._simulator.store.meter.record(served)
        return faults.misreported(answered.body, misreport)

    def create_batch(self) -> Response:
        body = json_body()
        if not isinstance(body, dict):
            raise invalid("The body of your request must be a JSON object.")
        for name in ("input_file_id", "endpoint", "completion_window"):
            if not isinstance(body.get(name), str):
                message = f"Missing required parameter: '{name}'."
                raise invalid(message, name, "missing_required_parameter")
        if body["endpoint"] not in _ENDPOINTS:
            raise invalid(f"Invalid value: '{body['endpoint']}'.", "endpoint", "invalid_value")
        if body["completion_window"] != "24h":
            message = "Invalid value for 'completion_window': only '24h' is supported."
            raise invalid(message, "completion_window", "invalid_value")
        batch = openai_batches.new_batch(
            current_key(),
            body["endpoint"],
            body["input_file_id"],
            _metadata(body.get("metadata")),
            _output_life_seconds(body.get("output_expires_after")),
        )
        store = self._simulator.store
        stored = store.file(batch.key, batch.input_file_id)
        visible_after = self._simulator.knobs.settings.file_visibility_seconds
        if stored is None or batch.created_at < stored.created_at + visible_after:
            raise invalid(
                f"Cannot find file {batch.input_file_id}, or project proj_simulated does not have "
                "access to it."
            )
        if stored.purpose != "batch":
            raise invalid("Invalid file purpose: it must be 'batch'.", "input_file_id")
        # The batch keeps its input even if the file is deleted under it.
        link = store.scratch_path()
        link.hardlink_to(store.file_path(stored.id))
        answer = self._shown(batch)
        self._simulator.engine.start(batch, link)
        return answer

    def list_batches(self) -> Response:
        limit = limit_of(request.args.get("limit"), 20, 100)
        found = self._simulator.visible_batches(current_key(), models.OPENAI)
        batches, has_more = page_after(found, limit, request.args.get("after"), "after")
        data = [openai_batches.shown(batch, self._simulator.knobs) for batch in batches]
        return json_response(
            {
                "object": "list",
                "data": data,
                "first_id": data[0]["id"] if data else None,
                "last_id": data[-1]["id"] if data else None,
                "has_more": has_more,
            }
        )

    def get_batch(self, batch_id: str) -> Response:
        return self._shown(self._batch(batch_id))

    def cancel_batch(self, batch_id: str) -> Response:
        batch = self._batch(batch_id)
        if batch.ended:
            message = f"Cannot cancel a batch with status '{batch.status}'."
            raise ApiError(409, message)
        self._simulator.engine.cancel(batch)
        return self._shown(batch)

    def _shown(self, batch: Batch) -> Response:
        return json_response(openai_batches.shown(batch, self._simulator.knobs))

    def _batch(self, batch_id: str) -> Batch:
        batch = self._simulator.visible_batch(current_key(), models.OPENAI, batch_id)
        if batch is None:
            raise ApiError(404, f"No batch found with id '{batch_id}'.", param="batch_id")
        return batch


def _events(completion: dict[str, Any], *, with_usage: bool, breaks: bool) -> Iterator[bytes]:
    chunks = list(openai_answers.chunks(completion, with_usage=with_usage))
    if breaks:
        yield from map(event, chunks[: len(chunks) // 2])
        yield event(ApiError(500, "The server had an error mid-stream.").body(models.OPENAI, None))
        return
    yield from map(event, chunks)
    yield event(b"[DONE]")


def _metadata(value: object) -> dict[str, str] | None:
    if value is None:
        return None
    if not isinstance(value, dict) or len(value) > 16:
        raise invalid("Invalid 'metadata': at most 16 key-value pairs.", "metadata")
    for name, text in value.items():
        if not isinstance(text, str) or len(text) > 512 or len(name) > 64:
            message = "Invalid 'metadata': keys up to 64 and string values up to 512 characters."
            raise invalid(message, "metadata")
    return value


def _output_life_seconds(value: object) -> int | None:
    if value is None:
        return None
    seconds = value.get("seconds") if isinstance(value, dict) else None
    anchored = isinstance(value, dict) and value.get("anchor") == "created_at"
    if not anchored or not isinstance(seconds, int) or seconds not in EXPIRES_AFTER_SECONDS:
        message = "Invalid 'output_expires_after': anchor 'created_at', 3600 to 2592000 seconds."
        raise invalid(message, "output_expires_after")
    return seconds
