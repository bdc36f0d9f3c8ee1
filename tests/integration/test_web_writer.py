"""The writer: what arrives together is committed together, and fails alone."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID

import gevent
import orjson
import pytest
from sqlalchemy import event, text
from sqlalchemy.exc import DBAPIError
from werkzeug.test import TestResponse

from gateway.billing.ledger import Amounts, Charge
from gateway.calls.errors import InsufficientFunds
from gateway.calls.idempotency import KeyedCall, Stored
from gateway.calls.realtime import Call
from gateway.catalogue.usage import Usage
from gateway.providers.dialect import Endpoint
from models import ids
from models.session import transaction
from tests.integration.web_world import (
    ASYNC_BODY,
    CHAT,
    CHAT_BODY,
    Customer,
    Web,
    at_once,
)

TOKEN_NANOS = 600
"""gpt-4o-mini's output, $0.60 a million tokens."""
ANSWER = Stored(200, {}, b"{}")
SPOILS = "this one spoils the transaction"


def call_of(web: Web, customer: Customer, *, estimated_nanos: int = 1_000) -> Call:
    route = web.state.house.router.route(Endpoint.CHAT_COMPLETIONS, "gpt-4o-mini", CHAT_BODY)
    return Call(
        id=ids.new(),
        account_id=customer.account_id,
        key_id=customer.key_id,
        endpoint=Endpoint.CHAT_COMPLETIONS,
        route=route,
        body=dict(CHAT_BODY),
        estimated_nanos=estimated_nanos,
        markup_bps=0,
        expires_at=datetime.now(UTC) + timedelta(minutes=15),
    )


def charge_of(call: Call) -> Charge:
    return Charge(
        hold_id=call.id,
        lane="standard",
        provider="openai",
        model="gpt-4o-mini",
        price_id=call.route.offer.prices.digest,
        markup_bps=0,
        usage=Usage(output=1),
        amounts=Amounts(TOKEN_NANOS, TOKEN_NANOS, TOKEN_NANOS),
    )


@pytest.fixture
def spoiler(web: Web) -> Iterator[None]:
    """The database refuses jobs of one custom id, and only when they are to be committed."""
    with transaction(web.engine) as session:
        session.execute(
            text(
                "CREATE FUNCTION refuse_job() RETURNS trigger LANGUAGE plpgsql AS"
                " $$ BEGIN RAISE EXCEPTION 'refused'; END $$"
            )
        )
        session.execute(
            text(
                "CREATE CONSTRAINT TRIGGER refuse_job AFTER INSERT ON jobs DEFERRABLE"
                " INITIALLY DEFERRED FOR EACH ROW"
                f" WHEN (NEW.custom_id = '{SPOILS}') EXECUTE FUNCTION refuse_job()"
            )
        )
    yield
    with transaction(web.engine) as session:
        session.execute(text("DROP FUNCTION refuse_job CASCADE"))


@pytest.fixture
def durability(web: Web) -> Iterator[None]:
    """The database notes with what durability each hold and settlement is committed."""
    with transaction(web.engine) as session:
        session.execute(text("CREATE TABLE noted (what text, durability text)"))
        session.execute(
            text(
                "CREATE FUNCTION note_durability() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
                " INSERT INTO noted VALUES"
                " (TG_TABLE_NAME || ' ' || TG_OP, current_setting('synchronous_commit'));"
                " RETURN NULL; END $$"
            )
        )
        for table in ("holds", "jobs", "settlements", "idempotency_keys"):
            session.execute(
                text(
                    f"CREATE CONSTRAINT TRIGGER note_{table} AFTER INSERT OR UPDATE ON {table}"
                    " DEFERRABLE INITIALLY DEFERRED FOR EACH ROW"
                    " EXECUTE FUNCTION note_durability()"
                )
            )
    yield
    with transaction(web.engine) as session:
        session.execute(text("DROP FUNCTION note_durability CASCADE"))
        session.execute(text("DROP TABLE noted"))


def noted(web: Web) -> set[tuple[str, str]]:
    with web.engine.connect() as connection:
        return {(row.what, row.durability) for row in connection.execute(text("TABLE noted"))}


