"""Jobs as their owner reads, awaits, lists, cancels and deletes them."""

import time
from collections.abc import Callable
from typing import Any
from uuid import UUID

import gevent
import orjson
import pytest
from flask.testing import FlaskClient
from sqlalchemy import event, text
from werkzeug.test import TestResponse

from models import ids
from models.ids import Prefix
from models.session import transaction
from models.states import JobStatus
from tests.integration.web_world import (
    ASYNC_BODY,
    CHARGED_NANOS,
    CHAT_BODY,
    COMPLETION,
    EMBEDDING_BODY,
    EMBEDDINGS,
    Customer,
    Web,
    at_once,
    error_of,
    job_path,
    job_uuid,
)

ENDS = [
    (JobStatus.FAILED, 400, "bad_request"),
    (JobStatus.CANCELLED, 409, "conflict"),
    (JobStatus.EXPIRED, 504, "upstream_timeout"),
]
QUICKLY_SECONDS = 2.0
"""Less than the look that makes up for a lost notification."""


@pytest.fixture
def client(web: Web, customer: Customer) -> FlaskClient:
    return web.client(customer)


def completion_path(job_id: UUID) -> str:
    return f"/v1/chat/completions/{ids.show(Prefix.COMPLETION, job_id)}"


def shown_ids(response: TestResponse) -> list[str]:
    assert response.status_code == 200, response.text
    body = response.get_json()
    assert body["object"] == "list"
    shown: list[str] = [job["id"] for job in body["data"]]
    assert body["first_id"] == (shown[0] if shown else None)
    assert body["last_id"] == (shown[-1] if shown else None)
    return shown


def names(job_ids: list[UUID]) -> list[str]:
    return [ids.show(Prefix.JOB, job_id) for job_id in job_ids]


def move(web: Web, job_id: UUID, status: JobStatus) -> None:
    """Puts a job into a provider batch of that status, as far as its row tells."""
    with transaction(web.engine) as session:
        session.execute(
            text("UPDATE jobs SET status = :status, batch_id = :batch_id WHERE id = :id"),
            {"status": status.value, "batch_id": ids.new(), "id": job_id},
        )


def test_a_completed_job_gives_its_result_to_the_byte(
    web: Web, customer: Customer, client: FlaskClient
) -> None:
    job_id = web.submit(customer)
    web.end(job_id)
    for path in (job_path(job_id, "/result"), completion_path(job_id)):
        response = client.get(path)
        assert (response.status_code, response.data) == (200, COMPLETION)
        assert response.mimetype == "application/json"
        assert response.headers["X-Lane"] == "batch"
        assert response.headers["X-Cost-Usd"] == "0.000003"
        assert "x-should-retry" not in response.headers
    job = client.get(job_path(job_id)).get_json()
    assert (job["status"], job["result"], job["error"]) == (
        "completed",
        orjson.loads(COMPLETION),
        None,
    )
    assert job["cost"]["billed_usd"] == "0.000003"
    assert job["cost"]["savings_usd"] == "0.000003"
    assert job["completed_at"] >= job["created_at"]


def test_a_job_without_an_end_is_a_202(web: Web, customer: Customer, client: FlaskClient) -> None:
    job_id = web.submit(customer)
    for path in (job_path(job_id, "/result"), completion_path(job_id)):
        response = client.get(path)
        assert response.status_code == 202
        assert response.headers["Retry-After"] == "30"
        assert response.headers["X-Lane"] == "batch"
        assert response.get_json()["choices"][0]["message"]["content"] is None
    job = client.get(job_path(job_id))
    assert (job.status_code, job.get_json()["status"]) == (200, "queued")


@pytest.mark.parametrize(("status", "http_status", "type_"), ENDS)
def test_a_job_that_ended_otherwise_answers_its_error_and_is_not_to_be_retried(
    web: Web,
    customer: Customer,
    client: FlaskClient,
    status: JobStatus,
    http_status: int,
    type_: str,
) -> None:
    job_id = web.submit(customer)
    web.end(job_id, status)
    for path in (job_path(job_id, "/result"), completion_path(job_id)):
        response = client.get(path)
        assert response.status_code == http_status
        assert error_of(response)["type"] == type_
        assert response.headers["x-should-retry"] == "false"
    job = client.get(job_path(job_id))
    assert job.status_code == 200
    assert job.get_json()["status"] == status
    assert job.get_json()["result"] is None
    assert job.get_json()["error"]["code"] == http_status
    assert job.get_json()["cost"]["state"] == "released"


