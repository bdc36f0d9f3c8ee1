"""Brings a database to the newest schema: `python -m models.migrate` with DATABASE_URL set.

Migrations expand first and contract a release later, because a platform runs the old and the
new code at once. Two releases that migrate at the same time take turns by an advisory lock.
"""

import os
import sys
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, create_engine, text

MIGRATIONS = Path(__file__).parent / "migrations"
ADVISORY_LOCK = 0x6F66_6670_6561_6B


def sqlalchemy_url(database_url: str) -> str:
    """`postgres://` and `postgresql://` as SQLAlchemy wants them, with psycopg as the driver."""
    scheme, separator, rest = database_url.partition("://")
    if not separator or scheme not in {"postgres", "postgresql", "postgresql+psycopg"}:
        raise ValueError("DATABASE_URL must begin with postgres:// or postgresql://")
    return f"postgresql+psycopg://{rest}"


def _config(connection: Connection | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["connection"] = connection
    return config


def migrate(database_url: str) -> None:
    """Runs what has not been run yet."""
    engine = create_engine(sqlalchemy_url(database_url))
    with engine.connect() as connection:
        connection.execute(text("SELECT pg_advisory_lock(:lock)"), {"lock": ADVISORY_LOCK})
        connection.commit()
        try:
            command.upgrade(_config(connection), "head")
        finally:
            connection.rollback()
            connection.execute(text("SELECT pg_advisory_unlock(:lock)"), {"lock": ADVISORY_LOCK})
            connection.commit()
    engine.dispose()


def head_revision() -> str | None:
    """The revision that this code expects."""
    return ScriptDirectory.from_config(_config()).get_current_head()


def is_current(connection: Connection) -> bool:
    """Whether the database has at least this code's schema.

    A database that is ahead is fine: its migrations only expanded.
    """
    current = MigrationContext.configure(connection).get_current_revision()
    if current == head_revision():
        return True
    known = {
        revision.revision for revision in ScriptDirectory.from_config(_config()).walk_revisions()
    }
    return current is not None and current not in known


def main() -> None:
    """The release phase: one sentence on failure, silence on success."""
    database_url = os.environ.get("DATABASE_URL", "")
    try:
        migrate(database_url)
    except ValueError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
