"""Which web pages may read answers (CORS). Source: https://fetch.spec.whatwg.org/#http-cors-protocol

Publishable keys are made for pages: `/ai/chat` answers the pages that the key of the call allows.
What is asked before such a call carries no key, so it is answered to every page: it says nothing
but that the route takes a POST. Every other route, and every other key, is for servers, unless
CORS_ALLOWED_ORIGINS names pages. No answer ever allows credentials: keys come in a header, and a
cookie would be nobody's.
"""

from collections.abc import Collection

from flask import Request, Response, g

from gateway.access.widget_keys import KeyView
from settings.origins import is_allowed
from web.errors import ApiError

WIDGET_METHOD, WIDGET_PATH = "POST", "/ai/chat"
"""The only thing that publishable keys open."""
SHARED = ("/v1/", "/ai/")
"""What CORS_ALLOWED_ORIGINS is for."""
PREFLIGHT_SECONDS = 7200
"""How long a browser may believe a preflight; none believes one for longer."""
METHODS = "GET, POST, PUT, PATCH, DELETE"
READABLE = ", ".join(
    (
        "X-Request-Id",
        "X-Lane",
        "X-Cost-Usd",
        "X-Async-Ineligible",
        "Idempotent-Replayed",
        "Location",
        "Preference-Applied",
        "Retry-After",
        "x-should-retry",
        "x-ratelimit-limit-requests",
        "x-ratelimit-remaining-requests",
        "x-ratelimit-reset-requests",
    )
)
"""The headers that a page may read besides those that it always may."""


def preflight(request: Request, allowed_origins: Collection[str]) -> Response | None:
    """The answer to what a browser asks before the call; None if this is something else.

    A page that is not allowed gets the route's usual answer, which tells its browser as much.
    """
    origin = request.headers.get("Origin")
    if request.method != "OPTIONS" or origin is None:
        return None
    wanted = request.headers.get("Access-Control-Request-Method")
    if _is_shared(request, allowed_origins) and is_allowed(origin, allowed_origins):
        methods = METHODS
    elif request.path == WIDGET_PATH:
        methods = WIDGET_METHOD
    else:
        return None
    if wanted is None:
        return None
    g.page = origin
    response = Response(status=204)
    response.headers["Access-Control-Allow-Methods"] = methods
    headers = request.headers.get("Access-Control-Request-Headers")
    if headers:
        # SDKs add their own (`x-stainless-…`); what a route does not know it does not read.
        response.headers["Access-Control-Allow-Headers"] = headers
    response.headers["Access-Control-Max-Age"] = str(PREFLIGHT_SECONDS)
    response.vary.update(("Access-Control-Request-Method", "Access-Control-Request-Headers"))
    return response


def check_use(key: KeyView, request: Request) -> None:
    """Raises the 403 for a publishable key that is used for something else, or elsewhere."""
    if (request.method, request.path) != (WIDGET_METHOD, WIDGET_PATH):
        raise ApiError(
            403, f"A publishable key may only be used for {WIDGET_METHOD} {WIDGET_PATH}."
        )
    origin, allowed = request.headers.get("Origin"), key.terms.allowed_origins
    if allowed and (origin is None or not is_allowed(origin, allowed)):
        raise ApiError(403, "This publishable key may not be used from this origin.")
    g.page = origin


def add_headers(response: Response, request: Request, allowed_origins: Collection[str]) -> None:
    """Tells a browser whether the page that asked may read the answer."""
    is_shared = _is_shared(request, allowed_origins)
    if not is_shared and request.path != WIDGET_PATH:
        return
    response.vary.add("Origin")
    origin = request.headers.get("Origin")
    if origin is None:
        return
    if g.get("page") == origin or (is_shared and is_allowed(origin, allowed_origins)):
        response.headers["Access-Control-Allow-Origin"] = origin
        response.headers["Access-Control-Expose-Headers"] = READABLE


def _is_shared(request: Request, allowed_origins: Collection[str]) -> bool:
    return bool(allowed_origins) and request.path.startswith(SHARED)