def test_a_jobs_statuses_are_shown(web: Web, customer: Customer, client: FlaskClient) -> None:
    job_id = web.submit(customer)
    for status in (JobStatus.SUBMITTED, JobStatus.IN_PROGRESS, JobStatus.CANCELLING):
        move(web, job_id, status)
        job = client.get(job_path(job_id)).get_json()
        assert job["status"] == status
        assert job["batch"]["id"].startswith("pbatch_")
        assert job["batch"]["provider"] == "openai"


@pytest.mark.parametrize(
    "path",
    [
        f"/v1/jobs/job_{'0' * 32}",
        f"/v1/jobs/job_{'0' * 32}/result",
        f"/v1/chat/completions/chatcmpl-{'0' * 32}",
        "/v1/jobs/job_1",
        "/v1/jobs/x",
        f"/v1/jobs/chatcmpl-{'0' * 32}",
        f"/v1/chat/completions/job_{'0' * 32}",
        f"/v1/jobs/job_{'A' * 32}",
        "/v1/jobs/%00",
        "/v1/chat/completions/chatcmpl-abc123",
    ],
)
def test_what_is_no_job_is_not_found(client: FlaskClient, path: str) -> None:
    response = client.get(path)
    assert response.status_code == 404
    assert error_of(response)["type"] == "not_found"


def test_a_waiting_caller_is_woken_by_the_notification(
    web: Web, customer: Customer, client: FlaskClient
) -> None:
    job_id = web.submit(customer)

    def end_soon() -> None:
        gevent.sleep(0.3)
        web.end(job_id)

    def wait() -> tuple[TestResponse, float]:
        began = time.monotonic()
        return client.get(job_path(job_id, "?wait=25")), time.monotonic() - began

    waiting, ending = gevent.spawn(wait), gevent.spawn(end_soon)
    ending.get()
    response, seconds = waiting.get()
    assert response.get_json()["status"] == "completed"
    assert 0.3 <= seconds < QUICKLY_SECONDS


def test_many_wait_with_few_queries(web: Web, customer: Customer) -> None:
    job_ids = [web.submit(customer) for _ in range(40)]
    reads = 0

    def note(_connection: object, _cursor: object, statement: str, *_rest: object) -> None:
        nonlocal reads
        reads += "FROM jobs" in statement

    event.listen(web.state.house.engine, "before_cursor_execute", note)

    def wait(job_id: UUID) -> Callable[[], TestResponse]:
        return lambda: web.client(customer).get(job_path(job_id, "?wait=25"))

    def end_all() -> TestResponse:
        with gevent.Timeout(10):
            while reads < len(job_ids):
                gevent.sleep(0.05)
        # From the read to the wait it is a moment more.
        gevent.sleep(0.5)
        for job_id in job_ids:
            web.end(job_id)
        return web.client(customer).get("/v1/jobs")

    began = time.monotonic()
    responses = at_once([*map(wait, job_ids), end_all])
    assert time.monotonic() - began < 10
    assert {each.get_json()["status"] for each in responses[:-1]} == {"completed"}
    # One read before and one after each wait, and the list at the end.
    assert reads == 2 * len(job_ids) + 1


def test_a_wait_ends_with_its_time(web: Web, customer: Customer, client: FlaskClient) -> None:
    job_id = web.submit(customer)
    began = time.monotonic()
    response = client.get(job_path(job_id, "?wait=1"))
    assert (response.status_code, response.get_json()["status"]) == (200, "queued")
    assert 1.0 <= time.monotonic() - began < 2.0


