"""A job's life as server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html).

What has happened already is told first, or what came after `Last-Event-ID`. Nobody is held to
this connection: whoever comes back with the last id misses nothing.
"""

import logging
import re
import time
from collections.abc import Iterator
from uuid import UUID

import gevent
import orjson
from flask import Blueprint, Response, request

from gateway.calls import history
from gateway.calls.history import History
from models import ids
from models.ids import Prefix
from web.auth import caller
from web.documented import EVENTS, Answer, Parameter, documented
from web.errors import ApiError
from web.objects import JobEvent, LastEventId
from web.serialisers import job_event_json
from web.state import State, state
from web.threads import DatabaseAway

log = logging.getLogger(__name__)

blueprint = Blueprint("events", __name__)

SILENCE_SECONDS = 15.0
RECONNECT_MILLISECONDS = 2000
AWAY_SECONDS = 1.0
COMMENT = b": still here\n\n"


@blueprint.get("/v1/jobs/<job_id>/events")
@documented(
    "Jobs",
    {
        200: Answer(
            "Events `job.queued`, `job.submitted`, `job.in_progress`, `job.escalated`, "
            "`job.cancelling` and the end, such as `job.completed`, each with an `id` and with a "
            "JobEvent as its data; a comment after 15 s of silence. Ends after the last event.",
            JobEvent,
            media_type=EVENTS,
            headers=("Cache-Control",),
        ),
        204: Answer("The last event has been told: there is nothing to come back for."),
    },
    parameters=(
        Parameter(
            "Last-Event-ID", LastEventId, "The id of the last event that was heard.", "header"
        ),
    ),
)
def job_events(job_id: str) -> Response:
    """Every change of the job's status, as it happens."""
    job_uuid, told = ids.parse(Prefix.JOB, job_id), _last_event_id()
    parts, account_id = state(), caller().account_id
    found = None if job_uuid is None else _read(parts, account_id, job_uuid)
    if found is None:
        raise ApiError(404, "There is no such job.")
    if found.is_final and found.changes[-1].position <= told:
        return Response(status=204)
    response = Response(_stream(parts, account_id, found, told), mimetype=EVENTS)
    response.headers["Cache-Control"] = "no-cache"
    # nginx, in front of us, would wait for more before it sends anything on.
    response.headers["X-Accel-Buffering"] = "no"
    return response


def _read(parts: State, account_id: UUID, job_id: UUID) -> History | None:
    return parts.readers.run(history.read, account_id, job_id)


def _last_event_id() -> int:
    text = request.headers.get("Last-Event-ID", "0")
    if not re.fullmatch("[0-9]{1,9}", text):
        raise ApiError(
            400, "'Last-Event-ID' must be the id of an event of this job.", param="Last-Event-ID"
        )
    return int(text)


def _stream(parts: State, account_id: UUID, seen: History, told: int) -> Iterator[bytes]:
    """The events after `told`, until the last one, or until the process stops."""
    yield b"retry: %d\n\n" % RECONNECT_MILLISECONDS
    spoken_at = time.monotonic()
    while True:
        for change in seen.changes:
            if change.position > told:
                told = change.position
                body = orjson.dumps(job_event_json(seen, change))
                yield b"id: %d\nevent: job.%s\ndata: %s\n\n" % (told, change.name.encode(), body)
                spoken_at = time.monotonic()
        if seen.is_final or parts.waiters.dismissed:
            return
        quiet_seconds = max(0.0, spoken_at + SILENCE_SECONDS - time.monotonic())
        parts.waiters.wait(seen.job_id, quiet_seconds, seen.version)
        if time.monotonic() - spoken_at >= SILENCE_SECONDS:
            yield COMMENT
            spoken_at = time.monotonic()
        seen = _read_again(parts, account_id, seen)


def _read_again(parts: State, account_id: UUID, seen: History) -> History:
    """The history now; what is known already while the database is away."""
    try:
        return _read(parts, account_id, seen.job_id) or seen
    except DatabaseAway:
        log.warning("events.database_away")
        gevent.sleep(AWAY_SECONDS)
        return seen