def test_many_acceptances_share_few_commits(web: Web, customer: Customer) -> None:
    def submit() -> TestResponse:
        return web.client(customer).post(CHAT, json=ASYNC_BODY)

    assert web.client(customer).get("/v1/models").status_code == 200  # the key is known now
    answers = at_once([submit] * 100)
    assert {each.status_code for each in answers} == {202}
    assert len({each.headers["Location"] for each in answers}) == 100
    assert web.count("jobs") == 100
    # The first is committed alone; what came in meanwhile shares the second transaction.
    (commits,) = web.column("SELECT count(DISTINCT xmin::text) FROM jobs")
    assert commits <= 3
    web.assert_books_are_clean()


def test_many_holds_and_settlements_share_few_commits(web: Web, customer: Customer) -> None:
    writer = web.state.writer
    calls = [call_of(web, customer) for _ in range(100)]
    assert at_once([partial(writer.begin, call) for call in calls]) == [None] * 100
    (commits,) = web.column("SELECT count(DISTINCT xmin::text) FROM holds")
    assert commits <= 3
    for call in calls:
        writer.settle(call, charge_of(call), ANSWER)
    web.settled()
    (commits,) = web.column("SELECT count(DISTINCT xmin::text) FROM settlements")
    assert commits <= 3
    assert web.count("settlements") == 100
    web.assert_books_are_clean()


