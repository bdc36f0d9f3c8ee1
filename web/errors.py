"""The error table: every failure, its status and its type, as the contract lists them."""

import logging
from collections.abc import Mapping
from http import HTTPStatus

import orjson
from flask import Flask, Response
from gunicorn.http.errors import ParseException  # type: ignore[import-untyped]  # has no types
from werkzeug.exceptions import HTTPException

from gateway.calls.errors import (
    AsyncImpossible,
    CallError,
    InsufficientFunds,
    InvalidField,
    KeyInFlight,
    KeyReused,
    UnknownCursor,
    UnknownModel,
)
from gateway.calls.realtime import is_timeout
from gateway.providers.dialect import ProviderError, Rejected, Unauthorized, Unavailable
from web.threads import DatabaseAway, is_away

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
    AsyncImpossible: 422,
    KeyInFlight: 409,
    KeyReused: 422,
}


class ApiError(Exception):
    """A failure that a view found by itself."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
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
        log.error("provider.unauthorized", extra={"http_status": error.status, "alert": True})
        return error_response(502, "The provider did not accept the gateway's credentials.")
    if is_timeout(error):
        return error_response(504, error.message)
    headers = {}
    if isinstance(error, Unavailable) and error.retry_after_seconds is not None:
        headers["Retry-After"] = str(max(1, round(error.retry_after_seconds)))
    return error_response(502, error.message, headers=headers)


def register(app: Flask) -> None:
    """Makes the app answer every exception by the table."""

    @app.errorhandler(ApiError)
    def on_api_error(error: ApiError) -> Response:
        return error_response(error.status, error.message, param=error.param, headers=error.headers)

    @app.errorhandler(CallError)
    def on_call_error(error: CallError) -> Response:
        in_flight = isinstance(error, KeyInFlight)
        headers = {"Retry-After": str(RETRY_SECONDS)} if in_flight else {}
        status = CALL_STATUSES[type(error)]
        return error_response(status, error.message, param=error.param, headers=headers)

    @app.errorhandler(ProviderError)
    def on_provider_error(error: ProviderError) -> Response:
        return provider_failure(error)

    @app.errorhandler(DatabaseAway)
    def on_database_away(_: DatabaseAway) -> Response:
        return unavailable()

    @app.errorhandler(ParseException)
    def on_broken_body(_: Exception) -> Response:
        return error_response(400, "The request body could not be read.")

    @app.errorhandler(Stopping)
    def on_stopping(_: Stopping) -> Response:
        return error_response(
            503,
            "The service is being restarted. Please try again.",
            headers={"Retry-After": str(RETRY_SECONDS)},
        )

    @app.errorhandler(HTTPException)
    def on_http_exception(error: HTTPException) -> Response:
        status = error.code or 500
        message = {
            404: "There is no such route.",
            405: "This route does not take that method.",
            413: "The request body is too large.",
            415: "The request body must not be compressed.",
        }.get(status, HTTPStatus(status).phrase)
        headers = {}
        allowed = getattr(error, "valid_methods", None)
        if allowed:
            headers["Allow"] = ", ".join(sorted(allowed))
        return error_response(status, message, headers=headers)

    @app.errorhandler(Exception)
    def on_exception(error: Exception) -> Response:
        if is_away(error):
            return unavailable()
        log.error("request.failed", exc_info=error)
        return error_response(500, "An unexpected error occurred on our side. Please retry.")
