"""Refusals, in each provider's own words.

ApiError        a refusal with an HTTP status; `provider` decides how its body is spelt
"""

from typing import Any, Final

from local.simulator import models

_OPENAI_TYPES: Final = {429: "requests", 500: "server_error", 503: "server_error"}
_OPENAI_CODES: Final = {401: "invalid_api_key", 429: "rate_limit_exceeded"}
_ANTHROPIC_TYPES: Final = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    409: "conflict_error",
    413: "request_too_large",
    422: "invalid_request_error",
    429: "rate_limit_error",
    500: "api_error",
    503: "api_error",
    504: "timeout_error",
    529: "overloaded_error",
}


class ApiError(Exception):
    """A refusal. `kind` and `code` default to what the provider sends with that status."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        kind: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code
        self.kind = kind
        self.headers = headers or {}

    def body(self, provider: str, request_id: str | None) -> dict[str, Any]:
        """The error as JSON. Anthropic repeats the request id in it, OpenAI has it in a header."""
        if provider == models.ANTHROPIC:
            kind = self.kind or _ANTHROPIC_TYPES.get(self.status, "api_error")
            error = {"type": kind, "message": self.message}
            return {"type": "error", "error": error, "request_id": request_id}
        return {
            "error": {
                "message": self.message,
                "type": self.kind or _OPENAI_TYPES.get(self.status, "invalid_request_error"),
                "param": self.param,
                "code": self.code or _OPENAI_CODES.get(self.status),
            }
        }


def invalid(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    """A 400: the request is understood and wrong."""
    return ApiError(400, message, param=param, code=code)
