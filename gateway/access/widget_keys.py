"""Publishable keys: `pk_`, 26 random characters and a checksum of six.

They stand in a web page for anybody to read, so what they open is little and what they spend is
capped. Neither kind of key can pass for the other: the prefix is part of the checksum here, and
the digests are made under another derived key and kept in another table.
"""

import hmac
import secrets
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Any
from uuid import UUID

from sqlalchemy import func, select, text, update
from sqlalchemy.orm import Session

from gateway.access.keys import (
    ALPHABET,
    CHECKSUM_LENGTH,
    DEFAULT_REQUESTS_PER_MINUTE,
    RANDOM_LENGTH,
    Identity,
    NewKey,
    checksum,
)
from gateway.access.limits import KEYS_PER_ACCOUNT, Bucket
from gateway.access.scopes import Scope
from gateway.access.vault import derive_key
from models import ids
from models.widgets import WidgetKey

PREFIX = "pk_"
PREVIEW_LENGTH = len(PREFIX) + 4
KEYS_MAX = 100
"""Publishable keys that an account may have, those that are revoked not counted."""
MOST_REQUESTS_PER_MINUTE = KEYS_PER_ACCOUNT * DEFAULT_REQUESTS_PER_MINUTE
"""Of one key, and of all of an account's publishable keys together."""
VISITOR_REQUESTS_PER_MINUTE = 20
# In nano-USD: five dollars a day and fifty a month. Whoever reads the page can spend them.
DAILY_NANOS = 5 * 10**9
MONTHLY_NANOS = 50 * 10**9
IPV6_PREFIX_BITS = 64
"""What one visitor has to themselves of IPv6; each would be a new visitor with every address."""


class TooManyKeys(Exception):
    """The account has as many publishable keys as it may have."""


class SeveralKeys(Exception):
    """More than one of the account's publishable keys is so named."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What a publishable key is for, and within which limits.

    `agent_id` is its owner's; `allowed_origins` are the web pages that may use it, empty for all;
    `models` the names of those that it may call, None for all.
    """

    agent_id: str | None = None
    allowed_origins: tuple[str, ...] = ()
    models: tuple[str, ...] | None = None
    requests_per_minute: int = DEFAULT_REQUESTS_PER_MINUTE
    visitor_requests_per_minute: int = VISITOR_REQUESTS_PER_MINUTE
    daily_nanos: int = DAILY_NANOS
    monthly_nanos: int = MONTHLY_NANOS


@dataclass(frozen=True, slots=True)
class KeyView:
    """A publishable key as its owner sees it afterwards."""

    id: UUID
    account_id: UUID
    preview: str
    terms: Terms
    created_at: datetime


class WidgetKeyDigest:
    """The keyed digest under which a publishable key is stored."""

    def __init__(self, secret_key: str) -> None:
        self._key = derive_key(secret_key, "widget-key-digest")

    def __call__(self, text: str) -> bytes:
        """32 bytes."""
        return hmac.digest(self._key, text.encode(), sha256)


def generate() -> str:
    """The text of a fresh key."""
    begun = PREFIX + "".join(secrets.choice(ALPHABET) for _ in range(RANDOM_LENGTH))
    return begun + checksum(begun)


def preview(text: str) -> str:
    """What is shown of a key once its text has been."""
    return text[:PREVIEW_LENGTH]


def is_well_formed(text: str) -> bool:
    """Whether the text could be one of our publishable keys, by its shape and checksum alone."""
    length = len(PREFIX) + RANDOM_LENGTH + CHECKSUM_LENGTH
    if not text.startswith(PREFIX) or len(text) != length or not text.isascii():
        return False
    return hmac.compare_digest(checksum(text[:-CHECKSUM_LENGTH]), text[-CHECKSUM_LENGTH:])


_LOCK_ACCOUNT = text("SELECT id FROM accounts WHERE id = :account_id FOR NO KEY UPDATE")


def create(session: Session, digest: WidgetKeyDigest, account_id: UUID, terms: Terms) -> NewKey:
    """Makes a key for an account that exists; its origins are well formed. Raises TooManyKeys."""
    session.execute(_LOCK_ACCOUNT, {"account_id": account_id})
    not_revoked = WidgetKey.account_id == account_id, WidgetKey.revoked_at.is_(None)
    if session.execute(select(func.count()).where(*not_revoked)).scalar_one() >= KEYS_MAX:
        raise TooManyKeys
    key = NewKey(ids.new(), generate())
    session.add(
        WidgetKey(
            id=key.id,
            account_id=account_id,
            digest=digest(key.text),
            preview=preview(key.text),
            **columns_of(terms),
        )
    )
    session.flush()
    return key


