"""Sets of ids on their way to PostgreSQL."""

from collections.abc import Iterator
from uuid import UUID

import pytest
from sqlalchemy import Engine

from models import ids
from models.bulk import fetch_rows, hex_array, uuid_array
from models.migrate import sqlalchemy_url
from models.session import connect, transaction


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    engine = connect(sqlalchemy_url(database_url), pool_size=1, name="bulk-test")
    yield engine
    engine.dispose()


@pytest.mark.parametrize("count", [0, 1, 3, 2_000])
def test_an_array_of_ids_arrives_whole_and_in_order(engine: Engine, count: int) -> None:
    sent = [ids.new() for _ in range(count)]
    for given in (uuid_array(sent), hex_array(each.hex for each in sent)):
        with transaction(engine) as session:
            ((arrived,),) = fetch_rows(session, "SELECT %(ids)s::uuid[]", {"ids": given})
        assert arrived == sent


def test_a_set_of_ids_finds_its_rows(engine: Engine) -> None:
    wanted, other = UUID(int=1), UUID(int=2)
    statement = """
        SELECT id FROM (VALUES (%(one)s::uuid), (%(two)s::uuid)) AS known (id)
        WHERE id = ANY(%(ids)s::uuid[])
    """
    with transaction(engine) as session:
        parameters = {"one": wanted, "two": other, "ids": uuid_array({wanted})}
        assert fetch_rows(session, statement, parameters) == [(wanted,)]
        assert fetch_rows(session, statement, {**parameters, "ids": uuid_array(())}) == []
