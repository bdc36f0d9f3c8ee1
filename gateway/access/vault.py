"""Secrets at rest: AES-256-GCM under keys derived from ENCRYPTION_KEY, one a purpose.

The sealed form is one version byte, four bytes that name the key, a 12-byte nonce and the
ciphertext with its tag. What a secret is for and whose it is are bound in as additional data, and
whatever else `context` says, so that a sealed value moved to another row does not open.
"""

import os
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

VERSION = b"\x01"
KEY_ID_BYTES = 4
NONCE_BYTES = 12
_NONCE_AT = len(VERSION) + KEY_ID_BYTES
_CIPHERTEXT_AT = _NONCE_AT + NONCE_BYTES


class SealBroken(Exception):
    """The value was not sealed with this key, for this purpose, owner and context."""


def derive_key(secret: str, purpose: str) -> bytes:
    """32 bytes for one purpose, by HKDF-SHA256 (RFC 5869)."""
    return HKDF(
        algorithm=SHA256(), length=32, salt=None, info=f"offpeak:{purpose}".encode()
    ).derive(secret.encode())


class Vault:
    """Seals and opens secrets of one purpose, each bound to its owner.

    `other_key` opens what was sealed under it, and seals nothing: while ENCRYPTION_KEY changes,
    both are in use.
    """

    def __init__(self, encryption_key: str, purpose: str, other_key: str | None = None) -> None:
        self._purpose = purpose
        self._ciphers = {
            _key_id(key): AESGCM(derive_key(key, f"seal:{purpose}"))
            for key in (other_key, encryption_key)
            if key is not None
        }
        self.mark = VERSION + _key_id(encryption_key)
        """What begins every value that is sealed now: how a stale one is told from the others."""

    def seal(self, owner: UUID, secret: str, *context: str) -> bytes:
        """The bytes to store."""
        nonce = os.urandom(NONCE_BYTES)
        cipher = self._ciphers[self.mark[len(VERSION) :]]
        bound = self._bound_to(owner, context)
        return self.mark + nonce + cipher.encrypt(nonce, secret.encode(), bound)

    def open(self, owner: UUID, sealed: bytes, *context: str) -> str:
        """The secret again; SealBroken if it was sealed for anything else."""
        if not sealed.startswith(VERSION):
            raise SealBroken("unknown version of a sealed secret")
        cipher = self._ciphers.get(sealed[len(VERSION) : _NONCE_AT])
        if cipher is None:
            raise SealBroken("a sealed secret was sealed under another ENCRYPTION_KEY")
        nonce, ciphertext = sealed[_NONCE_AT:_CIPHERTEXT_AT], sealed[_CIPHERTEXT_AT:]
        try:
            return cipher.decrypt(nonce, ciphertext, self._bound_to(owner, context)).decode()
        except (InvalidTag, ValueError) as error:
            raise SealBroken("a sealed secret does not open with this ENCRYPTION_KEY") from error

    def _bound_to(self, owner: UUID, context: tuple[str, ...]) -> bytes:
        # Lengths go before the words, so that no two contexts read alike.
        words = [word.encode() for word in (self._purpose, *context)]
        framed = b"".join(len(word).to_bytes(4, "big") + word for word in words)
        return VERSION + owner.bytes + framed


def _key_id(key: str) -> bytes:
    """Names a key without telling anything of it."""
    return derive_key(key, "key-id")[:KEY_ID_BYTES]
