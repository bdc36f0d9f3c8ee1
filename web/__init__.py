"""The door that lets requests in: the Flask app and its operator commands."""

import logging
import random
import sys
import time

from flask import Flask, Response, g, request

from gateway.house import build
from settings import Settings, SettingsError, load, logs
from web import (
    audit,
    auth,
    calls,
    commands,
    cors,
    docs,
    errors,
    events,
    jobs,
    keys,
    limits,
    models,
    money,
    neureus,
    neureus_models,
    operations,
    providers,
    usage,
    webhooks,
    widgets,
)
from web.auth import OPEN_ROUTES
from web.in_flight import InFlight
from web.metrics import DatabaseGauges, Metrics
from web.outbound import guarded_transport
from web.own_keys import OwnKeys
from web.request_log import RequestLog
from web.schemas import MAX_BODY_BYTES
from web.scopes import require_scope
from web.shared_bell import SharedBell
from web.state import EXTENSION, State, state
from web.threads import READERS, Readers
from web.waiters import Waiters
from web.writer import Writer

log = logging.getLogger(__name__)


def create_app(settings: Settings | None = None) -> Flask:
    """The app under these settings, or the environment's; exits with a sentence on a bad one."""
    try:
        settings = settings or load()
        house = build(settings, name="offpeak-web", pool_size=READERS + 1)
    except SettingsError as error:
        sys.exit(str(error))
    logs.configure(settings.log_level)
    app = Flask(__name__, static_folder=None)
    # A doubled slash is no route of ours, rather than a redirect that loses the body.
    app.url_map.merge_slashes = False
    # Werkzeug cuts a body of unknown length off here; the byte too many tells that it was longer.
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY_BYTES + 1
    readers = Readers(house.engine)
    metrics = Metrics(house.breakers)
    request_log = RequestLog(readers, metrics.observe_log_drops)
    app.extensions[EXTENSION] = State(
        house=house,
        writer=Writer(house.engine, metrics.observe_group),
        readers=readers,
        waiters=Waiters(settings.postgres_url),
        keys=auth.KeyRing(house.digest, readers),
        widget_keys=auth.WidgetKeyRing(house.widget_key_digest, readers),
        own_keys=OwnKeys(house, readers),
        bell=SharedBell(settings),
        in_flight=InFlight(),
        limiter=limits.limiter(settings),
        metrics=metrics,
        gauges=DatabaseGauges(readers),
        request_log=request_log,
        observers=[metrics.observe_call, request_log],
        webhook_transport=guarded_transport(settings.webhook_allow_private),
    )
    errors.register(app)
    for part in (
        calls,
        jobs,
        keys,
        audit,
        money,
        usage,
        events,
        models,
        neureus,
        neureus_models,
        providers,
        operations,
        webhooks,
        widgets,
        docs,
    ):
        app.register_blueprint(part.blueprint)
    commands.register(app)
    app.before_request(_enter)
    app.after_request(_leave)
    app.teardown_request(_forget)
    return app


def _enter() -> Response | None:
    g.began = time.monotonic()
    g.request_id = f"req_{random.getrandbits(128):032x}"
    parts = state()
    parts.in_flight.enter()
    if request.path in OPEN_ROUTES:
        return None
    preflight = cors.preflight(request, parts.house.settings.cors_allowed_origins)
    if preflight is not None:
        return preflight
    identity = auth.authenticate(parts.keys, parts.widget_keys, request)
    widget_key = auth.widget_key()
    if widget_key is not None:
        cors.check_use(widget_key, request)
    limits.limit(parts.limiter, identity, request, trust_proxy=parts.house.settings.trust_proxy)
    require_scope(identity, request)
    return None


def _leave(response: Response) -> Response:
    response.headers["X-Request-Id"] = g.request_id
    limits.add_headers(response)
    cors.add_headers(response, request, state().house.settings.cors_allowed_origins)
    route = request.url_rule.rule if request.url_rule is not None else None
    seconds = time.monotonic() - g.began
    state().metrics.observe_response(route, request.method, response.status_code, seconds)
    log.info(
        "request",
        extra={
            "request_id": g.request_id,
            "method": request.method,
            "route": route,
            "status": response.status_code,
            "ms": round(seconds * 1000, 1),
        },
    )
    return response


def _forget(_: BaseException | None) -> None:
    state().in_flight.leave()
