"""Identifiers: UUIDv7 inside, a typed prefix and 32 hex digits outside.

Version 7 (RFC 9562, section 5.7) begins with the time in milliseconds, so ids made later sort
later and new rows land at the end of every index.
"""

import os
import time
from datetime import datetime
from enum import StrEnum
from uuid import UUID

_NOT_RANDOM = 0xF << 76 | 0b11 << 62
_VERSION_AND_VARIANT = 0x7 << 76 | 0b10 << 62


class Prefix(StrEnum):
    """What an id names; the word before its underscore (or hyphen)."""

    ACCOUNT = "acct_"
    KEY = "key_"
    WIDGET_KEY = "wkey_"
    JOB = "job_"
    COMPLETION = "chatcmpl-"
    PROVIDER_BATCH = "pbatch_"
    EVENT = "evt_"
    DELIVERY = "dlv_"
    WEBHOOK_ENDPOINT = "whe_"
    LOG = "log_"
    TRANSACTION = "txn_"
    AUDIT = "audit_"


def new() -> UUID:
    """A fresh UUIDv7."""
    milliseconds = time.time_ns() // 1_000_000
    value = milliseconds << 80 | int.from_bytes(os.urandom(10))
    return UUID(int=value & ~_NOT_RANDOM | _VERSION_AND_VARIANT)


def floor(moment: datetime) -> UUID:
    """What no id made before `moment` exceeds, and every one made from it on does."""
    return UUID(int=max(0, int(moment.timestamp() * 1000)) << 80)


def show(prefix: Prefix, value: UUID) -> str:
    """The id as the outside sees it: `job_` and 32 hex digits."""
    return prefix + value.hex


def parse(prefix: Prefix, text: str) -> UUID | None:
    """The UUID behind an outside id; None for anything `show` would not have written."""
    digits = text.removeprefix(prefix)
    if digits == text or len(digits) != 32 or digits != digits.lower():
        return None
    try:
        return UUID(hex=digits)
    except ValueError:
        return None
