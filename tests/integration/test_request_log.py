"""The request log: one row a call and one a job, whatever becomes of it."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import gevent
import pytest
from sqlalchemy import Engine, Row, text

from gateway.analytics import partitions
from gateway.calls import request_log
from gateway.calls.record import Attempt, CallRecord
from gateway.catalogue.usage import Usage
from gateway.lanes import endings
from gateway.providers.dialect import Endpoint
from models import ids
from models.requests import partition_name
from models.session import connect, transaction
from tests.integration.lane_world import COST_NANOS, LINE_NANOS, World
from tests.integration.lane_world import opened as opened_world
from tests.integration.web_world import CHAT, CHAT_BODY, EMBEDDING_BODY, EMBEDDINGS, Web
from web.request_log import BUFFERED, RequestLog
from web.threads import Readers

TODAY = datetime.now(UTC).date()
WHATEVER = "request_log_default"


def record(**changes: Any) -> CallRecord:
    made = CallRecord(
        request_id="req_1",
        call_id=ids.new(),
        account_id=ids.new(),
        key_id=ids.new(),
        created_at=datetime.now(UTC),
        endpoint=Endpoint.CHAT_COMPLETIONS,
        model="openai/gpt-4o-mini",
        asked_model="gpt-4o-mini",
        provider="openai",
        lane="standard",
        streamed=True,
        http_status=200,
        usage=Usage(1, 2, 3, 4, 6, 5),
        cost_nanos=100,
        charged_nanos=110,
        unpriced=False,
        latency_milliseconds=250,
        first_token_milliseconds=50,
        attempts=(Attempt("openai", "gpt-4o-mini", 200, None, 240),),
    )
    return replace(made, **changes)


def rows(engine: Engine) -> list[Row[Any]]:
    with engine.connect() as connection:
        return list(connection.execute(text("SELECT * FROM request_log ORDER BY created_at")))


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    engine = connect(
        database_url.replace("postgresql://", "postgresql+psycopg://"), pool_size=2, name="log-test"
    )
    yield engine
    engine.dispose()


@pytest.fixture
def world(database_url: str) -> Iterator[World]:
    with opened_world(database_url) as world:
        yield world


@pytest.fixture
def drops() -> list[int]:
    return []


def test_a_call_is_written_once_however_often_its_set_is_repeated(engine: Engine) -> None:
    calls = [record(), record(usage=None, provider=None, attempts=(), http_status=502)]
    for group in (calls, calls[:1], [*calls, record()]):
        with transaction(engine) as session:
            request_log.write(session, group)
    found = {row.id: row for row in rows(engine)}
    assert len(found) == 3
    row = found[calls[0].call_id]
    assert row.created_at == calls[0].created_at + timedelta(milliseconds=250)
    assert (row.surface, row.lane, row.provider, row.model) == (
        "sync",
        "standard",
        "openai",
        "gpt-4o-mini",
    )
    assert (row.input_uncached, row.cache_read, row.cache_write, row.output, row.reasoning) == (
        1,
        2,
        7,
        6,
        5,
    )
    assert (row.charged_nanos, row.cost_nanos, row.attempts) == (110, 100, 1)
    assert (row.latency_milliseconds, row.first_token_milliseconds) == (250, 50)
    failed = found[calls[1].call_id]
    assert (failed.provider, failed.attempts, failed.output, failed.http_status) == (
        None,
        0,
        0,
        502,
    )


def test_synchronous_calls_come_into_the_log_by_themselves(web: Web) -> None:
    customer = web.customer()
    client = web.client(customer)
    assert client.post(CHAT, json=CHAT_BODY).status_code == 200
    assert client.post(EMBEDDINGS, json=EMBEDDING_BODY).status_code == 200
    web.state.request_log.close(5.0)
    found = rows(web.engine)
    assert {(row.endpoint, row.http_status, row.account_id) for row in found} == {
        (CHAT, 200, customer.account_id),
        (EMBEDDINGS, 200, customer.account_id),
    }
    web.settled()
    charged = web.column("SELECT charged_nanos FROM settlements")
    assert sorted(row.charged_nanos for row in found) == sorted(charged)


def test_a_job_leaves_one_row_when_it_ends_with_what_it_cost(world: World) -> None:
    job_ids = world.accept(3)
    world.cancel(job_ids[2])
    world.settle_down()
    with transaction(world.engine) as session:
        # Whoever comes later ends nothing, and writes nothing.
        assert endings.finish(session, [endings.expired(job_id) for job_id in job_ids]) == set()
    found = {row.id: row for row in rows(world.engine)}
    assert found.keys() == set(job_ids)
    done = found[job_ids[0]]
    assert (done.surface, done.lane, done.http_status, done.attempts) == ("async", "batch", 200, 1)
    assert (done.charged_nanos, done.cost_nanos) == (LINE_NANOS, COST_NANOS)
    assert done.input_uncached + done.output > 0
    cancelled = found[job_ids[2]]
    assert (cancelled.http_status, cancelled.attempts, cancelled.charged_nanos) == (409, 0, None)
    (ended,) = world.rows("SELECT created_at, completed_at FROM jobs WHERE id = :id", id=done.id)
    assert done.created_at == ended.completed_at
    took = (ended.completed_at - ended.created_at) / timedelta(milliseconds=1)
    assert done.latency_milliseconds == int(took)


def test_while_the_database_is_away_the_oldest_rows_are_dropped_and_counted(
    engine: Engine, drops: list[int]
) -> None:
    nowhere = connect(
        "postgresql+psycopg://nobody@127.0.0.1:1/nowhere", pool_size=1, name="nowhere"
    )
    log = RequestLog(Readers(nowhere), drops.append)
    first = record()
    log(first)
    gevent.sleep(0)
    kept = record()
    for _ in range(BUFFERED - 1):
        log(kept)
    assert drops == []
    log(kept)
    assert sum(drops) == 1
    log.close(1.0)
    assert sum(drops) == BUFFERED + 1
    assert rows(engine) == []


def test_a_database_that_comes_back_gets_the_rows_that_were_kept(
    web: Web, drops: list[int]
) -> None:
    web.state.readers.close(1.0)
    log = RequestLog(web.state.readers, drops.append)
    calls = [record() for _ in range(1200)]
    for call in calls:
        log(call)
    log.close(10.0)
    assert {row.id for row in rows(web.engine)} == {call.call_id for call in calls}
    assert drops == []


def test_rows_that_the_database_refuses_do_not_keep_the_others(web: Web, drops: list[int]) -> None:
    log = RequestLog(web.state.readers, drops.append)
    log(record(latency_milliseconds=2**40))
    log.close(5.0)
    good = record()
    log(good)
    log.close(5.0)
    assert [row.id for row in rows(web.engine)] == [good.call_id]
    assert sum(drops) == 1


def test_a_replayed_answer_is_no_second_call(web: Web, drops: list[int]) -> None:
    log = RequestLog(web.state.readers, drops.append)
    log(record(replayed=True))
    log.close(5.0)
    assert rows(web.engine) == []


def days(engine: Engine) -> list[str]:
    with engine.connect() as connection:
        names = connection.scalars(
            text(
                "SELECT inhrelid::regclass::text FROM pg_inherits"
                " WHERE inhparent = 'request_log'::regclass ORDER BY 1"
            )
        )
        return list(names)


@pytest.fixture
def kept(engine: Engine) -> Iterator[Engine]:
    """The log without partitions but the one for everything; they are gone again afterwards."""
    yield engine
    with engine.begin() as connection:
        for name in days(engine):
            if name != WHATEVER:
                connection.execute(text(f"DROP TABLE {name}"))


def partition_of(engine: Engine, call: CallRecord) -> str:
    with engine.connect() as connection:
        name: str = connection.execute(
            text("SELECT tableoid::regclass::text FROM request_log WHERE id = :id"),
            {"id": call.call_id},
        ).scalar_one()
    return name


def write(engine: Engine, day: date) -> CallRecord:
    noon = datetime(day.year, day.month, day.day, 12, tzinfo=UTC)
    call = record(created_at=noon)
    with transaction(engine) as session:
        request_log.write(session, [call])
    return call


def test_days_are_made_ahead_and_dropped_when_they_are_old(kept: Engine) -> None:
    assert partitions.keep(kept, TODAY) == (8, 0)
    assert partitions.keep(kept, TODAY) == (0, 0)
    coming = [partition_name(TODAY + timedelta(ahead)) for ahead in range(8)]
    assert days(kept) == [*coming, WHATEVER]
    call = write(kept, TODAY)
    assert partition_of(kept, call) == partition_name(TODAY)
    last_day = TODAY + timedelta(days=90)
    assert partitions.keep(kept, last_day) == (8, 0)
    assert [row.id for row in rows(kept)] == [call.call_id]
    assert partitions.keep(kept, last_day + timedelta(days=1)) == (1, 1)
    assert rows(kept) == []


def test_rows_of_a_day_without_a_partition_are_kept_and_hold_nothing_up(kept: Engine) -> None:
    early = write(kept, TODAY)
    assert partitions.keep(kept, TODAY) == (7, 0)
    assert partition_name(TODAY) not in days(kept)
    assert partition_of(kept, early) == WHATEVER
    assert partition_of(kept, write(kept, TODAY)) == WHATEVER
    tomorrow = TODAY + timedelta(days=1)
    assert partition_of(kept, write(kept, tomorrow)) == partition_name(tomorrow)
    old = TODAY - timedelta(days=92)
    write(kept, old)
    partitions.keep(kept, TODAY)
    assert old not in {row.created_at.date() for row in rows(kept)}
