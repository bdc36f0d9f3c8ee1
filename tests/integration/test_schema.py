"""The database holds every lifecycle to its table, and the migrations make what the tables say."""

from collections.abc import Iterator, Mapping
from enum import StrEnum
from itertools import product
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, create_engine, text
from sqlalchemy.exc import IntegrityError

from models import ids
from models.drift import drift
from models.migrate import head_revision, is_current, migrate, sqlalchemy_url
from models.states import (
    BATCH_TRANSITIONS,
    DELIVERY_TRANSITIONS,
    FINAL_JOB_STATUSES,
    HOLD_TRANSITIONS,
    JOB_TRANSITIONS,
    LINE_TRANSITIONS,
    BatchStatus,
    DeliveryStatus,
    HoldState,
    JobStatus,
    LineState,
)

# One row of each lifecycle, with whatever its other columns must hold for its state.
INSERTS = {
    "jobs": """
        INSERT INTO jobs (id, account_id, key_id, lane_id, status, endpoint, model, body_bytes,
                          standard_nanos, price_id, markup_bps, deadline_at, batch_id,
                          completed_at)
        VALUES (:id, :id, :id, 1, :status, 'e', 'm', 1, 2, 'p', 0, now(), :id, {completed_at})""",
    "provider_batches": """
        INSERT INTO provider_batches (id, lane_id, status, request_count, body_bytes, external_id,
                                      intent_at, intent_ref)
        VALUES (:id, 1, :status, 1, 1, CAST(:id AS text), now(), 'r')""",
    "lines": """
        INSERT INTO lines (job_id, round, batch_id, status) VALUES (:id, 1, :id, :status)""",
    "holds": """
        INSERT INTO holds (id, account_id, key_id, amount_nanos, status, resolved_at)
        VALUES (:id, :id, :id, 1, :status, {resolved_at})""",
    "deliveries": """
        INSERT INTO deliveries (id, event_id, url, status) VALUES (:id, :event_id, 'u', :status)""",
}
LIFECYCLES: dict[str, tuple[type[StrEnum], Mapping[Any, frozenset[Any]]]] = {
    "jobs": (JobStatus, JOB_TRANSITIONS),
    "provider_batches": (BatchStatus, BATCH_TRANSITIONS),
    "lines": (LineState, LINE_TRANSITIONS),
    "holds": (HoldState, HOLD_TRANSITIONS),
    "deliveries": (DeliveryStatus, DELIVERY_TRANSITIONS),
}


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    engine = create_engine(sqlalchemy_url(database_url))
    yield engine
    engine.dispose()


def insert(connection: Connection, table: str, status: StrEnum) -> dict[str, object]:
    """A row in this state; its id as a statement's parameters."""
    row = {"id": ids.new()}
    final = "now()" if status in FINAL_JOB_STATUSES else "NULL"
    resolved = "NULL" if status == HoldState.OPEN else "now()"
    parameters: dict[str, object] = {**row, "status": status.value}
    if table == "deliveries":
        parameters["event_id"] = connection.execute(
            text(
                "INSERT INTO events (id, account_id, type, job_id) "
                "VALUES (:id, :id, 't', :id) RETURNING id"
            ),
            {"id": ids.new()},
        ).scalar_one()
    statement = INSERTS[table].format(completed_at=final, resolved_at=resolved)
    connection.execute(text(statement), parameters)
    return dict(row)


def change(connection: Connection, table: str, row: dict[str, object], status: StrEnum) -> bool:
    """Whether the database lets the row take this state."""
    also = {
        "jobs": f", completed_at = {'now()' if status in FINAL_JOB_STATUSES else 'NULL'}",
        "holds": f", resolved_at = {'NULL' if status == HoldState.OPEN else 'now()'}",
    }
    key = "job_id" if table == "lines" else "id"
    statement = f"UPDATE {table} SET status = :status{also.get(table, '')} WHERE {key} = :id"
    savepoint = connection.begin_nested()
    try:
        connection.execute(text(statement), {**row, "status": status.value})
    except IntegrityError as error:
        savepoint.rollback()
        if f"{table} may not go from" not in str(error):
            raise
        return False
    savepoint.commit()
    return True


@pytest.mark.parametrize("table", sorted(LIFECYCLES))
def test_the_database_allows_every_legal_change_of_state_and_no_other(
    engine: Engine, table: str
) -> None:
    states, transitions = LIFECYCLES[table]
    with engine.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO lanes (provider, credential, endpoint, model) "
                "VALUES ('p', 'c', 'e', 'm')"
            )
        )
        for old, new in product(states, states):
            row = insert(connection, table, old)
            legal = old == new or new in transitions[old]
            assert change(connection, table, row, new) is legal, f"{old} > {new}"


@pytest.mark.parametrize("table", sorted(LIFECYCLES))
def test_every_state_has_its_row_in_the_transition_table(table: str) -> None:
    states, transitions = LIFECYCLES[table]
    assert set(transitions) == set(states)


@pytest.mark.parametrize("status", [HoldState.OPEN, HoldState.VOIDED, None])
def test_a_settlement_without_a_posted_hold_cannot_be_written(
    engine: Engine, status: HoldState | None
) -> None:
    with engine.connect() as connection:
        row = {"id": ids.new()} if status is None else insert(connection, "holds", status)
        posted, other = (insert(connection, "holds", HoldState.POSTED) for _ in range(2))
        settle = text(
            "INSERT INTO settlements (id, account_id, key_id, lane, provider, model, price_id, "
            "markup_bps, unpriced) SELECT id, id, id, 'batch', 'p', 'm', 'p', 0, true "
            "FROM unnest(CAST(:ids AS uuid[])) AS id"
        )
        connection.execute(settle, {"ids": [posted["id"]]})
        with pytest.raises(IntegrityError, match="a hold that has been posted"):
            connection.execute(settle, {"ids": [other["id"], row["id"]]})


@pytest.mark.parametrize("table", sorted(LIFECYCLES))
def test_a_state_that_nobody_knows_cannot_be_written(engine: Engine, table: str) -> None:
    class Unheard(StrEnum):
        OF = "unheard of"

    with engine.connect() as connection:
        connection.execute(text("INSERT INTO lanes VALUES (DEFAULT, 'p', 'c', 'e', 'm')"))
        with pytest.raises(IntegrityError, match=f"ck_{table}_status"):
            insert(connection, table, Unheard.OF)


def test_migrations_and_tables_agree(database_url: str) -> None:
    assert drift(database_url) == []


def test_drift_is_noticed(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.schema.TRIGGERS", ())
    differences = drift(database_url)
    assert any(line.startswith("- trigger") for line in differences)
    assert any(line.startswith("- function") for line in differences)


def test_migrating_again_does_nothing_and_a_newer_database_will_do(
    database_url: str, engine: Engine
) -> None:
    migrate(database_url)
    with engine.begin() as connection:
        assert is_current(connection)
        for revision, current in (("9999", True), (head_revision(), True)):
            connection.execute(
                text("UPDATE alembic_version SET version_num = :it"), {"it": revision}
            )
            assert is_current(connection) is current
