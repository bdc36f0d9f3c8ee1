"""Connections that the server has closed, as a transaction meets them."""

import os
import socket
from collections.abc import Iterator

import psycopg
import pytest
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from models.migrate import sqlalchemy_url
from models.session import connect, transaction
from tests.integration.database_proxy import DatabaseProxy

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


def test_a_server_that_is_gone_without_a_word_is_given_up_after_half_a_minute(
    database_url: str,
) -> None:
    with DatabaseProxy(database_url) as proxy:
        engine = connect(sqlalchemy_url(proxy.url), pool_size=1, name=NAME)
        with engine.connect() as connection:
            driver_connection = connection.connection.driver_connection
            assert isinstance(driver_connection, psycopg.Connection)
            with socket.socket(fileno=os.dup(driver_connection.pgconn.socket)) as wire:
                patience = wire.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
        engine.dispose()
    assert patience == 30_000
