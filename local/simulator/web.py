"""What both providers' routes share: the simulator's parts, JSON in and out, keys, streams."""

import secrets
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import gevent
import orjson
from flask import Response, g, request

from local.simulator import models
from local.simulator.batches import Engine
from local.simulator.errors import ApiError
from local.simulator.faults import Plan
from local.simulator.knobs import Knobs
from local.simulator.store import Batch, Store

DOWNLOAD_CHUNK_BYTES: Final = 262_144


@dataclass(frozen=True, slots=True)
class Simulator:
    """The parts of a running simulator."""

    knobs: Knobs
    store: Store
    engine: Engine

    def visible_batches(self, key: str, provider: str) -> list[Batch]:
        """A key's batches, newest first, but for those that the list lags behind."""
        known_at = time.time() - self.knobs.settings.list_lag_seconds
        batches = self.store.batches_of(key, provider)
        return [batch for batch in batches if batch.created_at <= known_at]

    def visible_batch(self, key: str, provider: str, batch_id: str) -> Batch | None:
        """One of a key's batches, once the list has caught up with it."""
        batch = self.store.batch(key, provider, batch_id)
        known_at = time.time() - self.knobs.settings.list_lag_seconds
        return batch if batch is not None and batch.created_at <= known_at else None


def json_response(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(orjson.dumps(body), status=status, headers=headers, mimetype="application/json")


def json_body() -> Any:
    """The request's body as JSON. Raises a 400."""
    try:
        return orjson.loads(request.get_data(cache=False))
    except orjson.JSONDecodeError as error:
        message = "We could not parse the JSON body of your request."
        raise ApiError(400, message) from error


def current_key() -> str:
    """The key of the request at hand."""
    key: str = g.key
    return key


def current_plan() -> Plan:
    """The faults that await the answer at hand."""
    plan: Plan = g.plan
    return plan


def authenticate(provider: str, revoked: list[str]) -> str:
    """The caller's key; any will do unless it was revoked. Raises a 401."""
    scheme, _, key = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer":
        key = ""
    if provider == models.ANTHROPIC:
        key = request.headers.get("x-api-key") or key
    if not key.strip():
        openai = "You didn't provide an API key."
        raise ApiError(401, openai if provider == models.OPENAI else "x-api-key header is required")
    if key in revoked:
        openai = "Incorrect API key provided."
        raise ApiError(401, openai if provider == models.OPENAI else "invalid x-api-key")
    return key


def pause(milliseconds: float) -> None:
    if milliseconds:
        gevent.sleep(milliseconds / 1000)


def event(data: Mapping[str, Any] | bytes, name: str | None = None) -> bytes:
    """One server-sent event."""
    payload = data if isinstance(data, bytes) else orjson.dumps(data)
    prefix = f"event: {name}\n".encode() if name else b""
    return prefix + b"data: " + payload + b"\n\n"


def stream(events: Iterator[bytes], knobs: Knobs) -> Response:
    """An event stream at the pace that the knobs set."""

    def paced() -> Iterator[bytes]:
        wait = knobs.settings.first_token_ms
        for item in events:
            pause(wait)
            wait = knobs.settings.chunk_ms
            yield item

    headers = {"cache-control": "no-cache"}
    return Response(paced(), mimetype="text/event-stream", headers=headers)


def download(path: Path, mimetype: str) -> Response:
    """A file's bytes, read as they are sent."""

    def chunks() -> Iterator[bytes]:
        with path.open("rb") as file:
            while chunk := file.read(DOWNLOAD_CHUNK_BYTES):
                yield chunk

    headers = {"content-length": str(path.stat().st_size)}
    return Response(chunks(), headers=headers, mimetype=mimetype)


def new_request_id(provider: str) -> str:
    return ("req_01" if provider == models.ANTHROPIC else "req_") + secrets.token_hex(12)
