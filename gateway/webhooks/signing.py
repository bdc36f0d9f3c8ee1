"""Signatures as the Standard Webhooks specification has them (standardwebhooks.com)."""

import base64
import binascii
import hashlib
import hmac
import os

SECRET_PREFIX = "whsec_"
_SECRET_BYTES = 32


def new_secret() -> str:
    """A fresh signing secret: `whsec_` and 32 random bytes in base64."""
    return SECRET_PREFIX + base64.b64encode(os.urandom(_SECRET_BYTES)).decode("ascii")


def sign(secret: str, message_id: str, timestamp: int, body: bytes) -> str:
    """The `webhook-signature` of a message: `v1,` and the HMAC-SHA256 of `id.timestamp.body`.

    `timestamp` is in seconds since 1970. Raises ValueError if `secret` is not one of ours.
    """
    encoded = secret.removeprefix(SECRET_PREFIX)
    if encoded == secret:
        raise ValueError("a signing secret begins with whsec_")
    try:
        key = base64.b64decode(encoded, validate=True)
    except binascii.Error:
        # Without the cause, whose text could quote the secret.
        raise ValueError("a signing secret is base64 after whsec_") from None
    content = f"{message_id}.{timestamp}.".encode() + body
    digest = hmac.new(key, content, hashlib.sha256).digest()
    return "v1," + base64.b64encode(digest).decode("ascii")