def columns_of(terms: Terms) -> dict[str, Any]:
    """The terms by the names of their columns, as JSON has them too."""
    return {
        "agent_id": terms.agent_id,
        "allowed_origins": list(terms.allowed_origins),
        "models": None if terms.models is None else list(terms.models),
        "requests_per_minute": terms.requests_per_minute,
        "visitor_requests_per_minute": terms.visitor_requests_per_minute,
        "daily_nanos": terms.daily_nanos,
        "monthly_nanos": terms.monthly_nanos,
    }


def usable(
    session: Session,
    account_id: UUID,
    *,
    key_id: UUID | None = None,
    digest: bytes | None = None,
    agent_id: str | None = None,
) -> list[KeyView]:
    """The account's keys that are not revoked, newest first; those so named, if names are given."""
    asked = select(WidgetKey).where(
        WidgetKey.account_id == account_id, WidgetKey.revoked_at.is_(None)
    )
    if key_id is not None:
        asked = asked.where(WidgetKey.id == key_id)
    if digest is not None:
        asked = asked.where(WidgetKey.digest == digest)
    if agent_id is not None:
        asked = asked.where(WidgetKey.agent_id == agent_id)
    return [_view(row) for row in session.scalars(asked.order_by(WidgetKey.id.desc()))]


def by_digest(session: Session, digests: Collection[bytes]) -> dict[bytes, KeyView]:
    """The keys of digests, without those that are unknown or revoked."""
    rows = session.scalars(
        select(WidgetKey).where(WidgetKey.digest.in_(digests), WidgetKey.revoked_at.is_(None))
    )
    return {row.digest: _view(row) for row in rows}


def revoke(
    session: Session,
    account_id: UUID,
    *,
    key_id: UUID | None = None,
    digest: bytes | None = None,
    agent_id: str | None = None,
) -> UUID | None:
    """The account's key that was so named and opens nothing any more; None if there is none.

    Raises SeveralKeys, and then nothing is revoked.
    """
    named = usable(session, account_id, key_id=key_id, digest=digest, agent_id=agent_id)
    if len(named) > 1:
        raise SeveralKeys
    return session.scalar(
        update(WidgetKey)
        .where(
            WidgetKey.id.in_([key.id for key in named]),
            WidgetKey.account_id == account_id,
            WidgetKey.revoked_at.is_(None),
        )
        .values(revoked_at=func.now())
        .returning(WidgetKey.id)
    )


def owner(session: Session, key_id: UUID) -> UUID | None:
    """The account of a key, for who administers all of them."""
    return session.scalar(select(WidgetKey.account_id).where(WidgetKey.id == key_id))


def _view(row: WidgetKey) -> KeyView:
    terms = Terms(
        agent_id=row.agent_id,
        allowed_origins=tuple(row.allowed_origins),
        models=None if row.models is None else tuple(row.models),
        requests_per_minute=row.requests_per_minute,
        visitor_requests_per_minute=row.visitor_requests_per_minute,
        daily_nanos=row.daily_nanos,
        monthly_nanos=row.monthly_nanos,
    )
    return KeyView(row.id, row.account_id, row.preview, terms, row.created_at)


def identity_of(key: KeyView) -> Identity:
    """Who calls with a publishable key: its account, for a chat and nothing else."""
    terms = key.terms
    return Identity(
        account_id=key.account_id,
        key_id=key.id,
        requests_per_minute=terms.requests_per_minute,
        daily_nanos=terms.daily_nanos,
        monthly_nanos=terms.monthly_nanos,
        expires_at=None,
        scopes=frozenset({Scope.INFERENCE}),
        models=None if terms.models is None else frozenset(terms.models),
    )


def buckets_of(key: KeyView, address: str | None) -> tuple[Bucket, ...]:
    """The buckets of one call from an address: the visitor's, the key's, and all such keys'.

    What visitors ask for does not use up what its owner's secret keys may ask for.
    """
    return (
        Bucket(f"visitor:{key.id.hex}:{visitor(address)}", key.terms.visitor_requests_per_minute),
        Bucket(f"key:{key.id.hex}", key.terms.requests_per_minute),
        Bucket(f"widgets:{key.account_id.hex}", MOST_REQUESTS_PER_MINUTE),
    )


def visitor(address: str | None) -> str:
    """What an address counts as: itself, its network for IPv6; one name for all that are none."""
    try:
        parsed = ip_address(address or "")
    except ValueError:
        return "unknown"
    if not isinstance(parsed, IPv6Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    network = ip_network((parsed.packed, IPV6_PREFIX_BITS), strict=False)
    return str(network.network_address)
