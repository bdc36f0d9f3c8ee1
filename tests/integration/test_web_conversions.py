"""`Prefer: respond-async, wait=N`: an answer in time, or the running call becomes a job."""

from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest
from sqlalchemy import text
from werkzeug.test import TestResponse

from gateway.lanes import runs
from gateway.providers.dialect import Answer, ProviderError, Rejected
from models.session import transaction
from tests.contract.simulator_process import SimulatorProcess
from tests.integration.database_proxy import DatabaseProxy
from tests.integration.slow_dialect import CHARGED_NANOS, HURRY, SlowDialect, served_by
from tests.integration.web_world import CHAT, CHAT_BODY, Customer, Web, error_of, make_web

END_SECONDS = 10.0


class Counted(SlowDialect):
    """A slow provider that counts its calls."""

    calls = 0

    def call(self, *args: Any, **named: Any) -> Answer:
        self.calls += 1
        return super().call(*args, **named)


Serve = Callable[..., Counted]


@pytest.fixture
def serve(web: Web) -> Iterator[Serve]:
    """Makes a slow provider the one that is asked."""
    undone: list[Callable[[], None]] = []

    def start(**manner: Any) -> Counted:
        dialect = Counted(**manner)
        undone.append(served_by(web, dialect, HURRY))
        return dialect

    yield start
    for undo in undone:
        undo()


def post(web: Web, customer: Customer, *, key: str | None = None, **fields: Any) -> TestResponse:
    """A call whose caller waits a second."""
    headers = {"Prefer": "respond-async, wait=1"}
    if key is not None:
        headers["Idempotency-Key"] = key
    return web.client(customer).post(CHAT, json={**CHAT_BODY, **fields}, headers=headers)


def finish(web: Web) -> None:
    web.state.in_flight.finish(END_SECONDS)
    web.assert_books_are_clean()


def job_of(web: Web, customer: Customer, response: TestResponse) -> dict[str, Any]:
    job: dict[str, Any] = web.client(customer).get(response.headers["Location"]).get_json()
    return job


def test_an_answer_in_time_is_an_ordinary_one(web: Web, customer: Customer, serve: Serve) -> None:
    serve()
    response = post(web, customer)
    assert (response.status_code, response.headers["X-Lane"]) == (200, "standard")
    assert response.headers["Preference-Applied"] == "respond-async, wait=1"
    assert response.headers["X-Cost-Usd"]
    assert response.get_json()["object"] == "chat.completion"
    finish(web)
    assert (web.count("jobs"), web.count("settlements")) == (0, 1)


def test_a_call_that_takes_longer_becomes_a_job_and_is_made_and_charged_once(
    web: Web, customer: Customer, serve: Serve
) -> None:
    dialect = serve(first_seconds=1.4)
    response = post(web, customer, custom_id="row-1", metadata={"team": "blue"})
    assert response.status_code == 202
    assert response.headers["Preference-Applied"] == "respond-async, wait=1"
    assert response.headers["X-Lane"] == "standard"
    told = response.get_json()["job"]
    assert (told["status"], told["lane"], told["attempts"]) == ("in_progress", "standard", 1)
    assert (told["escalated"], told["escalation"], told["batch"]) == (False, None, None)
    assert job_of(web, customer, response) == told
    finish(web)
    job = job_of(web, customer, response)
    assert (job["status"], job["lane"], job["custom_id"]) == ("completed", "standard", "row-1")
    assert job["cost"]["state"] == "settled"
    assert job["cost"]["billed_usd"] == job["cost"]["list_usd"]
    assert job["result"]["id"] == job["completion_id"]
    assert job["result"]["model"] == CHAT_BODY["model"]
    assert web.column("SELECT charged_nanos FROM settlements") == [CHARGED_NANOS]
    assert dialect.calls == 1
    assert (web.count("jobs"), web.count("holds"), web.count("lines")) == (1, 1, 0)


def test_a_key_gives_the_job_again(web: Web, customer: Customer, serve: Serve) -> None:
    dialect = serve(first_seconds=1.3)
    first = post(web, customer, key="once")
    again = post(web, customer, key="once")
    assert (first.status_code, again.status_code) == (202, 202)
    assert first.data == again.data
    assert again.headers["Idempotent-Replayed"] == "true"
    finish(web)
    assert (web.count("jobs"), dialect.calls) == (1, 1)


