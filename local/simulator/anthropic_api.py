"""Anthropic's routes, under `/v1/messages`, and its model list."""

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

from flask import Blueprint, Response, request

from local.simulator import anthropic_answers, anthropic_batches, faults, models
from local.simulator.anthropic_answers import Answered
from local.simulator.anthropic_requests import check_version
from local.simulator.errors import ApiError, invalid
from local.simulator.meter import STANDARD, Served
from local.simulator.paging import limit_of, page_after, page_before
from local.simulator.store import Batch
from local.simulator.web import (
    Simulator,
    current_key,
    current_plan,
    download,
    event,
    json_body,
    json_response,
    pause,
    stream,
)


class AnthropicRoutes:
    """Messages and message batches."""

    def __init__(self, simulator: Simulator) -> None:
        self._simulator = simulator

    def blueprint(self) -> Blueprint:
        """The routes; their names are the operations that faults can be aimed at."""
        routes = Blueprint(models.ANTHROPIC, __name__, url_prefix="/v1/messages")
        for rule, name, view, method in (
            ("", "messages", self.messages, "POST"),
            ("/count_tokens", "count_tokens", self.count_tokens, "POST"),
            ("/batches", "batch_create", self.create_batch, "POST"),
            ("/batches", "batch_list", self.list_batches, "GET"),
            ("/batches/<batch_id>", "batch_get", self.get_batch, "GET"),
            ("/batches/<batch_id>", "batch_delete", self.delete_batch, "DELETE"),
            ("/batches/<batch_id>/cancel", "batch_cancel", self.cancel_batch, "POST"),
            ("/batches/<batch_id>/results", "batch_results", self.results, "GET"),
        ):
            routes.add_url_rule(rule, name, view, methods=[method])
        return routes

    def messages(self) -> Response:
        version, body = _version(), json_body()
        knobs = self._simulator.knobs
        strict = knobs.settings.reject_unknown_fields
        answered = anthropic_answers.message(body, version, STANDARD, strict=strict)
        if body.get("stream"):
            breaks = current_plan().stream_error
            message = answered.body if breaks else self._metered(answered)
            return stream(_events(message, breaks=breaks), knobs)
        pause(knobs.settings.latency_ms)
        return json_response(self._metered(answered))

    def _metered(self, answered: Answered) -> dict[str, Any]:
        """Count the call, and give its answer as the caller is to see it."""
        misreport = faults.misreport(self._simulator.knobs)
        served = Served(
            key=current_key(),
            provider=models.ANTHROPIC,
            model=answered.model,
            lane=STANDARD,
            tokens=answered.tokens,
            unreported=misreport is not None or current_plan().cuts,
        )
        self._simulator.store.meter.record(served)
        return faults.misreported(answered.body, misreport)

    def count_tokens(self) -> Response:
        strict = self._simulator.knobs.settings.reject_unknown_fields
        tokens = anthropic_answers.count_tokens(json_body(), _version(), strict=strict)
        return json_response({"input_tokens": tokens})

    def create_batch(self) -> Response:
        version = _version()
        if (request.content_length or 0) > anthropic_batches.MAX_BODY_BYTES:
            raise ApiError(413, "Request exceeds the maximum size")
        path = self._simulator.store.scratch_path()
        with ExitStack() as undo:
            undo.callback(path.unlink, missing_ok=True)
            batch = anthropic_batches.receive(current_key(), version, request.stream.read, path)
            undo.pop_all()
        answer = self._shown(batch)
        self._simulator.engine.start(batch, path)
        return answer

    def list_batches(self) -> Response:
        limit = limit_of(request.args.get("limit"), 20, 1000)
        found = self._simulator.visible_batches(current_key(), models.ANTHROPIC)
        before, after = request.args.get("before_id"), request.args.get("after_id")
        if before is None:
            page, has_more = page_after(found, limit, after, "after_id")
        else:
            page, has_more = page_before(found, limit, before, "before_id")
        data = [anthropic_batches.shown(batch, self._simulator.knobs, _base()) for batch in page]
        return json_response(as_page(data, has_more))

    def get_batch(self, batch_id: str) -> Response:
        return self._shown(self._batch(batch_id))

    def cancel_batch(self, batch_id: str) -> Response:
        batch = self._batch(batch_id)
        if batch.ended:
            raise invalid(f"Batch {batch_id} has ended and cannot be canceled.")
        self._simulator.engine.cancel(batch)
        return self._shown(batch)

    def delete_batch(self, batch_id: str) -> Response:
        batch = self._batch(batch_id)
        if not batch.ended:
            raise invalid(f"Batch {batch_id} cannot be deleted before it has ended.")
        self._simulator.store.delete_batch(batch)
        return json_response({"id": batch_id, "type": "message_batch_deleted"})

    def results(self, batch_id: str) -> Response:
        batch = self._batch(batch_id)
        if not batch.ended:
            raise ApiError(404, f"Batch {batch_id} has no available results.")
        path = self._simulator.store.batch_path(batch.id, "output")
        return download(path, "application/x-jsonl")

    def _shown(self, batch: Batch) -> Response:
        return json_response(anthropic_batches.shown(batch, self._simulator.knobs, _base()))

    def _batch(self, batch_id: str) -> Batch:
        _version()
        batch = self._simulator.visible_batch(current_key(), models.ANTHROPIC, batch_id)
        if batch is None:
            raise ApiError(404, f"Message batch {batch_id} not found.")
        return batch


def as_page(data: list[dict[str, Any]], has_more: bool) -> dict[str, Any]:
    """A page of a list, as Anthropic frames it."""
    return {
        "data": data,
        "has_more": has_more,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
    }


def _version() -> str:
    return check_version(request.headers.get("anthropic-version"))


def _base() -> str:
    return request.host_url


def _events(message: dict[str, Any], *, breaks: bool) -> Iterator[bytes]:
    events = list(anthropic_answers.events(message))
    for item in events[: len(events) // 2] if breaks else events:
        yield event(item, item["type"])
    if breaks:
        yield event(ApiError(529, "Overloaded").body(models.ANTHROPIC, None), "error")