def test_settlements_of_calls_that_end_one_after_the_other_share_a_commit(
    web: Web, customer: Customer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("web.writer.LINGER_SECONDS", 60.0)
    writer = web.state.writer
    calls = [call_of(web, customer) for _ in range(5)]
    for call in calls:
        writer.begin(call)
    for call in calls:
        writer.settle(call, charge_of(call), ANSWER)
        # In between the writer could have committed it alone.
        gevent.sleep(0.02)
    web.settled()
    (commits,) = web.column("SELECT count(DISTINCT xmin::text) FROM settlements")
    assert (web.count("settlements"), commits) == (5, 1)


def test_a_settlement_that_nobody_joins_is_written_soon(web: Web, customer: Customer) -> None:
    call = call_of(web, customer)
    web.state.writer.begin(call)
    web.state.writer.settle(call, charge_of(call), ANSWER)
    with gevent.Timeout(10):
        while not web.count("settlements"):
            gevent.sleep(0.02)


def test_a_keyed_call_is_settled_before_its_caller_hears_of_it(
    web: Web, customer: Customer
) -> None:
    call = call_of(web, customer)
    keyed = replace(call, keyed=KeyedCall(customer.account_id, "k", b"digest", call.id, None))
    web.state.writer.begin(keyed)
    web.state.writer.settle(keyed, charge_of(keyed), ANSWER)
    assert web.count("settlements") == 1


def test_draining_does_not_linger(
    web: Web, customer: Customer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("web.writer.LINGER_SECONDS", 60.0)
    call = call_of(web, customer)
    web.state.writer.begin(call)
    web.state.writer.settle(call, charge_of(call), ANSWER)
    gevent.sleep(0)
    assert web.count("settlements") == 0
    assert web.state.writer.drain(5)
    assert web.count("settlements") == 1


def test_more_than_one_group_holds_is_written_in_several(web: Web, customer: Customer) -> None:
    writer = web.state.writer
    calls = [call_of(web, customer) for _ in range(600)]
    at_once([partial(writer.begin, call) for call in calls])
    sizes = web.column("SELECT count(*) FROM holds GROUP BY xmin::text")
    assert sum(sizes) == 600
    assert max(sizes) <= 256
    for call in calls:
        writer.abandon(call)
    web.settled()
    assert web.column("SELECT DISTINCT status FROM holds") == ["voided"]


@pytest.mark.usefixtures("spoiler")
def test_one_that_spoils_the_transaction_does_not_fail_the_others(
    web: Web, customer: Customer
) -> None:
    def submit(number: int) -> TestResponse:
        custom_id = SPOILS if number == 17 else f"row-{number}"
        return web.client(customer).post(CHAT, json={**ASYNC_BODY, "custom_id": custom_id})

    answers = at_once([partial(submit, number) for number in range(40)])
    statuses = [each.status_code for each in answers]
    assert statuses == [500 if number == 17 else 202 for number in range(40)]
    assert sorted(web.column("SELECT custom_id FROM jobs")) == sorted(
        f"row-{number}" for number in range(40) if number != 17
    )
    # Parted by halves: not a transaction for each of them.
    (commits,) = web.column("SELECT count(DISTINCT xmin::text) FROM jobs")
    assert commits <= 12
    web.assert_books_are_clean()


@pytest.mark.usefixtures("spoiler")
def test_the_lane_of_a_refused_transaction_is_not_remembered(web: Web, customer: Customer) -> None:
    client = web.client(customer)
    assert client.post(CHAT, json={**ASYNC_BODY, "custom_id": SPOILS}).status_code == 500
    assert web.count("lanes") == 0
    assert client.post(CHAT, json=CHAT_BODY).status_code == 200
    assert client.post(CHAT, json=ASYNC_BODY).status_code == 202
    assert web.column("SELECT lane_id FROM jobs") == web.column("SELECT id FROM lanes")


def test_what_copy_refuses_fails_alone(web: Web, customer: Customer) -> None:
    good, bad = call_of(web, customer), call_of(web, customer)
    # Two holds under one id: COPY itself raises, not SQLAlchemy.
    assert web.state.writer.begin(bad) is None
    told: dict[UUID, object] = {}

    def begin(call: Call) -> None:
        try:
            told[call.id] = web.state.writer.begin(call)
        except Exception as error:
            told[call.id] = error

    at_once([partial(begin, call) for call in (call_of(web, customer), bad, good)])
    assert told[good.id] is None
    assert "duplicate key" in str(told[bad.id])
    assert web.count("holds") == 3


def test_who_cannot_pay_does_not_fail_the_others(web: Web) -> None:
    rich, poor = web.customer(), web.customer(credit_usd=0)

    def submit(customer: Customer) -> TestResponse:
        return web.client(customer).post(CHAT, json=ASYNC_BODY)

    answers = at_once([partial(submit, [rich, poor][number % 2]) for number in range(20)])
    assert [each.status_code for each in answers] == [202, 402] * 10
    assert set(web.column("SELECT account_id FROM jobs")) == {rich.account_id}


@pytest.mark.parametrize("body", [ASYNC_BODY, CHAT_BODY])
def test_a_hundred_calls_at_the_last_cent_spend_no_more_than_it(
    web: Web, body: dict[str, Any]
) -> None:
    lane = "batch" if body is ASYNC_BODY else "standard"
    ceiling = {"batch": 4_915_275, "standard": 9_830_550}[lane]
    affordable = 7
    customer = web.customer(credit_usd=(affordable * ceiling + ceiling - 1) / 10**9)
    if lane == "standard":
        calls = [call_of(web, customer, estimated_nanos=ceiling) for _ in range(100)]
        refused = 0

        def begin(call: Call) -> None:
            nonlocal refused
            try:
                web.state.writer.begin(call)
            except InsufficientFunds:
                refused += 1

        at_once([partial(begin, call) for call in calls])
        assert refused == 100 - affordable
    else:
        answers = at_once([partial(web.client(customer).post, CHAT, json=body)] * 100)
        assert sorted(each.status_code for each in answers) == [202] * 7 + [402] * 93
    assert web.available_nanos(customer) == ceiling - 1
    assert web.column("SELECT DISTINCT amount_nanos FROM holds") == [ceiling]
    assert web.count("holds") == affordable


@pytest.mark.usefixtures("durability")
def test_an_acceptance_is_durable(web: Web, customer: Customer) -> None:
    headers = {"Idempotency-Key": "k"}
    assert web.client(customer).post(CHAT, json=ASYNC_BODY, headers=headers).status_code == 202
    assert noted(web) == {
        ("holds INSERT", "on"),
        ("jobs INSERT", "on"),
        ("idempotency_keys INSERT", "on"),
    }


@pytest.mark.usefixtures("durability")
def test_a_hold_is_not_durable_and_its_settlement_is(web: Web, customer: Customer) -> None:
    headers = {"Idempotency-Key": "k"}
    assert web.client(customer).post(CHAT, json=CHAT_BODY, headers=headers).status_code == 200
    web.settled()
    assert noted(web) == {
        ("holds INSERT", "off"),
        ("idempotency_keys INSERT", "off"),
        ("holds UPDATE", "on"),
        ("settlements INSERT", "on"),
        ("idempotency_keys UPDATE", "on"),
    }


@pytest.mark.usefixtures("durability")
def test_releasing_a_hold_is_not_durable(web: Web, customer: Customer) -> None:
    call = call_of(web, customer)
    web.state.writer.begin(call)
    web.state.writer.abandon(call)
    web.settled()
    assert noted(web) == {("holds INSERT", "off"), ("holds UPDATE", "off")}


def test_durability_comes_back_with_the_next_transaction_of_a_connection(
    web: Web, customer: Customer
) -> None:
    call = call_of(web, customer)
    web.state.writer.begin(call)
    with web.state.house.engine.connect() as connection:
        assert connection.scalar(text("SHOW synchronous_commit")) == "on"


def test_acceptances_and_settlements_of_many_accounts_do_not_wait_for_each_other(
    web: Web,
) -> None:
    customers = [web.customer() for _ in range(10)]
    writer = web.state.writer
    begun = [call_of(web, customer) for customer in customers]
    at_once([partial(writer.begin, call) for call in begun])
    for call in reversed(begun):
        writer.settle(call, charge_of(call), ANSWER)
    calls = [call_of(web, customer) for customer in customers]
    beginning = [gevent.spawn(writer.begin, call) for call in calls]
    submitting = [gevent.spawn(web.submit, customer) for customer in customers]
    gevent.joinall(beginning, raise_error=True)
    gevent.joinall(submitting, raise_error=True)
    web.settled()
    # Each kind in transactions of its own: locks on balances are taken once, in order.
    kinds = web.column("SELECT xmin::text FROM jobs INTERSECT SELECT xmin::text FROM settlements")
    assert kinds == []
    assert (web.count("jobs"), web.count("settlements")) == (10, 10)
    web.assert_books_are_clean()


def test_a_price_is_written_once_a_process(web: Web, customer: Customer) -> None:
    written: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_rest: object) -> None:
        if "INTO prices" in statement:
            written.append(statement)

    event.listen(web.state.house.engine, "before_cursor_execute", note)
    for _ in range(3):
        web.submit(customer)
        assert web.client(customer).post(CHAT, json=CHAT_BODY).status_code == 200
        web.settled()
    assert len(written) == 2  # once by intake, once by settlements
    assert web.count("prices") == 1


def test_settling_twice_charges_once(web: Web, customer: Customer) -> None:
    before = web.available_nanos(customer)
    call = call_of(web, customer)
    web.state.writer.begin(call)
    for _ in range(2):
        web.state.writer.settle(call, charge_of(call), ANSWER)
        web.settled()
    assert web.available_nanos(customer) == before - TOKEN_NANOS
    web.assert_books_are_clean()


def test_a_call_that_was_abandoned_is_not_charged_afterwards(web: Web, customer: Customer) -> None:
    before = web.available_nanos(customer)
    call = call_of(web, customer)
    web.state.writer.begin(call)
    web.state.writer.abandon(call)
    web.settled()
    web.state.writer.settle(call, charge_of(call), ANSWER)
    web.settled()
    assert web.available_nanos(customer) == before
    assert web.count("settlements") == 0


def test_an_error_of_the_database_reaches_the_one_who_caused_it(
    web: Web, customer: Customer
) -> None:
    call = call_of(web, customer, estimated_nanos=-1)
    with pytest.raises(Exception, match="violates check constraint") as caught:
        web.state.writer.begin(call)
    assert isinstance(caught.value, DBAPIError) or type(caught.value).__module__ == "psycopg.errors"
    assert web.state.writer.begin(replace(call, estimated_nanos=1)) is None


def test_draining_waits_for_what_is_written_in_the_background(web: Web, customer: Customer) -> None:
    call = call_of(web, customer)
    web.state.writer.begin(call)
    with transaction(web.engine) as session:
        session.execute(text("SELECT 1 FROM holds FOR UPDATE"))
        web.state.writer.settle(call, charge_of(call), ANSWER)
        assert not web.state.writer.drain(0.2)
    assert web.state.writer.drain(5)
    assert web.count("settlements") == 1


def test_the_body_of_a_job_is_what_was_sent(web: Web, customer: Customer) -> None:
    texts = [f"{number} \x00 \U0001f319 \u2028" for number in range(20)]

    def submit(said: str) -> UUID:
        return web.submit(customer, messages=[{"role": "user", "content": said}])

    at_once([partial(submit, said) for said in texts])
    kept = [
        orjson.loads(body)["messages"][0]["content"]
        for body in web.column("SELECT body FROM job_bodies ORDER BY job_id")
    ]
    assert sorted(kept) == sorted(texts)


def test_the_writer_serves_on_after_an_error(web: Web, customer: Customer) -> None:
    for _ in range(3):
        with pytest.raises(Exception, match="violates check constraint"):
            web.state.writer.begin(call_of(web, customer, estimated_nanos=-1))
        assert web.state.writer.begin(call_of(web, customer)) is None
