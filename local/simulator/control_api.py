"""`/_sim`: the knobs, the meter and the truth about batches, for tests and auditors."""

import ipaddress
from typing import Any

from flask import Blueprint, Response, request

from local.simulator.errors import ApiError
from local.simulator.knobs import BadKnob
from local.simulator.paging import limit_of
from local.simulator.store import Batch
from local.simulator.web import Simulator, json_body, json_response

PREFIX = "/_sim"


class ControlRoutes:
    """Needs no key, and answers this machine only."""

    def __init__(self, simulator: Simulator) -> None:
        self._simulator = simulator

    def blueprint(self) -> Blueprint:
        routes = Blueprint("control", __name__, url_prefix=PREFIX)
        routes.before_request(_only_this_machine)
        for rule, name, view, method in (
            ("/meter", "meter", self.meter, "GET"),
            ("/batches", "batches", self.batches, "GET"),
            ("/lines", "lines", self.lines, "GET"),
            ("/faults", "faults", self.faults, "GET"),
            ("/knobs", "knobs", self.knobs, "GET"),
            ("/knobs", "turn", self.turn, "POST"),
            ("/reset", "reset", self.reset, "POST"),
        ):
            routes.add_url_rule(rule, name, view, methods=[method])
        return routes

    def meter(self) -> Response:
        return json_response({"rows": self._simulator.store.meter.rows()})

    def batches(self) -> Response:
        rows = [_shown(batch) for batch in self._simulator.store.batches.values()]
        return json_response({"rows": rows})

    def lines(self) -> Response:
        """Served calls from the cursor `after` on; `next` is the cursor of the following page."""
        limit = limit_of(request.args.get("limit"), 1000, 100_000)
        after = request.args.get("after", "0")
        if not after.isascii() or not after.isdigit():
            raise ApiError(400, "'after' is a cursor from an earlier answer.")
        rows, following = self._simulator.store.meter.lines(limit, int(after))
        return json_response({"rows": rows, "next": following, "has_more": len(rows) == limit})

    def faults(self) -> Response:
        """How often each fault has struck: one for each answer, line or batch it befell."""
        return json_response(+self._simulator.knobs.struck)

    def knobs(self) -> Response:
        return json_response(self._simulator.knobs.shown())

    def turn(self) -> Response:
        changes = json_body()
        if not isinstance(changes, dict):
            raise ApiError(400, "An object of knobs is wanted.")
        try:
            self._simulator.knobs.merge(changes)
        except BadKnob as error:
            raise ApiError(400, str(error)) from error
        return json_response(self._simulator.knobs.shown())

    def reset(self) -> Response:
        """Forget files, batches and meter, and put the knobs back to how they were at the start."""
        self._simulator.engine.stop()
        self._simulator.store.reset()
        self._simulator.knobs.reset()
        return json_response({"reset": True})


def _only_this_machine() -> None:
    if not ipaddress.ip_address(request.remote_addr or "0.0.0.0").is_loopback:
        raise ApiError(403, "Only this machine may look behind the scenes.")


def _shown(batch: Batch) -> dict[str, Any]:
    return {
        "id": batch.id,
        "key": batch.key,
        "provider": batch.provider,
        "endpoint": batch.endpoint,
        "status": batch.status,
        "ended": batch.ended,
        "created_at": batch.created_at,
        "ended_at": batch.ended_at,
        "model": batch.model,
        "metadata": batch.metadata,
        "input_file_id": batch.input_file_id or None,
        "lines": batch.total,
        "done": batch.next_line,
        "completed": batch.completed,
        "failed": batch.failed,
        "unfinished": batch.unfinished,
        "custom_ids": batch.custom_ids,
        "custom_ids_sha256": batch.custom_ids_sha256,
        "errors": batch.errors,
    }
