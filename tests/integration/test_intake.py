"""Intake: many submissions of many accounts in one transaction, each for itself."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import event

from gateway.calls.errors import CallError, InsufficientFunds, KeyReused
from gateway.calls.idempotency import KeyedCall, Stored
from gateway.calls.intake import Intake, Submission
from gateway.providers.dialect import Endpoint
from models import ids
from models.session import transaction
from tests.integration.web_world import CHAT, CHAT_BODY, Customer, Web

HOUR = timedelta(hours=1)


def submission(web: Web, customer: Customer, **changes: Any) -> Submission:
    """A job's call, with an answer of its own."""
    job_id = ids.new()
    now = datetime.now(UTC)
    route = web.state.house.router.route(Endpoint.CHAT_COMPLETIONS, "gpt-4o-mini", CHAT_BODY)
    return replace(
        Submission(
            job_id=job_id,
            account_id=customer.account_id,
            key_id=customer.key_id,
            lane=("openai", "house", CHAT, "gpt-4o-mini"),
            model="gpt-4o-mini",
            body=b'{"messages":[]}',
            embedding_inputs=0,
            estimated_nanos=1_000,
            standard_nanos=2_000,
            prices=route.offer.prices,
            markup_bps=0,
            created_at=now,
            deadline_at=now + HOUR,
            custom_id=None,
            metadata=None,
            webhook=None,
            answer=Stored(202, {"Location": f"/v1/jobs/{job_id}"}, str(job_id).encode()),
        ),
        **changes,
    )


def keyed(asked: Submission, key: str, digest: bytes = b"d") -> Submission:
    """The same call under an idempotency key."""
    call = KeyedCall(asked.account_id, key, digest, asked.job_id, asked.answer)
    return replace(asked, keyed=call)


def accept(
    web: Web, submissions: list[Submission], intake: Intake | None = None
) -> list[Stored | CallError]:
    """Accepts and commits."""
    intake = intake or Intake()
    with transaction(web.engine) as session:
        told = intake.accept(session, submissions)
    intake.committed()
    return told


def jobs_of(web: Web) -> set[UUID]:
    return set(web.column("SELECT id FROM jobs"))


def test_each_submission_is_told_its_own_answer_in_order(web: Web) -> None:
    customers = [web.customer() for _ in range(3)]
    asked = [submission(web, customers[number % 3]) for number in range(30)]
    assert accept(web, asked) == [each.answer for each in asked]
    assert jobs_of(web) == {each.job_id for each in asked}
    assert web.column("SELECT DISTINCT status FROM jobs") == ["queued"]
    assert {web.available_nanos(each) for each in customers} == {10 * 10**9 - 10 * 1_000}
    web.assert_books_are_clean()


def test_a_job_is_kept_as_it_was_asked_for(web: Web, customer: Customer) -> None:
    asked = submission(
        web,
        customer,
        custom_id="row-1",
        metadata={"a": "ü"},
        webhook={"url": "https://example.com"},
        body=b'{"messages":[{"content":"\\u0000"}]}',
        embedding_inputs=3,
        markup_bps=1_250,
    )
    accept(web, [asked])
    with web.engine.connect() as connection:
        job = connection.exec_driver_sql(
            "SELECT jobs.*, job_bodies.body, lanes.provider, lanes.credential, holds.amount_nanos,"
            " holds.expires_at FROM jobs JOIN job_bodies ON job_id = id"
            " JOIN lanes ON lanes.id = lane_id JOIN holds ON holds.id = jobs.id"
        ).one()
    assert (job.account_id, job.key_id) == (customer.account_id, customer.key_id)
    assert (job.provider, job.credential, job.endpoint) == ("openai", "house", CHAT)
    assert (job.custom_id, job.metadata, job.webhook) == (
        asked.custom_id,
        asked.metadata,
        asked.webhook,
    )
    assert (bytes(job.body), job.body_bytes) == (asked.body, len(asked.body))
    assert (job.embedding_inputs, job.markup_bps) == (3, 1_250)
    assert (job.created_at, job.deadline_at) == (asked.created_at, asked.deadline_at)
    assert (job.amount_nanos, job.expires_at) == (1_000, None)
    assert job.price_id == asked.prices.digest
    assert (job.batch_id, job.submitted_at, job.completed_at) == (None, None, None)


def test_nothing_is_written_for_no_submissions(web: Web) -> None:
    assert accept(web, []) == []


