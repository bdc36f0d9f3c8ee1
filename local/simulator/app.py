"""The Flask application: routes, keys, the faults around every answer, error bodies, headers."""

import sys
import time
import traceback

import orjson
from flask import Flask, Response, g, request
from werkzeug.exceptions import HTTPException

from local.simulator import faults, model_api, models
from local.simulator.anthropic_api import AnthropicRoutes
from local.simulator.anthropic_batches import AnthropicBatches, rfc3339
from local.simulator.batch_lines import Dialect
from local.simulator.batches import Engine
from local.simulator.control_api import PREFIX, ControlRoutes
from local.simulator.errors import ApiError
from local.simulator.faults import Dropped
from local.simulator.knobs import Knobs
from local.simulator.openai_api import OpenAIRoutes
from local.simulator.openai_batches import OpenAIBatches
from local.simulator.store import Store
from local.simulator.web import Simulator, authenticate, json_response, new_request_id

_OPENAI_LIMITS = {
    "x-ratelimit-limit-requests": "10000",
    "x-ratelimit-limit-tokens": "30000000",
    "x-ratelimit-remaining-requests": "9999",
    "x-ratelimit-remaining-tokens": "29999000",
    "x-ratelimit-reset-requests": "6ms",
    "x-ratelimit-reset-tokens": "2ms",
    "openai-version": "2020-10-01",
}


def build(store: Store, knobs: Knobs) -> Simulator:
    """The simulator's parts, wired to each other. Stored batches are not running yet."""
    dialects: dict[str, Dialect] = {
        models.OPENAI: OpenAIBatches(store, knobs),
        models.ANTHROPIC: AnthropicBatches(knobs),
    }
    return Simulator(knobs, store, Engine(store, knobs, dialects))


def create_app(simulator: Simulator) -> Flask:
    """The application. Nothing runs until it is served."""
    app = Flask(__name__, static_folder=None)
    app.register_blueprint(OpenAIRoutes(simulator).blueprint())
    app.register_blueprint(AnthropicRoutes(simulator).blueprint())
    app.register_blueprint(model_api.blueprint())
    app.register_blueprint(ControlRoutes(simulator).blueprint())
    _guard(app, simulator.knobs)
    app.register_error_handler(ApiError, _refused)
    app.register_error_handler(Dropped, lambda _error: faults.dropped())
    app.register_error_handler(Exception, _unexpected)
    return app


def _guard(app: Flask, knobs: Knobs) -> None:
    """What happens around every call to a provider's route."""

    def before() -> None:
        g.started = time.monotonic()
        g.plan = faults.CALM
        g.provider = _provider()
        g.request_id = new_request_id(g.provider)
        if request.path.startswith(PREFIX) or request.endpoint is None:
            return
        g.key = authenticate(g.provider, knobs.settings.revoked_keys or [])
        g.plan = faults.before(knobs, request.endpoint.rpartition(".")[2])

    def after(response: Response) -> Response:
        if request.path.startswith(PREFIX):
            return response
        _add_headers(response)
        # A refusal is not the answer that the faults were planned for.
        return (
            faults.after(g.plan, response, knobs, g.provider)
            if response.status_code < 400
            else response
        )

    app.before_request(before)
    app.after_request(after)


def _provider() -> str:
    """Whose API is called: the route says so, or else the header that only one of them has."""
    if request.blueprint in (models.OPENAI, models.ANTHROPIC):
        return request.blueprint
    return models.ANTHROPIC if "anthropic-version" in request.headers else models.OPENAI


def _add_headers(response: Response) -> None:
    headers = response.headers
    if g.provider == models.OPENAI:
        headers["x-request-id"] = g.request_id
        headers["openai-processing-ms"] = str(int((time.monotonic() - g.started) * 1000))
        headers.extend(_OPENAI_LIMITS)
        return
    headers["request-id"] = g.request_id
    reset = rfc3339(int(time.time()) + 60)
    for kind, limit in (
        ("requests", 4000),
        ("input-tokens", 2_000_000),
        ("output-tokens", 400_000),
    ):
        headers[f"anthropic-ratelimit-{kind}-limit"] = str(limit)
        headers[f"anthropic-ratelimit-{kind}-remaining"] = str(limit - 1)
        headers[f"anthropic-ratelimit-{kind}-reset"] = reset


def _refused(error: ApiError) -> Response:
    body = error.body(g.provider, g.request_id)
    return json_response(body, error.status, error.headers)


def _unexpected(error: Exception) -> Response:
    if isinstance(error, HTTPException):
        status = error.code or 500
        message = f"Invalid URL ({request.method} {request.path})" if status == 404 else error.name
        return _refused(ApiError(status, message))
    frames = traceback.format_tb(error.__traceback__)
    event = {"event": "simulator.fault", "error": type(error).__name__, "trace": frames}
    sys.stdout.buffer.write(orjson.dumps(event) + b"\n")
    sys.stdout.flush()
    return _refused(ApiError(500, "The simulator failed; its log says where."))
