"""Whether the service is well, and the account's webhook secret."""

from datetime import timedelta

import gevent
import orjson
from flask import Blueprint, Response
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from gateway.access import accounts
from models import migrate
from web.auth import caller
from web.state import State, state
from web.threads import DatabaseAway

blueprint = Blueprint("operations", __name__)

SLOWEST_TICK = timedelta(seconds=60)
CHECK_SECONDS = 3.0
OK, DOWN = "ok", "down"
_LAST_TICK = text(
    "SELECT now() - max(created_at) FROM ticks WHERE created_at > now() - interval '1 hour'"
)


@blueprint.get("/health")
def health() -> Response:
    """The process answers."""
    return _json({"status": OK}, 200)


@blueprint.get("/ready")
def ready() -> Response:
    """What the process needs, checked. Losing the doorbell or the clock degrades, not stops."""
    parts = state()
    checks = {**_check_database(parts), "redis": OK if parts.bell.is_heard() else DOWN}
    if checks["database"] != OK or checks["migrations"] != OK:
        return _json({"status": DOWN, "checks": checks}, 503)
    degraded = any(check != OK for check in checks.values())
    return _json({"status": "degraded" if degraded else OK, "checks": checks}, 200)


@blueprint.get("/v1/webhook_secret")
def webhook_secret() -> Response:
    """The secret that the webhooks of the account's own jobs are signed with."""
    parts = state()
    secret = parts.readers.run(
        accounts.webhook_secret, parts.house.webhook_vault, caller().account_id
    )
    return _json({"object": "webhook_secret", "secret": secret}, 200)


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
        age = session.execute(_LAST_TICK).scalar_one()
        scheduler = OK if age is not None and age < SLOWEST_TICK else DOWN
    return {"database": OK, "migrations": OK if current else DOWN, "scheduler": scheduler}


def _json(body: object, status: int) -> Response:
    return Response(orjson.dumps(body), status, mimetype="application/json")
