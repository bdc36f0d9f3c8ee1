"""A job's life as its owner hears it: from the beginning, from the last event on, to the end."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import gevent
import orjson
import pytest
from flask.testing import FlaskClient
from sqlalchemy import text

from models import ids
from models.ids import Prefix
from models.session import transaction
from models.states import JobStatus
from tests.integration.web_world import Customer, Web, error_of, job_path
from web import events

QUICKLY_SECONDS = 8.0
"""More than the look that finds what nobody announced."""


@dataclass(frozen=True, slots=True)
class Heard:
    """One event of a stream."""

    id: int
    type: str
    data: dict[str, Any]


@pytest.fixture
def client(web: Web, customer: Customer) -> FlaskClient:
    return web.client(customer)


def listen(client: FlaskClient, job_id: UUID, last: int | None = None) -> Iterator[Heard]:
    """The events of a job as they come, comments left out."""
    headers = {} if last is None else {"Last-Event-ID": str(last)}
    response = client.get(job_path(job_id, "/events"), headers=headers)
    assert response.status_code == 200
    assert response.mimetype == "text/event-stream"
    assert response.headers["Cache-Control"] == "no-cache"
    for piece in response.iter_encoded():
        fields = dict(
            line.split(": ", 1) for line in piece.decode().splitlines() if line[:1] not in ("", ":")
        )
        if "event" in fields:
            data = orjson.loads(fields["data"])
            assert data["type"] == fields["event"]
            yield Heard(int(fields["id"]), fields["event"], data)


def put_into_batch(web: Web, job_id: UUID) -> UUID:
    """The job's first line, in a provider batch that has been submitted."""
    batch_id = ids.new()
    with transaction(web.engine) as session:
        session.execute(
            text(
                "INSERT INTO provider_batches (id, lane_id, status, external_id, request_count,"
                " body_bytes, submitted_at) SELECT :batch_id, lane_id, 'submitted', 'x', 1, 1,"
                " clock_timestamp() FROM jobs WHERE id = :job_id"
            ),
            {"batch_id": batch_id, "job_id": job_id},
        )
        session.execute(
            text(
                "INSERT INTO lines (job_id, round, batch_id, status)"
                " VALUES (:job_id, 1, :batch_id, 'open')"
            ),
            {"batch_id": batch_id, "job_id": job_id},
        )
        session.execute(
            text(
                "UPDATE jobs SET status = 'submitted', batch_id = :batch_id, round = 1,"
                " submitted_at = now() WHERE id = :job_id"
            ),
            {"batch_id": batch_id, "job_id": job_id},
        )
    return batch_id


def test_an_ended_jobs_life_is_told_from_the_beginning_and_the_stream_ends(
    web: Web, customer: Customer, client: FlaskClient
) -> None:
    job_id = web.submit(customer, custom_id="row-1", metadata={"team": "blue"})
    put_into_batch(web, job_id)
    web.end(job_id)
    heard = list(listen(client, job_id))
    assert [(each.id, each.type) for each in heard] == [
        (10, "job.queued"),
        (11, "job.submitted"),
        (19, "job.completed"),
    ]
    assert heard[-1].data["data"] == {
        "id": ids.show(Prefix.JOB, job_id),
        "completion_id": ids.show(Prefix.COMPLETION, job_id),
        "status": "completed",
        "custom_id": "row-1",
        "metadata": {"team": "blue"},
    }
    times = [each.data["created_at"] for each in heard]
    assert times == sorted(times)


@pytest.mark.parametrize(
    "status", [JobStatus.FAILED, JobStatus.CANCELLED, JobStatus.EXPIRED, JobStatus.COMPLETED]
)
def test_every_end_is_the_last_event(
    web: Web, customer: Customer, client: FlaskClient, status: JobStatus
) -> None:
    job_id = web.submit(customer)
    web.end(job_id, status)
    assert [each.type for each in listen(client, job_id)] == ["job.queued", f"job.{status}"]


def test_changes_are_told_as_they_happen(web: Web, customer: Customer, client: FlaskClient) -> None:
    job_id = web.submit(customer)
    heard: list[str] = []

    def hear() -> None:
        for each in listen(client, job_id):
            heard.append(each.type)

    listening = gevent.spawn(hear)
    gevent.sleep(0.3)
    put_into_batch(web, job_id)
    with gevent.Timeout(QUICKLY_SECONDS):
        while len(heard) < 2:
            gevent.sleep(0.05)
        web.end(job_id)
        listening.get()
    assert heard == ["job.queued", "job.submitted", "job.completed"]


def test_who_comes_back_hears_what_came_after_the_last_event(
    web: Web, customer: Customer, client: FlaskClient
) -> None:
    job_id = web.submit(customer)
    put_into_batch(web, job_id)
    web.end(job_id)
    assert [each.id for each in listen(client, job_id, last=10)] == [11, 19]
    assert [each.id for each in listen(client, job_id, last=11)] == [19]


def test_who_has_heard_the_end_is_told_not_to_come_back(
    web: Web, customer: Customer, client: FlaskClient
) -> None:
    job_id = web.submit(customer)
    web.end(job_id)
    response = client.get(job_path(job_id, "/events"), headers={"Last-Event-ID": "19"})
    assert (response.status_code, response.data) == (204, b"")


@pytest.mark.parametrize("last", ["x", "-1", "1.5", "9" * 5000, "", " "])
def test_an_id_that_no_event_has_is_a_bad_request(
    web: Web, customer: Customer, client: FlaskClient, last: str
) -> None:
    path = job_path(web.submit(customer), "/events")
    response = client.get(path, headers={"Last-Event-ID": last})
    assert error_of(response)["param"] == "Last-Event-ID"
    assert response.status_code == 400


def test_silence_is_broken_by_a_comment(
    web: Web, customer: Customer, client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "SILENCE_SECONDS", 0.1)
    response = client.get(job_path(web.submit(customer), "/events"))
    pieces = response.iter_encoded()
    with gevent.Timeout(QUICKLY_SECONDS):
        told = [next(pieces) for _ in range(4)]
    assert told[0].startswith(b"retry: ")
    assert told[1].startswith(b"id: 10\nevent: job.queued\n")
    assert told[2:] == [b": still here\n\n"] * 2
    response.close()


def test_streams_and_waits_end_when_the_process_stops(
    web: Web, customer: Customer, client: FlaskClient
) -> None:
    job_id = web.submit(customer)
    listening = gevent.spawn(lambda: [each.type for each in listen(client, job_id)])
    waiting = gevent.spawn(client.get, job_path(job_id, "?wait=25"))
    gevent.sleep(0.3)
    web.state.waiters.dismiss()
    with gevent.Timeout(QUICKLY_SECONDS):
        assert listening.get() == ["job.queued"]
        assert waiting.get().get_json()["status"] == "queued"