@pytest.mark.parametrize("wait", ["25", "26", "3600"])
def test_nobody_waits_for_a_job_that_has_ended(
    web: Web, customer: Customer, client: FlaskClient, wait: str
) -> None:
    job_id = web.submit(customer)
    web.end(job_id)
    began = time.monotonic()
    response = client.get(job_path(job_id, f"?wait={wait}"))
    assert response.get_json()["status"] == "completed"
    assert time.monotonic() - began < 1.0


def test_the_end_of_one_job_does_not_wake_who_waits_for_another(
    web: Web, customer: Customer, client: FlaskClient
) -> None:
    awaited, other = web.submit(customer), web.submit(customer)
    waiting = gevent.spawn(lambda: client.get(job_path(awaited, "?wait=25")))
    gevent.sleep(0.3)
    web.end(other)
    gevent.sleep(0.5)
    assert not waiting.ready()
    web.end(awaited)
    assert waiting.get(timeout=QUICKLY_SECONDS).get_json()["status"] == "completed"


def test_a_waiter_survives_the_loss_of_its_connection(
    web: Web, customer: Customer, client: FlaskClient
) -> None:
    job_id = web.submit(customer)
    waiting = gevent.spawn(lambda: client.get(job_path(job_id, "?wait=25")))
    gevent.sleep(0.3)
    killed = web.column(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE application_name = 'offpeak-web-listen' AND datname = current_database()"
    )
    assert killed == [True]
    web.end(job_id)
    assert waiting.get(timeout=10).get_json()["status"] == "completed"


def test_a_list_is_paged_newest_first(web: Web, customer: Customer, client: FlaskClient) -> None:
    newest_first = names([web.submit(customer) for _ in range(7)])[::-1]
    first = client.get("/v1/jobs?limit=3")
    assert shown_ids(first) == newest_first[:3]
    assert first.get_json()["has_more"] is True
    second = client.get(f"/v1/jobs?limit=3&after={newest_first[2]}")
    assert shown_ids(second) == newest_first[3:6]
    assert second.get_json()["has_more"] is True
    third = client.get(f"/v1/jobs?limit=3&after={newest_first[5]}")
    assert shown_ids(third) == newest_first[6:]
    assert third.get_json()["has_more"] is False
    assert shown_ids(client.get(f"/v1/jobs?after={newest_first[6]}")) == []
    assert shown_ids(client.get("/v1/jobs?limit=100")) == newest_first
    oldest_first = newest_first[::-1]
    assert shown_ids(client.get("/v1/jobs?order=asc&limit=2")) == oldest_first[:2]
    page = client.get(f"/v1/jobs?order=asc&limit=2&after={oldest_first[1]}")
    assert shown_ids(page) == oldest_first[2:4]


def test_a_list_has_twenty_jobs_unless_asked(
    web: Web, customer: Customer, client: FlaskClient
) -> None:
    at_once([lambda: web.submit(customer) for _ in range(21)])
    page = client.get("/v1/jobs")
    assert len(shown_ids(page)) == 20
    assert page.get_json()["has_more"] is True
    assert len(shown_ids(client.get("/v1/jobs?limit=21"))) == 21
    assert client.get("/v1/jobs?limit=21").get_json()["has_more"] is False


def test_an_empty_list_is_a_list(client: FlaskClient) -> None:
    assert client.get("/v1/jobs").get_json() == {
        "object": "list",
        "data": [],
        "first_id": None,
        "last_id": None,
        "has_more": False,
    }


def test_a_list_is_filtered(web: Web, customer: Customer, client: FlaskClient) -> None:
    mini = web.submit(customer, metadata={"team": "blue", "run": "1"})
    other = web.submit(customer, model="gpt-4o", metadata={"team": "red", "run": "1"})
    plain = web.submit(customer)
    web.end(plain, JobStatus.FAILED)
    for query, expected in (
        ("status=queued", [other, mini]),
        ("status=failed", [plain]),
        ("status=completed", []),
        ("model=gpt-4o", [other]),
        ("model=openai/gpt-4o-mini", [plain, mini]),
        ("model=unheard-of", []),
        ("metadata[team]=blue", [mini]),
        ("metadata[run]=1", [other, mini]),
        ("metadata[run]=1&metadata[team]=red", [other]),
        ("metadata[team]=blue&metadata[run]=2", []),
        ("metadata%5Bteam%5D=blue", [mini]),
        ("metadata[nothing]=", []),
        ("metadata[run]=1&status=queued&model=gpt-4o", [other]),
    ):
        assert shown_ids(client.get(f"/v1/jobs?{query}")) == names(expected), query


