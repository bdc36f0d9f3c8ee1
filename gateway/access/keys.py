"""Secret API keys: `sk-op-`, 26 random characters and a checksum of six.

The checksum (CRC-32 in base 62) lets a mistyped or invented key be refused without a look-up.
What is stored is an HMAC under a key derived from SECRET_KEY: a stolen table opens nothing.
"""

import hmac
import secrets
import string
import zlib
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256
from uuid import UUID

from sqlalchemy import and_, case, func, select
from sqlalchemy.orm import Session

from gateway.access.scopes import DEFAULT_SCOPES, Scope
from gateway.access.vault import derive_key
from models import ids
from models.accounts import ApiKey

PREFIX = "sk-op-"
ALPHABET = string.digits + string.ascii_uppercase + string.ascii_lowercase
RANDOM_LENGTH = 26
CHECKSUM_LENGTH = 6
DEFAULT_REQUESTS_PER_MINUTE = 60


@dataclass(frozen=True, slots=True)
class Identity:
    """Who is calling, what for, and within which limits (None: the default).

    `models` are the catalogue's names of those that the key may call, None for all.
    """

    account_id: UUID
    key_id: UUID
    requests_per_minute: int | None
    daily_nanos: int | None
    monthly_nanos: int | None
    expires_at: datetime | None
    scopes: frozenset[Scope] = frozenset()
    models: frozenset[str] | None = None

    def may_call(self, model_id: str) -> bool:
        """Whether the key is for this model, of which this is the name in the catalogue."""
        return self.models is None or model_id in self.models


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key just made: the only time that its text is known."""

    id: UUID
    text: str = field(repr=False)


def checksum(characters: str) -> str:
    """CRC-32 of the text in base 62, six digits, most significant first."""
    number = zlib.crc32(characters.encode())
    digits = []
    for _ in range(CHECKSUM_LENGTH):
        number, digit = divmod(number, len(ALPHABET))
        digits.append(ALPHABET[digit])
    return "".join(reversed(digits))


def generate() -> str:
    """The text of a fresh key."""
    body = "".join(secrets.choice(ALPHABET) for _ in range(RANDOM_LENGTH))
    return PREFIX + body + checksum(body)


def is_well_formed(text: str) -> bool:
    """Whether the text could be one of our keys, by its shape and checksum alone."""
    body = text.removeprefix(PREFIX)
    if body == text or len(body) != RANDOM_LENGTH + CHECKSUM_LENGTH or not body.isascii():
        return False
    return hmac.compare_digest(checksum(body[:RANDOM_LENGTH]), body[RANDOM_LENGTH:])


class KeyDigest:
    """The keyed digest under which a key is stored."""

    def __init__(self, secret_key: str) -> None:
        self._key = derive_key(secret_key, "api-key-digest")

    def __call__(self, text: str) -> bytes:
        """32 bytes."""
        return hmac.digest(self._key, text.encode(), sha256)


def preview(text: str) -> str:
    """What is shown of a key once its text has been."""
    return f"{text[:10]}…{text[-4:]}"


def create(
    session: Session,
    digest: KeyDigest,
    account_id: UUID,
    *,
    name: str = "",
    scopes: Collection[Scope] = DEFAULT_SCOPES,
    models: Collection[str] | None = None,
    requests_per_minute: int | None = None,
    daily_nanos: int | None = None,
    monthly_nanos: int | None = None,
    expires_at: datetime | None = None,
) -> NewKey:
    """Makes a key for an account that exists."""
    key = NewKey(ids.new(), generate())
    session.add(
        ApiKey(
            id=key.id,
            account_id=account_id,
            digest=digest(key.text),
            preview=preview(key.text),
            name=name,
            scopes=sorted(map(str, scopes)),
            models=None if models is None else sorted(set(models)),
            requests_per_minute=requests_per_minute,
            daily_nanos=daily_nanos,
            monthly_nanos=monthly_nanos,
            expires_at=expires_at,
        )
    )
    session.flush()
    return key


def identify(session: Session, digests: Collection[bytes]) -> dict[bytes, Identity]:
    """The callers behind digests, without those of keys that are unknown, revoked or expired."""
    previous = and_(ApiKey.previous_digest.in_(digests), ApiKey.previous_until > func.now())
    rows = session.execute(
        select(
            ApiKey.digest,
            case((previous, ApiKey.previous_digest)),
            ApiKey.account_id,
            ApiKey.id,
            ApiKey.requests_per_minute,
            ApiKey.daily_nanos,
            ApiKey.monthly_nanos,
            ApiKey.expires_at,
            ApiKey.scopes,
            ApiKey.models,
        ).where(
            ApiKey.digest.in_(digests) | previous,
            ApiKey.revoked_at.is_(None),
            ApiKey.expires_at.is_(None) | (ApiKey.expires_at > func.now()),
        )
    )
    found = {}
    for digest, previous_digest, *row in rows:
        identity = _identity(*row)
        found.update(dict.fromkeys((digest, previous_digest), identity))
    return {digest: found[digest] for digest in digests if digest in found}


def _identity(
    account_id: UUID,
    key_id: UUID,
    requests_per_minute: int | None,
    daily_nanos: int | None,
    monthly_nanos: int | None,
    expires_at: datetime | None,
    scopes: Collection[str],
    models: Collection[str] | None,
) -> Identity:
    return Identity(
        account_id,
        key_id,
        requests_per_minute,
        daily_nanos,
        monthly_nanos,
        expires_at,
        frozenset(map(Scope, scopes)),
        None if models is None else frozenset(models),
    )
