"""Idempotency keys: the first answer is given again, byte for byte."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any
from uuid import UUID

import orjson
from psycopg.types.json import Jsonb
from sqlalchemy import text
from sqlalchemy.orm import Session

from gateway.calls.errors import CallError, KeyInFlight, KeyReused

_EXACT_FLOAT = 2.0**53
"""Up to here a float that is whole is that integer; beyond, several integers are one float."""


@dataclass(frozen=True, slots=True)
class Stored:
    """An answer as it was given."""

    http_status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class KeyedCall:
    """A call under an idempotency key. `answer` is known at once for a job, later for a call."""

    account_id: UUID
    key: str
    body_digest: bytes
    hold_id: UUID
    answer: Stored | None


def digest(route: str, body: Any) -> bytes:
    """Of the body as JSON, not as bytes: key order, spacing and spellings do not matter."""
    canonical = orjson.dumps(_respelt(body), option=orjson.OPT_SORT_KEYS)
    return sha256(route.encode() + b"\n" + canonical).digest()


def _respelt(value: Any) -> Any:
    """The value with its whole numbers as integers: 1, 1.0 and 1e0 are one number in JSON."""
    if isinstance(value, float) and value.is_integer() and abs(value) <= _EXACT_FLOAT:
        return int(value)
    if isinstance(value, dict):
        return {name: _respelt(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_respelt(each) for each in value]
    return value


_CLAIM = text(
    """
    INSERT INTO idempotency_keys
        (account_id, key, body_digest, hold_id, http_status, headers, response)
    SELECT * FROM unnest(
        CAST(:accounts AS uuid[]), CAST(:keys AS text[]), CAST(:digests AS bytea[]),
        CAST(:holds AS uuid[]), CAST(:statuses AS int2[]), CAST(:headers AS jsonb[]),
        CAST(:responses AS bytea[])
    )
    ON CONFLICT (account_id, key) DO NOTHING
    RETURNING hold_id
    """
)
_READ = text(
    """
    SELECT account_id, key, body_digest, http_status, headers, response FROM idempotency_keys
    WHERE (account_id, key) IN (
        SELECT * FROM unnest(CAST(:accounts AS uuid[]), CAST(:keys AS text[])))
    """
)
_FORGET = text(
    "DELETE FROM idempotency_keys WHERE hold_id = ANY(:holds) AND account_id = ANY(:accounts)"
)
_ANSWER = text(
    """
    UPDATE idempotency_keys
    SET http_status = :http_status, headers = :headers, response = :response
    WHERE account_id = :account_id AND key = :key AND hold_id = :hold_id
    """
)


def claim(session: Session, calls: Sequence[KeyedCall]) -> dict[UUID, Stored | CallError]:
    """Takes the keys. What it returns, by hold id, is for those that somebody took before."""
    if not calls:
        return {}
    # In one order everywhere, so that two sets of calls cannot wait for each other's keys.
    calls = sorted(calls, key=lambda call: (call.account_id, call.key))
    claimed = set(
        session.scalars(
            _CLAIM,
            {
                "accounts": [call.account_id for call in calls],
                "keys": [call.key for call in calls],
                "digests": [call.body_digest for call in calls],
                "holds": [call.hold_id for call in calls],
                "statuses": [call.answer and call.answer.http_status for call in calls],
                "headers": [call.answer and Jsonb(dict(call.answer.headers)) for call in calls],
                "responses": [call.answer and call.answer.body for call in calls],
            },
        )
    )
    taken = [call for call in calls if call.hold_id not in claimed]
    if not taken:
        return {}
    rows = session.execute(
        _READ,
        {
            "accounts": [call.account_id for call in taken],
            "keys": [call.key for call in taken],
        },
    )
    first = {(row.account_id, row.key): row for row in rows}
    return {call.hold_id: _again(call, first.get((call.account_id, call.key))) for call in taken}


def _again(call: KeyedCall, first: Any) -> Stored | CallError:
    if first is not None and first.body_digest != call.body_digest:
        return KeyReused("This Idempotency-Key was used with a different body.")
    # A row that cannot be seen belongs to a call that is committing right now.
    if first is None or first.response is None:
        return KeyInFlight("The first call with this Idempotency-Key is still in flight.")
    return Stored(first.http_status, first.headers or {}, first.response)


def forget(session: Session, calls: Collection[KeyedCall]) -> None:
    """Frees keys whose call came to nothing."""
    if calls:
        session.execute(
            _FORGET,
            {
                "holds": [call.hold_id for call in calls],
                "keys": [call.key for call in calls],
                "accounts": list({call.account_id for call in calls}),
            },
        )


def answer(session: Session, call: KeyedCall, stored: Stored) -> None:
    """Keeps the answer of a call that was in flight."""
    session.execute(
        _ANSWER,
        {
            "account_id": call.account_id,
            "key": call.key,
            "hold_id": call.hold_id,
            "http_status": stored.http_status,
            "headers": Jsonb(dict(stored.headers)),
            "response": stored.body,
        },
    )
