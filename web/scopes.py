"""Which scope a key needs for which route: all of it, in one table.

A route that is not in the table needs `admin`: one that was forgotten is shut, not open.
"""

from collections.abc import Mapping

from flask import Request

from gateway.access.keys import Identity
from gateway.access.scopes import Scope
from web.errors import ApiError

SCOPES: Mapping[str, Scope | None] = {
    "POST /v1/chat/completions": Scope.INFERENCE,
    "GET /v1/chat/completions/<completion_id>": Scope.JOBS_READ,
    "POST /v1/embeddings": Scope.INFERENCE,
    "GET /v1/models": None,
    "GET /v1/models/<path:name>": None,
    "GET /v1/jobs": Scope.JOBS_READ,
    "GET /v1/jobs/<job_id>": Scope.JOBS_READ,
    "GET /v1/jobs/<job_id>/result": Scope.JOBS_READ,
    "GET /v1/jobs/<job_id>/events": Scope.JOBS_READ,
    "POST /v1/jobs/<job_id>/cancel": Scope.INFERENCE,
    "DELETE /v1/jobs/<job_id>": Scope.INFERENCE,
    "GET /v1/webhook_event_types": None,
    "GET /v1/webhook_secret": Scope.ADMIN,
    "GET /v1/webhook_endpoints": Scope.JOBS_READ,
    "POST /v1/webhook_endpoints": Scope.ADMIN,
    "GET /v1/webhook_endpoints/<endpoint_id>": Scope.JOBS_READ,
    "POST /v1/webhook_endpoints/<endpoint_id>": Scope.ADMIN,
    "DELETE /v1/webhook_endpoints/<endpoint_id>": Scope.ADMIN,
    "POST /v1/webhook_endpoints/<endpoint_id>/rotate_secret": Scope.ADMIN,
    "POST /v1/webhook_endpoints/<endpoint_id>/test": Scope.ADMIN,
    "GET /v1/webhook_endpoints/<endpoint_id>/deliveries": Scope.JOBS_READ,
    "POST /v1/webhook_endpoints/<endpoint_id>/recover": Scope.ADMIN,
    "POST /v1/webhook_deliveries/<delivery_id>/resend": Scope.ADMIN,
    "GET /v1/keys": Scope.ADMIN,
    "POST /v1/keys": Scope.ADMIN,
    "GET /v1/keys/<key_id>": Scope.ADMIN,
    "POST /v1/keys/<key_id>": Scope.ADMIN,
    "POST /v1/keys/<key_id>/rotate": Scope.ADMIN,
    "DELETE /v1/keys/<key_id>": Scope.ADMIN,
    "GET /v1/audit_log": Scope.ADMIN,
    "GET /v1/balance": Scope.BILLING_READ,
    "GET /v1/transactions": Scope.BILLING_READ,
    "GET /v1/usage": Scope.BILLING_READ,
    "GET /v1/costs": Scope.BILLING_READ,
    "POST /ai/chat": Scope.INFERENCE,
    "GET /ai/batch/<job_id>": Scope.JOBS_READ,
    "POST /ai/embeddings": Scope.INFERENCE,
    "GET /ai/models": None,
    "GET /ai/providers": Scope.ADMIN,
    "PUT /ai/providers/<provider>/key": Scope.ADMIN,
    "POST /ai/providers/<provider>/rotate": Scope.ADMIN,
    "DELETE /ai/providers/<provider>/key": Scope.ADMIN,
    "GET /ai/widget/key": Scope.ADMIN,
    "POST /ai/widget/key": Scope.ADMIN,
    "DELETE /ai/widget/key": Scope.ADMIN,
}
"""By method and rule; None: any key will do. What reads, by HEAD too, is under GET."""


def scope_of(method: str, rule: str) -> Scope | None:
    """The scope that a method of a route needs; None if any key will do."""
    if method == "OPTIONS":
        return None
    return SCOPES.get(f"{'GET' if method == 'HEAD' else method} {rule}", Scope.ADMIN)


def require_scope(identity: Identity, request: Request) -> None:
    """Raises the 403 for a key without its route's scope."""
    if request.url_rule is None:
        return
    scope = scope_of(request.method, request.url_rule.rule)
    if scope is not None and scope not in identity.scopes:
        raise ApiError(403, f"This API key lacks the scope '{scope}', which this route needs.")
