"""Alembic's entry: runs the migrations on the connection that `models.migrate` hands over."""

from alembic import context
from sqlalchemy import text

from models import schema

connection = context.config.attributes["connection"]
context.configure(
    connection=connection, target_metadata=schema.metadata, transaction_per_migration=True
)
with context.begin_transaction():
    # A migration that cannot get its lock gives way to the traffic and fails, rather than queue
    # every later statement behind itself.
    connection.execute(text("SET lock_timeout = '5s'"))
    connection.execute(text("SET statement_timeout = '15min'"))
    context.run_migrations()
