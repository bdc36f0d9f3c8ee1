"""Whether the service is well, its metrics, and the account's webhook secret."""

import hmac
from datetime import timedelta

import gevent
import orjson
from flask import Blueprint, Response, request
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from gateway.access import accounts
from gateway.analytics import gauges
from models import migrate
from web.auth import CHALLENGE, caller
from web.documented import Answer, documented
from web.errors import ApiError
from web.objects import Health, Readiness
from web.state import State, state
from web.threads import DatabaseAway
from web.webhook_objects import WebhookSecret
from workers.bell import Actor

blueprint = Blueprint("operations", __name__)

SLOWEST_TICK = timedelta(seconds=60)
CHECK_SECONDS = 3.0
OK, DEGRADED, DOWN = "ok", "degraded", "down"


@blueprint.get("/health")
@documented("Service", {200: Answer("It does.", Health)})
def health() -> Response:
    """The process answers."""
    return _json({"status": OK}, 200)


@blueprint.get("/ready")
@documented(
    "Service",
    {
        200: Answer("It can answer calls.", Readiness),
        503: Answer("The database or its migrations are not there.", Readiness),
    },
)
def ready() -> Response:
    """What the process needs, checked. Losing the doorbell or the clock degrades, not stops."""
    parts = state()
    checks = {**_check_database(parts), "redis": _check_redis(parts)}
    if checks["database"] != OK or checks["migrations"] != OK:
        return _json({"status": DOWN, "checks": checks}, 503)
    degraded = any(check != OK for check in checks.values())
    return _json({"status": DEGRADED if degraded else OK, "checks": checks}, 200)


@blueprint.get("/metrics")
@documented("Service", {200: Answer("The metrics.", more=("text/plain",))}, errors=(401, 403))
def metrics() -> Response:
    """Metrics in Prometheus's text format; its bearer token is METRICS_TOKEN."""
    parts = state()
    token = parts.house.settings.metrics_token
    if token is None:
        raise ApiError(403, "Metrics are off: METRICS_TOKEN is not set.")
    given = request.headers.get("Authorization", "")
    if not hmac.compare_digest(given.encode(), f"Bearer {token.get_secret_value()}".encode()):
        raise ApiError(401, "Invalid metrics token.", headers=CHALLENGE)
    parts.metrics.observe_limits(shared=parts.limiter.is_shared())
    body = parts.metrics.text() + parts.gauges.text()
    return Response(body, content_type=CONTENT_TYPE_LATEST)


@blueprint.get("/v1/webhook_secret")
@documented("Webhooks", {200: Answer("The secret.", WebhookSecret)})
def webhook_secret() -> Response:
    """The secret that the webhooks of the account's own jobs are signed with."""
    parts = state()
    secret = parts.readers.run(
        accounts.webhook_secret, parts.house.webhook_vault, caller().account_id
    )
    return _json({"object": "webhook_secret", "secret": secret}, 200)


def _check_redis(parts: State) -> str:
    """Degraded while this process counts requests alone, although Redis answers again."""
    if not parts.bell.is_heard():
        return DOWN
    return OK if parts.limiter.is_shared() else DEGRADED


def _check_database(parts: State) -> dict[str, str]:
    try:
        with gevent.Timeout(CHECK_SECONDS):
            return parts.readers.run(_inspect)
    except (DatabaseAway, SQLAlchemyError, gevent.Timeout):
        return {"database": DOWN, "migrations": DOWN, "scheduler": DOWN}


def _inspect(session: Session) -> dict[str, str]:
    current = migrate.is_current(session.connection())
    scheduler = DOWN
    if current:
        ages = gauges.tick_ages(session, [actor.value for actor in Actor]).values()
        scheduler = OK if ages and min(ages) < SLOWEST_TICK else DOWN
    return {"database": OK, "migrations": OK if current else DOWN, "scheduler": scheduler}


def _json(body: object, status: int) -> Response:
    return Response(orjson.dumps(body), status, mimetype="application/json")
