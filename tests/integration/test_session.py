"""Connections that the server has closed, as a transaction meets them."""

from collections.abc import Iterator

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from models.migrate import sqlalchemy_url
from models.session import connect, transaction

NAME = "session-test"


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    engine = connect(sqlalchemy_url(database_url), pool_size=2, name=NAME)
    yield engine
    engine.dispose()


def backend_of(session: Session) -> int:
    return int(session.execute(text("SELECT pg_backend_pid()")).scalar_one())


def two_backends_of(engine: Engine) -> set[int]:
    with transaction(engine) as one, transaction(engine) as another:
        return {backend_of(one), backend_of(another)}


def test_connections_that_the_server_closed_are_replaced_before_use(
    engine: Engine, database_url: str
) -> None:
    both = two_backends_of(engine)
    other = connect(sqlalchemy_url(database_url), pool_size=1, name="another")
    with transaction(other) as session:
        ended = session.execute(
            text(
                "SELECT pid, pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
                " WHERE application_name = :name AND datname = current_database()"
            ),
            {"name": NAME},
        ).all()
    other.dispose()
    assert {pid for pid, is_gone in ended if is_gone} == both
    assert not two_backends_of(engine) & both


def test_a_connection_that_is_well_is_used_again(engine: Engine) -> None:
    assert two_backends_of(engine) == two_backends_of(engine)
