"""Customers' own keys at the providers: kept sealed, opened at the moment of a call.

Each account has a data key, which is sealed under ENCRYPTION_KEY; its provider keys are sealed
under that, bound to account, provider and version. So a new ENCRYPTION_KEY means sealing one
short value an account anew, and a row that was moved elsewhere opens nothing.

A lane names a key by its `reference`, account and generation. A new key begins a generation, and
what the one before it has under way goes on with that; rotating replaces the key of a generation,
for work under way too; removing destroys all of them at once.
"""

import secrets
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from sqlalchemy import ColumnElement, func, select, update
from sqlalchemy import text as sql
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from gateway.access.vault import SealBroken, Vault
from models import ids
from models.credentials import DataKey, ProviderKey
from models.ids import Prefix

DATA_KEY, PROVIDER_KEY = "data-key", "provider-key"
"""What secrets are sealed for: see `Vault`."""
SHOWN_FROM_CHARACTERS = 20
"""Of a shorter key nothing is shown."""


@dataclass(frozen=True, slots=True)
class OwnKey:
    """A customer's key at a provider, sealed, with the data key that opens it, sealed too.

    `reference` is what its lanes are named by; it tells nothing of the key.
    """

    account_id: UUID
    provider: str
    reference: str
    version: int
    sealed: bytes = field(repr=False)
    sealed_data_key: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class KeyView:
    """A configured key as its owner may see it. `version` counts the keys that there were."""

    provider: str
    preview: str
    version: int
    created_at: datetime
    rotated_at: datetime | None


def open_key(vault: Vault, key: OwnKey) -> str:
    """The key's text. `vault` is the one of data keys. Raises SealBroken."""
    data_vault = Vault(vault.open(key.account_id, key.sealed_data_key), PROVIDER_KEY)
    return data_vault.open(key.account_id, key.sealed, key.provider, str(key.version))


_OWN_KEYS = select(
    ProviderKey.account_id,
    ProviderKey.provider,
    ProviderKey.reference,
    ProviderKey.version,
    ProviderKey.sealed,
    DataKey.sealed,
).join(DataKey, DataKey.account_id == ProviderKey.account_id)


def current(session: Session, account_id: UUID) -> list[OwnKey]:
    """The keys that an account's new calls are made with, one a provider."""
    return current_of(session, [account_id])[account_id]


def current_of(session: Session, account_ids: Collection[UUID]) -> dict[UUID, list[OwnKey]]:
    """The same of several accounts, each with an entry of its own."""
    theirs = ProviderKey.account_id.in_(account_ids)
    current: dict[UUID, list[OwnKey]] = {account_id: [] for account_id in account_ids}
    for row in session.execute(_OWN_KEYS.where(theirs, ProviderKey.replaced_at.is_(None))):
        current[row[0]].append(_own_key(*row))
    return current


def find(session: Session, provider: str, reference: str) -> OwnKey | None:
    """The key that a lane names; None once it is destroyed."""
    row = session.execute(
        _OWN_KEYS.where(
            ProviderKey.provider == provider,
            ProviderKey.reference == reference,
            ProviderKey.sealed.is_not(None),
        )
    ).first()
    return None if row is None else _own_key(*row)


def configured(session: Session, account_id: UUID) -> list[KeyView]:
    """What an account has configured, by provider."""
    rows = session.scalars(
        select(ProviderKey)
        .where(ProviderKey.account_id == account_id, ProviderKey.replaced_at.is_(None))
        .order_by(ProviderKey.provider)
    )
    return [
        KeyView(row.provider, row.preview, row.version, row.created_at, row.rotated_at)
        for row in rows
    ]


def put(session: Session, vault: Vault, account_id: UUID, provider: str, text: str) -> int | None:
    """Configures a key for new calls; its version, or None if it is the one there was."""
    sealed_data_key = _lock(session, vault, account_id)
    present = next(
        (each for each in current(session, account_id) if each.provider == provider), None
    )
    if present is not None and _opens_to(vault, present, text):
        return None
    version, generation = _next(session, account_id, provider)
    session.execute(
        update(ProviderKey).where(*_current_of(account_id, provider)).values(replaced_at=func.now())
    )
    session.execute(
        insert(ProviderKey).values(
            account_id=account_id,
            provider=provider,
            generation=generation,
            version=version,
            reference=f"{ids.show(Prefix.ACCOUNT, account_id)}:v{generation}",
            sealed=_seal(vault, sealed_data_key, account_id, provider, version, text),
            preview=preview(text),
        )
    )
    return version


