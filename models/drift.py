"""Says where the migrations and the tables in code have come apart: `python -m models.drift`.

Two empty databases are made beside the one that DATABASE_URL names, one by the migrations, one
from the tables, and their catalogues compared: columns, indexes, constraints and triggers.
"""

import os
import sys
from uuid import uuid4

from sqlalchemy import Engine, create_engine, text
from sqlalchemy.engine import make_url

from models import schema
from models.migrate import migrate, sqlalchemy_url

CATALOGUE = """
SELECT 'column ' || table_name || '.' || column_name || ' ' || data_type
    || ' nullable=' || is_nullable || ' default=' || coalesce(column_default, '')
FROM information_schema.columns WHERE table_schema = 'public' AND table_name <> 'alembic_version'
UNION ALL
SELECT 'index ' || indexdef FROM pg_indexes
WHERE schemaname = 'public' AND tablename <> 'alembic_version'
UNION ALL
SELECT 'constraint ' || conrelid::regclass || ' ' || conname || ' ' || pg_get_constraintdef(oid)
FROM pg_constraint
WHERE connamespace = 'public'::regnamespace AND conrelid::regclass::text <> 'alembic_version'
UNION ALL
SELECT 'options ' || oid::regclass || ' ' || array_to_string(reloptions, ',') FROM pg_class
WHERE relnamespace = 'public'::regnamespace AND reloptions IS NOT NULL
UNION ALL
SELECT 'partitioned ' || oid::regclass || ' ' || pg_get_partkeydef(oid) FROM pg_class
WHERE relnamespace = 'public'::regnamespace AND relkind = 'p'
UNION ALL
SELECT 'partition ' || oid::regclass || ' ' || pg_get_expr(relpartbound, oid) FROM pg_class
WHERE relnamespace = 'public'::regnamespace AND relispartition AND relkind = 'r'
UNION ALL
SELECT 'trigger ' || pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal
UNION ALL
SELECT 'function ' || pg_get_functiondef(oid) FROM pg_proc
WHERE pronamespace = 'public'::regnamespace
"""


def _catalogue(engine: Engine) -> set[str]:
    with engine.connect() as connection:
        return set(connection.execute(text(CATALOGUE)).scalars())


def _create_from_tables(url: str) -> None:
    engine = create_engine(sqlalchemy_url(url))
    with engine.begin() as connection:
        schema.metadata.create_all(connection)
        for statement in schema.TRIGGERS:
            connection.exec_driver_sql(statement.replace("%", "%%"))
    engine.dispose()


def drift(database_url: str) -> list[str]:
    """One line a difference: `-` only in the migrations, `+` only in the tables."""
    admin = create_engine(sqlalchemy_url(database_url), isolation_level="AUTOCOMMIT")
    catalogues = []
    for build in (migrate, _create_from_tables):
        name = f"drift_{uuid4().hex}"
        url = make_url(database_url).set(database=name).render_as_string(hide_password=False)
        with admin.connect() as connection:
            connection.execute(text(f"CREATE DATABASE {name}"))
        try:
            build(url)
            engine = create_engine(sqlalchemy_url(url))
            catalogues.append(_catalogue(engine))
            engine.dispose()
        finally:
            with admin.connect() as connection:
                connection.execute(text(f"DROP DATABASE {name}"))
    admin.dispose()
    migrated, declared = catalogues
    return sorted(
        [f"- {line}" for line in migrated - declared]
        + [f"+ {line}" for line in declared - migrated]
    )


def main() -> None:
    """Exit 1 and the differences if there are any."""
    differences = drift(os.environ["DATABASE_URL"])
    if differences:
        sys.exit("migrations and tables differ:\n" + "\n".join(differences))


if __name__ == "__main__":
    main()