def test_who_cannot_pay_is_refused_alone_and_in_order(web: Web) -> None:
    customer = web.customer(credit_usd=0.000_002_5)
    asked = [submission(web, customer) for _ in range(4)]
    told = accept(web, asked)
    assert told[:2] == [each.answer for each in asked[:2]]
    assert [type(each) for each in told[2:]] == [InsufficientFunds] * 2
    assert jobs_of(web) == {each.job_id for each in asked[:2]}
    assert web.available_nanos(customer) == 500


def test_a_cheaper_call_is_taken_after_one_that_was_too_dear(web: Web) -> None:
    customer = web.customer(credit_usd=0.000_001)
    dear = submission(web, customer, estimated_nanos=1_001)
    cheap = submission(web, customer, estimated_nanos=1_000)
    told = accept(web, [dear, cheap])
    assert isinstance(told[0], InsufficientFunds)
    assert told[1] == cheap.answer


def test_one_key_in_one_set_makes_one_job(web: Web, customer: Customer) -> None:
    asked = [keyed(submission(web, customer), "k") for _ in range(3)]
    told = accept(web, asked)
    assert len(jobs_of(web)) == 1
    bodies = {each.body for each in told if isinstance(each, Stored)}
    assert len(told) == 3
    assert bodies == {str(job_id).encode() for job_id in jobs_of(web)}


def test_one_key_and_two_bodies_in_one_set_make_one_job(web: Web, customer: Customer) -> None:
    asked = [keyed(submission(web, customer), "k", digest) for digest in (b"1", b"2")]
    told = accept(web, asked)
    assert sorted(type(each).__name__ for each in told) == ["KeyReused", "Stored"]
    assert len(jobs_of(web)) == 1


def test_nobody_is_told_of_a_job_that_could_not_be_paid(web: Web) -> None:
    poor = web.customer(credit_usd=0)
    asked = [keyed(submission(web, poor), "k") for _ in range(3)]
    assert [type(each) for each in accept(web, asked)] == [InsufficientFunds] * 3
    assert (web.count("jobs"), web.count("idempotency_keys"), web.count("holds")) == (0, 0, 0)


def test_a_key_of_an_earlier_set_is_answered_as_before(web: Web, customer: Customer) -> None:
    first, again, other = (submission(web, customer) for _ in range(3))
    accept(web, [keyed(first, "k")])
    told = accept(web, [keyed(again, "k"), keyed(other, "k", b"another")])
    assert isinstance(told[0], Stored)
    assert told[0].body == first.answer.body
    assert isinstance(told[1], KeyReused)
    assert jobs_of(web) == {first.job_id}


def test_the_same_key_of_two_accounts_is_two_keys(web: Web) -> None:
    asked = [keyed(submission(web, web.customer()), "k") for _ in range(2)]
    assert accept(web, asked) == [each.answer for each in asked]


def test_lanes_and_prices_are_written_once(web: Web, customer: Customer) -> None:
    intake = Intake()
    embedding = ("openai", "house", "/v1/embeddings", "text-embedding-3-small")
    for _ in range(3):
        asked = [submission(web, customer), submission(web, customer, lane=embedding)]
        accept(web, asked, intake)
    accept(web, [submission(web, customer)])
    assert (web.count("lanes"), web.count("prices")) == (2, 1)
    assert web.column("SELECT count(*) FROM jobs GROUP BY lane_id ORDER BY 1") == [3, 4]


def test_what_a_transaction_saw_is_forgotten_if_it_is_rolled_back(
    web: Web, customer: Customer
) -> None:
    intake = Intake()

    def roll_back() -> None:
        with transaction(web.engine) as session:
            intake.accept(session, [submission(web, customer)])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        roll_back()
    assert web.count("lanes") == 0
    accept(web, [], intake)
    accept(web, [submission(web, customer)], intake)
    assert web.column("SELECT lane_id FROM jobs") == web.column("SELECT id FROM lanes")
    assert web.column("SELECT price_id FROM jobs") == web.column("SELECT id FROM prices")


def test_the_statements_do_not_grow_with_the_number_of_submissions(
    web: Web, customer: Customer
) -> None:
    statements: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_rest: object) -> None:
        statements.append(statement)

    event.listen(web.engine, "before_cursor_execute", note)
    intake = Intake()
    sizes = []
    for number in (1, 2, 50):
        statements.clear()
        accept(
            web, [keyed(submission(web, customer), str(ids.new())) for _ in range(number)], intake
        )
        sizes.append(len(statements))
    assert sizes[1] == sizes[2] < sizes[0]