def rotate(
    session: Session, vault: Vault, account_id: UUID, provider: str, text: str
) -> int | None:
    """Replaces a configured key, for what is under way too; its version, None if there is none."""
    sealed_data_key = _lock(session, vault, account_id)
    version, _ = _next(session, account_id, provider)
    rotated = session.execute(
        update(ProviderKey)
        .where(*_current_of(account_id, provider))
        .values(
            version=version,
            sealed=_seal(vault, sealed_data_key, account_id, provider, version, text),
            preview=preview(text),
            rotated_at=func.now(),
        )
        .returning(ProviderKey.version)
    )
    return rotated.scalar_one_or_none()


def remove(session: Session, vault: Vault, account_id: UUID, provider: str) -> bool:
    """Destroys what there is of an account's key at a provider; whether one was configured.

    Nothing that its lanes have under way can go on.
    """
    _lock(session, vault, account_id)
    was_configured = session.scalar(
        select(ProviderKey.version).where(*_current_of(account_id, provider))
    )
    session.execute(
        update(ProviderKey)
        .where(ProviderKey.account_id == account_id, ProviderKey.provider == provider)
        .values(
            sealed=None, preview="", replaced_at=func.coalesce(ProviderKey.replaced_at, func.now())
        )
    )
    return was_configured is not None


_DESTROY_UNUSED = sql(
    """
    UPDATE provider_keys AS key SET sealed = NULL, preview = ''
    WHERE replaced_at IS NOT NULL AND sealed IS NOT NULL
      AND replaced_at < now() - make_interval(secs => :spared)
      AND NOT EXISTS (
        SELECT FROM lanes
        WHERE lanes.provider = key.provider AND lanes.credential = key.reference
          AND (EXISTS (SELECT FROM jobs WHERE lane_id = lanes.id AND batch_id IS NULL
                                          AND completed_at IS NULL)
               OR EXISTS (SELECT FROM provider_batches
                          WHERE lane_id = lanes.id AND status <> 'done'))
    )
    """
)
SPARED_SECONDS = 3600
"""How long a replaced key is kept at least: calls that were routed to it may still be accepted."""


def destroy_unused(session: Session) -> None:
    """Destroys replaced keys that no unfinished work is to be done with."""
    session.execute(_DESTROY_UNUSED, {"spared": SPARED_SECONDS})


def preview(text: str) -> str:
    """What is shown of a key, enough to tell it from another."""
    return f"{text[:3]}…{text[-4:]}" if len(text) >= SHOWN_FROM_CHARACTERS else "…"


def _lock(session: Session, vault: Vault, account_id: UUID) -> bytes:
    """The account's sealed data key, made if there is none; its row is locked from here on."""
    session.execute(
        insert(DataKey)
        .values(account_id=account_id, sealed=vault.seal(account_id, secrets.token_urlsafe(32)))
        .on_conflict_do_nothing()
    )
    mine = select(DataKey.sealed).where(DataKey.account_id == account_id)
    return session.scalars(mine.with_for_update()).one()


def _next(session: Session, account_id: UUID, provider: str) -> tuple[int, int]:
    """The version and the generation that are next."""
    version, generation = session.execute(
        select(func.max(ProviderKey.version), func.max(ProviderKey.generation)).where(
            ProviderKey.account_id == account_id, ProviderKey.provider == provider
        )
    ).one()
    return (version or 0) + 1, (generation or 0) + 1


def _seal(
    vault: Vault, sealed_data_key: bytes, account_id: UUID, provider: str, version: int, text: str
) -> bytes:
    data_vault = Vault(vault.open(account_id, sealed_data_key), PROVIDER_KEY)
    return data_vault.seal(account_id, text, provider, str(version))


def _opens_to(vault: Vault, key: OwnKey, text: str) -> bool:
    try:
        return secrets.compare_digest(open_key(vault, key).encode(), text.encode())
    except SealBroken:
        return False


def _own_key(
    account_id: UUID,
    provider: str,
    reference: str,
    version: int,
    sealed: bytes | None,
    sealed_data_key: bytes,
) -> OwnKey:
    assert sealed is not None  # a CHECK: only a key that was replaced may be destroyed
    return OwnKey(account_id, provider, reference, version, sealed, sealed_data_key)


def _current_of(account_id: UUID, provider: str) -> tuple[ColumnElement[bool], ...]:
    return (
        ProviderKey.account_id == account_id,
        ProviderKey.provider == provider,
        ProviderKey.replaced_at.is_(None),
    )
