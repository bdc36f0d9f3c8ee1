"""A new ENCRYPTION_KEY: what was sealed under the other one is sealed anew, a page at a time."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from uuid import UUID

from sqlalchemy import Engine, text

from gateway.access.vault import SealBroken, Vault
from models.session import transaction

PAGE = 500


@dataclass(frozen=True, slots=True)
class Place:
    """A column of sealed values. `owner` is the column of whom they are bound to."""

    table: str
    owner: str
    column: str


DATA_KEYS = (Place("data_keys", "account_id", "sealed"),)
WEBHOOK_SECRETS = (
    Place("accounts", "id", "webhook_secret"),
    Place("webhook_endpoints", "id", "secret"),
    Place("webhook_endpoints", "id", "old_secret"),
)


@dataclass(slots=True)
class Rewrapped:
    """How many values were sealed anew, and which could not be opened: table, column, owner."""

    count: int = 0
    broken: list[str] = field(default_factory=list)


def rewrap(engine: Engine, vaults: Mapping[Place, Vault]) -> Rewrapped:
    """Seals anew what is not under its vault's present key; safe to repeat and to break off."""
    done = Rewrapped()
    for place, vault in vaults.items():
        after = UUID(int=0)
        while (last := _page(engine, place, vault, after, done)) is not None:
            after = last
    return done


def _page(engine: Engine, place: Place, vault: Vault, after: UUID, done: Rewrapped) -> UUID | None:
    """One page of stale values, by owner; the last of them, None if there are no more."""
    table, owner, column = place.table, place.owner, place.column
    stale = text(
        f"""
        SELECT {owner} AS owner, {column} AS sealed FROM {table}
        WHERE {owner} > :after AND substring({column} FROM 1 FOR :length) <> :mark
        ORDER BY {owner} LIMIT {PAGE}
        """
    )
    # Whoever has changed the value meanwhile sealed it under the present key.
    replace = text(
        f"UPDATE {table} SET {column} = :fresh WHERE {owner} = :owner AND {column} = :sealed"
    )
    with transaction(engine) as session:
        rows = session.execute(
            stale, {"after": after, "length": len(vault.mark), "mark": vault.mark}
        ).all()
        for row in rows:
            try:
                fresh = vault.seal(row.owner, vault.open(row.owner, row.sealed))
            except SealBroken:
                done.broken.append(f"{table}.{column} of {row.owner}")
                continue
            session.execute(replace, {"fresh": fresh, "owner": row.owner, "sealed": row.sealed})
            done.count += 1
    return rows[-1].owner if rows else None