def test_a_list_shows_errors_always_and_results_only_if_asked(
    web: Web, customer: Customer, client: FlaskClient
) -> None:
    done, failed = web.submit(customer), web.submit(customer)
    web.end(done)
    web.end(failed, JobStatus.FAILED)
    named = ",".join(names([done, failed]))
    for path in ("/v1/jobs?", f"/v1/jobs?ids={named}"):
        newest, oldest = client.get(path).get_json()["data"]
        assert newest["error"]["message"] == "The provider said no."
        assert (oldest["result"], oldest["error"]) == (None, None)
        for include in ("include=result", "include[]=result"):
            newest, oldest = client.get(f"{path}&{include}").get_json()["data"]
            assert newest["error"]["message"] == "The provider said no."
            assert oldest["result"] == orjson.loads(COMPLETION)


@pytest.mark.parametrize(
    "query", ["metadata=1", "metadata[]=1", "metadata[a][b]=1", "metadata[a=1", "metadata[%00]=1"]
)
def test_metadata_is_asked_for_by_key(client: FlaskClient, query: str) -> None:
    response = client.get(f"/v1/jobs?{query}")
    assert response.status_code == 400
    assert error_of(response)["param"] == "metadata"


def test_named_jobs_are_found_and_the_rest_is_left_out(
    web: Web, customer: Customer, client: FlaskClient
) -> None:
    mine = [web.submit(customer) for _ in range(3)]
    foreign = web.submit(web.customer())
    asked = [*names([*mine[:2], foreign]), f"job_{'0' * 32}", "x", "", *names(mine[:1])]
    response = client.get(f"/v1/jobs?ids={','.join(asked)}")
    assert shown_ids(response) == names([mine[1], mine[0]])
    assert response.get_json()["has_more"] is False


def test_a_page_cannot_begin_after_a_job_that_is_not_ones_own(
    web: Web, customer: Customer, client: FlaskClient
) -> None:
    web.submit(customer)
    foreign = web.submit(web.customer())
    for after in (*names([foreign]), f"job_{'0' * 32}"):
        response = client.get(f"/v1/jobs?after={after}")
        assert response.status_code == 404
        assert error_of(response)["param"] == "after"


def test_a_job_that_waits_is_cancelled_at_once_and_free(
    web: Web, customer: Customer, client: FlaskClient
) -> None:
    before = web.available_nanos(customer)
    job_id = web.submit(customer)
    response = client.post(job_path(job_id, "/cancel"))
    assert response.status_code == 200
    job = response.get_json()
    assert (job["status"], job["cost"]["state"]) == ("cancelled", "released")
    assert web.available_nanos(customer) == before
    again = client.post(job_path(job_id, "/cancel"))
    assert again.status_code == 409
    assert error_of(again)["type"] == "conflict"
    assert again.headers["x-should-retry"] == "false"
    web.assert_books_are_clean()


def test_cancelling_wakes_who_waits(web: Web, customer: Customer, client: FlaskClient) -> None:
    job_id = web.submit(customer)
    waiting = gevent.spawn(lambda: client.get(job_path(job_id, "?wait=25")))
    gevent.sleep(0.3)
    client.post(job_path(job_id, "/cancel"))
    assert waiting.get(timeout=QUICKLY_SECONDS).get_json()["status"] == "cancelled"


def test_cancelling_tells_the_jobs_webhook(
    web: Web, customer: Customer, client: FlaskClient
) -> None:
    job_id = web.submit(customer, webhook={"url": "http://127.0.0.1:9/hook"})
    client.post(job_path(job_id, "/cancel"))
    assert web.column("SELECT type FROM events WHERE job_id = :id", id=job_id) == ["job.cancelled"]


