"""The door that lets requests in: the Flask app and its operator commands."""

import logging
import sys
import time
from uuid import uuid4

from flask import Flask, Response, g, request

from gateway.house import build
from settings import Settings, SettingsError, load, logs
from web import auth, calls, commands, errors, jobs, models, operations
from web.in_flight import InFlight
from web.schemas import MAX_BODY_BYTES
from web.shared_bell import SharedBell
from web.state import EXTENSION, State, state
from web.threads import READERS, Readers
from web.waiters import Waiters
from web.writer import Writer

log = logging.getLogger(__name__)

OPEN_ROUTES = frozenset({"/health", "/ready"})
"""What needs no API key."""


def create_app(settings: Settings | None = None) -> Flask:
    """The app under these settings, or the environment's; exits with a sentence on a bad one."""
    if settings is None:
        try:
            settings = load()
        except SettingsError as error:
            sys.exit(str(error))
    logs.configure(settings.log_level)
    app = Flask(__name__, static_folder=None)
    # A doubled slash is no route of ours, rather than a redirect that loses the body.
    app.url_map.merge_slashes = False
    # Werkzeug cuts a body of unknown length off here; the byte too many tells that it was longer.
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY_BYTES + 1
    house = build(settings, name="offpeak-web", pool_size=READERS + 1)
    readers = Readers(house.engine)
    app.extensions[EXTENSION] = State(
        house=house,
        writer=Writer(house.engine),
        readers=readers,
        waiters=Waiters(settings.postgres_url),
        keys=auth.KeyRing(house.digest, readers),
        bell=SharedBell(settings),
        in_flight=InFlight(),
    )
    errors.register(app)
    for part in (calls, jobs, models, operations):
        app.register_blueprint(part.blueprint)
    commands.register(app)
    app.before_request(_enter)
    app.after_request(_leave)
    app.teardown_request(_forget)
    return app


def _enter() -> None:
    g.began = time.monotonic()
    g.request_id = f"req_{uuid4().hex}"
    state().in_flight.enter()
    if request.path not in OPEN_ROUTES:
        auth.authenticate(state().keys, request)


def _leave(response: Response) -> Response:
    response.headers["X-Request-Id"] = g.request_id
    log.info(
        "request",
        extra={
            "request_id": g.request_id,
            "method": request.method,
            "route": request.url_rule.rule if request.url_rule is not None else None,
            "status": response.status_code,
            "ms": round((time.monotonic() - g.began) * 1000, 1),
        },
    )
    return response


def _forget(_: BaseException | None) -> None:
    state().in_flight.leave()