def test_an_error_in_time_is_an_ordinary_one(web: Web, customer: Customer, serve: Serve) -> None:
    serve(error=Rejected("no such thing"))
    response = post(web, customer)
    assert (response.status_code, error_of(response)["type"]) == (400, "bad_request")
    finish(web)
    assert (web.count("jobs"), web.column("SELECT status FROM holds")) == (0, ["voided"])


def test_a_call_that_fails_after_it_became_a_job_is_made_again_by_a_worker(
    web: Web, customer: Customer, serve: Serve
) -> None:
    serve(first_seconds=1.3, error=ProviderError("gone"))
    response = post(web, customer)
    assert response.status_code == 202
    web.state.in_flight.finish(END_SECONDS)
    assert job_of(web, customer, response)["status"] == "in_progress"
    with transaction(web.engine) as session:
        (run,) = runs.claim(session, 10)
    assert (run.epoch, run.attempts, run.asked_model) == (2, 2, CHAT_BODY["model"])


def test_what_a_process_that_died_has_begun_is_made_again_when_its_lease_has_ended(
    web: Web, customer: Customer, serve: Serve
) -> None:
    serve(first_seconds=2.0)
    response = post(web, customer)
    assert response.status_code == 202
    with transaction(web.engine) as session:
        assert runs.claim(session, 10) == []
    with transaction(web.engine) as session:
        session.execute(text("UPDATE standard_runs SET leased_until = now() - interval '1 s'"))
    with transaction(web.engine) as session:
        (run,) = runs.claim(session, 10)
    assert run.epoch == 2
    web.state.in_flight.finish(END_SECONDS)
    # The first call's answer came after its lease was lost: it is the house's.
    assert job_of(web, customer, response)["status"] == "in_progress"
    assert web.column("SELECT kind FROM transfers WHERE kind <> 'deposit'") == ["unbilled_cost"]
    web.assert_books_are_clean()


@pytest.mark.parametrize("fields", [{"deadline": 10}, {"deadline": "299s"}])
def test_what_cannot_be_a_job_is_answered_however_long_it_takes(
    web: Web, customer: Customer, serve: Serve, fields: dict[str, Any]
) -> None:
    serve(first_seconds=0.1)
    response = post(web, customer, **fields)
    assert response.status_code == 200
    assert response.headers["X-Async-Ineligible"] == "deadline"


def test_what_may_cost_more_than_its_caller_allows_is_not_begun(
    web: Web, customer: Customer, serve: Serve
) -> None:
    dialect = serve()
    for prefer in ("respond-async, wait=5", "respond-async", "return=minimal"):
        response = web.client(customer, prefer=prefer).post(
            CHAT, json={**CHAT_BODY, "max_cost_usd": "0.000001"}
        )
        assert response.status_code == 422
        error = error_of(response)
        assert (error["type"], error["param"]) == ("unprocessable", "max_cost_usd")
    assert (dialect.calls, web.count("holds")) == (0, 0)


def test_the_most_that_a_job_may_cost_and_whether_it_may_escalate_are_kept_with_it(
    web: Web, customer: Customer
) -> None:
    body = {**CHAT_BODY, "prefer_async": True, "max_cost_usd": "0.5", "escalate": False}
    assert web.client(customer).post(CHAT, json=body).status_code == 202
    assert web.column("SELECT max_cost_nanos FROM jobs") == [500_000_000]
    assert web.column("SELECT escalate FROM jobs") == [False]
    # gpt-4o-mini costs twice as much in the standard lane.
    doubled = "SELECT standard_nanos = 2 * amount_nanos FROM jobs JOIN holds USING (id)"
    assert web.column(doubled) == [True]


def test_a_jobs_answer_is_kept_until_the_database_is_back(
    web: Web, customer: Customer, database_url: str, redis_url: str, provider: SimulatorProcess
) -> None:
    with DatabaseProxy(database_url) as proxy, make_web(proxy.url, redis_url, provider) as away:
        dialect = Counted(first_seconds=1.5)
        undo = served_by(away, dialect, HURRY)
        response = post(away, customer)
        assert response.status_code == 202
        proxy.cut()
        gevent.spawn_later(1.0, proxy.mend)
        away.state.in_flight.finish(END_SECONDS)
        undo()
    assert job_of(web, customer, response)["status"] == "completed"
    assert (dialect.calls, web.count("settlements")) == (1, 1)
    finish(web)
