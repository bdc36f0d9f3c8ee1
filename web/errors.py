"""The error table: every failure, its status and its type, as the contract lists them."""

import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any

import orjson
from flask import Flask, Response, request
from gunicorn.http.errors import ParseException  # type: ignore[import-untyped]  # has no types
from werkzeug.exceptions import HTTPException

from gateway.billing.spending import seconds_left
from gateway.calls.attempts import is_timeout
from gateway.calls.errors import (
    AsyncImpossible,
    CallError,
    CostAboveMaximum,
    InsufficientFunds,
    InvalidField,
    KeyInFlight,
    KeyReused,
    OwnKeyRefused,
    SpendLimitReached,
    UnknownCursor,
    UnknownModel,
)
from gateway.calls.streaming import Unheard
from gateway.providers.dialect import ProviderError, Rejected, Unauthorized, Unavailable
from models.session import is_away
from web.threads import DatabaseAway

log = logging.getLogger(__name__)

RETRY_SECONDS = 2
TYPES: Mapping[int, str] = {
    400: "bad_request",
    401: "unauthorized",
    402: "insufficient_funds",
    403: "forbidden",
    404: "not_found",
    409: "conflict",
    413: "payload_too_large",
    422: "unprocessable",
    429: "rate_limit_exceeded",
    500: "internal_error",
    502: "upstream_error",
    503: "unavailable",
    504: "upstream_timeout",
}
CALL_STATUSES: Mapping[type[CallError], int] = {
    InvalidField: 400,
    UnknownModel: 404,
    UnknownCursor: 404,
    InsufficientFunds: 402,
    SpendLimitReached: 429,
    AsyncImpossible: 422,
    CostAboveMaximum: 422,
    OwnKeyRefused: 403,
    KeyInFlight: 409,
    KeyReused: 422,
}
FLAT_STATUSES: Mapping[type[Exception], int] = {SpendLimitReached: 402}
"""Where the routes that tell their errors flat have another status."""


class ApiError(Exception):
    """A failure that a view found by itself."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        error_type: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.error_type = error_type
        self.headers = dict(headers or {})


class Stopping(Exception):
    """The process is being stopped and cannot wait for this request any longer."""


def error_response(
    status: int,
    message: str,
    *,
    param: str | None = None,
    error_type: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """The error object at its status."""
    usual_type = "bad_request" if status < 500 else "internal_error"
    error = {
        "type": error_type or TYPES.get(status, usual_type),
        "message": message,
        "code": status,
        "param": param,
    }
    response = Response(orjson.dumps({"error": error}), status, mimetype="application/json")
    response.headers.extend(headers or {})
    return response


def unavailable() -> Response:
    """The database cannot be asked; nothing was accepted, and trying again is safe."""
    return error_response(
        503,
        "The service cannot reach its database. Please try again.",
        headers={"Retry-After": str(RETRY_SECONDS)},
    )


def provider_failure(error: ProviderError) -> Response:
    """What a provider's failure is to our caller. Its message is passed on, our key's is not."""
    if isinstance(error, Rejected):
        return error_response(400, error.message, param=error.param)
    if isinstance(error, Unauthorized):
        return error_response(502, "The provider did not accept the gateway's credentials.")
    if is_timeout(error):
        return error_response(504, error.message)
    headers = {}
    if isinstance(error, Unavailable) and error.retry_after_seconds is not None:
        headers["Retry-After"] = str(max(1, round(error.retry_after_seconds)))
    return error_response(502, error.message, headers=headers)


def failure(error: Exception, *, flat: bool = False) -> Response:
    """What a failure is to the caller, by the table; tells nothing of a mistake of our own."""
    response = _by_the_table(error)
    return flattened(response, FLAT_STATUSES.get(type(error))) if flat else response


def is_flat(path: str) -> bool:
    """Whether the routes of a path tell their errors flat."""
    return f"{path}/".startswith("/ai/")


def flat_error(error: Mapping[str, Any]) -> dict[str, str]:
    """The content of an error object, flat: `{"error": "NOT_FOUND", "message": "…"}`."""
    return {"error": error["type"].upper(), "message": error["message"]}


def flattened(response: Response, status: int | None = None) -> Response:
    """An error told flat, at its own status if none is given."""
    error = orjson.loads(response.get_data())["error"]
    if status is not None:
        response.status_code, error["type"] = status, TYPES[status]
    response.set_data(orjson.dumps(flat_error(error)))
    return response


def _by_the_table(error: Exception) -> Response:
    if isinstance(error, ApiError):
        return error_response(
            error.status,
            error.message,
            param=error.param,
            error_type=error.error_type,
            headers=error.headers,
        )
    if isinstance(error, CallError):
        status = CALL_STATUSES[type(error)]
        return error_response(
            status, error.message, param=error.param, headers=_retry_headers(error)
        )
    if isinstance(error, ProviderError):
        return provider_failure(error)
    if isinstance(error, Unheard):
        return error_response(504, "The answer was not read to its end in time.")
    if isinstance(error, DatabaseAway) or is_away(error):
        return unavailable()
    if isinstance(error, Stopping):
        return error_response(
            503,
            "The service is being restarted. Please try again.",
            headers={"Retry-After": str(RETRY_SECONDS)},
        )
    return error_response(500, "An unexpected error occurred on our side. Please retry.")


def log_mistake(error: Exception) -> None:
    """Logs an error that the table has no row for."""
    if failure(error).status_code == HTTPStatus.INTERNAL_SERVER_ERROR:
        log.error("request.failed", exc_info=error)


def _retry_headers(error: CallError) -> dict[str, str]:
    """When the call may be repeated. A spend limit is nothing that an SDK should wait for."""
    if isinstance(error, KeyInFlight):
        return {"Retry-After": str(RETRY_SECONDS)}
    if isinstance(error, SpendLimitReached):
        seconds = seconds_left(error.period, datetime.now(UTC))
        return {"Retry-After": str(seconds), "x-should-retry": "false"}
    return {}


def register(app: Flask) -> None:
    """Makes the app answer every exception by the table."""

    @app.errorhandler(ParseException)
    def on_broken_body(_: Exception) -> Response:
        return _as_asked(error_response(400, "The request body could not be read."))

    @app.errorhandler(HTTPException)
    def on_http_exception(error: HTTPException) -> Response:
        status = error.code or 500
        message = {
            404: "There is no such route.",
            405: "This route does not take that method.",
            413: "The request body is too large.",
        }.get(status, HTTPStatus(status).phrase)
        headers = {}
        allowed = getattr(error, "valid_methods", None)
        if allowed:
            headers["Allow"] = ", ".join(sorted(allowed))
        return _as_asked(error_response(status, message, headers=headers))

    @app.errorhandler(Exception)
    def on_exception(error: Exception) -> Response:
        log_mistake(error)
        return failure(error, flat=is_flat(request.path))


def _as_asked(response: Response) -> Response:
    return flattened(response) if is_flat(request.path) else response