@pytest.mark.parametrize("status", [JobStatus.SUBMITTED, JobStatus.IN_PROGRESS])
def test_a_job_in_a_provider_batch_is_asked_to_stop(
    web: Web, customer: Customer, client: FlaskClient, status: JobStatus
) -> None:
    job_id = web.submit(customer)
    move(web, job_id, status)
    for _ in range(2):
        response = client.post(job_path(job_id, "/cancel"))
        assert (response.status_code, response.get_json()["status"]) == (200, "cancelling")
    assert response.get_json()["cost"]["state"] == "held"
    web.end(job_id)
    delivered = client.get(job_path(job_id)).get_json()
    assert (delivered["status"], delivered["cost"]["state"]) == ("completed", "settled")


@pytest.mark.parametrize("status", [JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.EXPIRED])
def test_a_job_that_has_ended_cannot_be_cancelled(
    web: Web, customer: Customer, client: FlaskClient, status: JobStatus
) -> None:
    job_id = web.submit(customer)
    web.end(job_id, status)
    assert client.post(job_path(job_id, "/cancel")).status_code == 409
    assert client.get(job_path(job_id)).get_json()["status"] == status


@pytest.mark.parametrize("status", [JobStatus.COMPLETED, JobStatus.FAILED])
def test_deleting_removes_the_texts_and_keeps_the_bill(
    web: Web, customer: Customer, client: FlaskClient, status: JobStatus
) -> None:
    job_id = web.submit(customer)
    web.end(job_id, status)
    before = client.get(job_path(job_id)).get_json()
    for _ in range(2):
        response = client.delete(job_path(job_id))
        assert response.status_code == 200
        assert response.get_json() == {"id": before["id"], "object": "job", "deleted": True}
    assert (web.count("job_bodies"), web.count("job_results")) == (0, 0)
    assert client.get(job_path(job_id)).get_json() == {**before, "result": None, "error": None}
    for path in (job_path(job_id, "/result"), completion_path(job_id)):
        gone = client.get(path)
        assert (gone.status_code, gone.headers["x-should-retry"]) == (404, "false")
    assert web.column("SELECT sum(charged_nanos)::int FROM settlements") == [
        CHARGED_NANOS if status is JobStatus.COMPLETED else None
    ]


def test_a_job_that_has_not_ended_cannot_be_deleted(
    web: Web, customer: Customer, client: FlaskClient
) -> None:
    job_id = web.submit(customer)
    response = client.delete(job_path(job_id))
    assert response.status_code == 409
    assert error_of(response)["type"] == "conflict"
    assert web.count("job_bodies") == 1


def test_a_job_is_read_by_every_key_of_its_account_only(web: Web, customer: Customer) -> None:
    job_id = web.submit(customer)
    assert web.client(customer).get(job_path(job_id)).status_code == 200
    assert web.client(web.customer()).get(job_path(job_id)).status_code == 404
    assert web.client(None).get(job_path(job_id)).status_code == 401


def test_embeddings_are_read_like_any_job(client: FlaskClient) -> None:
    response = client.post(EMBEDDINGS, json={**EMBEDDING_BODY, "prefer_async": True})
    job_id = job_uuid(response)
    pending = client.get(job_path(job_id, "/result"))
    assert (pending.status_code, pending.get_json()) == (202, response.get_json())


def test_a_retired_or_bare_name_is_repeated_as_it_was_written(
    web: Web, client: FlaskClient
) -> None:
    bodies: list[dict[str, Any]] = [
        {**CHAT_BODY, "model": "gpt-4o-mini"},
        {**ASYNC_BODY, "model": "GPT-4o-Mini"},
        {**ASYNC_BODY, "model": "gpt-4-turbo"},
    ]
    for body in bodies:
        answer = client.post("/v1/chat/completions", json=body)
        assert answer.status_code in (200, 202), answer.text
        assert answer.get_json()["model"] == body["model"]
    assert web.column("SELECT model FROM lanes ORDER BY model") == ["gpt-4o-mini", "gpt-6.1-terra"]
