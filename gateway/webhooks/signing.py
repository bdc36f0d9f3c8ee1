"""Signatures as the Standard Webhooks specification has them (standardwebhooks.com)."""

import base64
import binascii
import hashlib
import hmac
import os
from collections.abc import Sequence

SECRET_PREFIX = "whsec_"
_SECRET_BYTES = 32


def new_secret() -> str:
    """A fresh signing secret: `whsec_` and 32 random bytes in base64."""
    return SECRET_PREFIX + base64.b64encode(os.urandom(_SECRET_BYTES)).decode("ascii")


def hint(secret: str) -> str:
    """What may be shown of a secret, to tell it from others: its last letters."""
    return f"{SECRET_PREFIX}…{secret.rstrip('=')[-4:]}"


def signed_headers(
    secrets: Sequence[str], message_id: str, timestamp: int, body: bytes
) -> dict[str, str]:
    """The headers of a message, with one signature for each of the secrets that hold."""
    return {
        "Content-Type": "application/json",
        "User-Agent": "offpeak",
        "Webhook-Id": message_id,
        "Webhook-Timestamp": str(timestamp),
        "Webhook-Signature": " ".join(
            sign(secret, message_id, timestamp, body) for secret in secrets
        ),
    }


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
