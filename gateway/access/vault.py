"""Secrets at rest: AES-256-GCM under keys derived from ENCRYPTION_KEY, one a purpose.

The sealed form is one version byte, a 12-byte nonce and the ciphertext with its tag. What a
secret is for and whose it is are bound in as additional data, so that a sealed value moved to
another row does not open.
"""

import os
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

VERSION = b"\x01"
NONCE_BYTES = 12


class SealBroken(Exception):
    """The value was not sealed with this key, for this purpose and owner."""


def derive_key(secret: str, purpose: str) -> bytes:
    """32 bytes for one purpose, by HKDF-SHA256 (RFC 5869)."""
    return HKDF(
        algorithm=SHA256(), length=32, salt=None, info=f"offpeak:{purpose}".encode()
    ).derive(secret.encode())


class Vault:
    """Seals and opens secrets of one purpose, each bound to its owner."""

    def __init__(self, encryption_key: str, purpose: str) -> None:
        self._cipher = AESGCM(derive_key(encryption_key, f"seal:{purpose}"))
        self._purpose = purpose

    def seal(self, owner: UUID, secret: str) -> bytes:
        """The bytes to store."""
        nonce = os.urandom(NONCE_BYTES)
        return VERSION + nonce + self._cipher.encrypt(nonce, secret.encode(), self._bound_to(owner))

    def open(self, owner: UUID, sealed: bytes) -> str:
        """The secret again; SealBroken if it was sealed for anything else."""
        version, nonce, ciphertext = (
            sealed[:1],
            sealed[1 : 1 + NONCE_BYTES],
            sealed[1 + NONCE_BYTES :],
        )
        if version != VERSION:
            raise SealBroken("unknown version of a sealed secret")
        try:
            return self._cipher.decrypt(nonce, ciphertext, self._bound_to(owner)).decode()
        except (InvalidTag, ValueError) as error:
            raise SealBroken("a sealed secret does not open with this ENCRYPTION_KEY") from error

    def _bound_to(self, owner: UUID) -> bytes:
        return VERSION + self._purpose.encode() + b":" + owner.bytes
