"""What each account uses by the day: the sums of its settlements, kept as they are written."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from gateway.billing.quotes import Experience
from gateway.catalogue.usage import Usage
from models.bulk import array, cursor, uuid_array
from models.usage import UsageSurface


class Slot(NamedTuple):
    """Whose a settlement is and how it was served: what its day is summed by."""

    account_id: UUID
    key_id: UUID
    provider: str
    model: str
    lane: str
    surface: UsageSurface


class Use(NamedTuple):
    """One settlement. `list_nanos` is None where it has no price; nothing then counts but that."""

    slot: Slot
    usage: Usage
    held_nanos: int
    paid_nanos: int
    list_nanos: int | None


Sums = Mapping[Slot, tuple[int, ...]]
"""What is added to each row, in the order of its columns."""
_SUMS = (
    "calls",
    "unpriced_calls",
    "input_uncached",
    "cache_read",
    "cache_write",
    "output",
    "reasoning",
    "held_nanos",
    "paid_nanos",
    "list_nanos",
)
_INSERT = f"""
    INSERT INTO daily_usage AS daily (account_id, day, key_id, provider, model, lane, surface,
                                      {", ".join(_SUMS)})
"""
_ON_CONFLICT = f"""
    ON CONFLICT (account_id, day, key_id, provider, model, lane, surface) DO UPDATE
    SET {", ".join(f"{name} = daily.{name} + excluded.{name}" for name in _SUMS)}
"""
_ADD = f"""
    {_INSERT}
    SELECT account_id, (now() AT TIME ZONE 'UTC')::date, key_id, provider, model, lane, surface,
           {", ".join(_SUMS)}
    FROM unnest(%(account_ids)s::uuid[], %(key_ids)s::uuid[], %(providers)s::text[],
                %(models)s::text[], %(lanes)s::text[], %(surfaces)s::text[],
                {", ".join(f"%({name})s::bigint[]" for name in _SUMS)})
        AS used (account_id, key_id, provider, model, lane, surface, {", ".join(_SUMS)})
    {_ON_CONFLICT}
""".encode()
_LOCK_BALANCE = text(
    """
    SELECT 1 FROM balances WHERE account_id = (SELECT account_id FROM settlements WHERE id = :id)
    FOR UPDATE
    """
)
_PRICED = text(
    f"""
    {_INSERT}
    SELECT s.account_id, (s.created_at AT TIME ZONE 'UTC')::date, s.key_id, s.provider, s.model,
           s.lane, CASE WHEN expires_at IS NULL THEN 'async' ELSE 'sync' END, 1, -1,
           input_uncached, cache_read, cache_write_short + cache_write_long, output, reasoning,
           holds.amount_nanos, :paid_nanos, list_nanos
    FROM settlements AS s JOIN holds USING (id) WHERE s.id = :id
    {_ON_CONFLICT}
    """
)
EXPERIENCE_DAYS = 30
_EXPERIENCE = text(
    f"""
    SELECT coalesce(sum(calls), 0)::bigint, coalesce(sum(paid_nanos), 0)::bigint,
           coalesce(sum(held_nanos), 0)::bigint
    FROM daily_usage
    WHERE account_id = :account_id AND provider = :provider AND model = :model
      AND day > (now() AT TIME ZONE 'UTC')::date - {EXPERIENCE_DAYS}
    """
)


def experience(session: Session, account_id: UUID, provider: str, model: str) -> Experience:
    """What an account's calls of a provider's model have cost in the last 30 days."""
    wanted = {"account_id": account_id, "provider": provider, "model": model}
    return Experience(*session.execute(_EXPERIENCE, wanted).one())


def summed(uses: Iterable[Use]) -> Sums:
    """The sums of settlements that are made together, by what their day is summed by."""
    amounts: dict[Slot, list[tuple[int, ...]]] = defaultdict(list)
    for use in uses:
        amounts[use.slot].append(_amounts(use))
    return {slot: tuple(map(sum, zip(*each, strict=True))) for slot, each in amounts.items()}


def add(session: Session, sums: Sums) -> None:
    """Adds settlements to the day on which this transaction makes them, once a transaction.

    The balances of their accounts are locked by then, so no two transactions meet in a row.
    """
    if not sums:
        return
    columns = zip(*sums.values(), strict=True)
    with cursor(session) as driver_cursor:
        driver_cursor.execute(
            _ADD,
            {
                "account_ids": uuid_array(slot.account_id for slot in sums),
                "key_ids": uuid_array(slot.key_id for slot in sums),
                "providers": [slot.provider for slot in sums],
                "models": [slot.model for slot in sums],
                "lanes": [slot.lane for slot in sums],
                "surfaces": array(slot.surface.value for slot in sums),
                **{
                    name: array(map(str, column))
                    for name, column in zip(_SUMS, columns, strict=True)
                },
            },
        )


def priced(session: Session, settlement_id: UUID, paid_nanos: int) -> None:
    """Counts a settlement that was unpriced until this transaction, on the day on which it was
    made; `paid_nanos` is what its customer pays of it. Locks the account's balance.
    """
    session.execute(_LOCK_BALANCE, {"id": settlement_id})
    session.execute(_PRICED, {"id": settlement_id, "paid_nanos": paid_nanos})


def _amounts(use: Use) -> tuple[int, ...]:
    """In the order of `_SUMS`."""
    if use.list_nanos is None:
        return (0, 1, *(0 for _ in _SUMS[2:]))
    usage = use.usage
    return (
        1,
        0,
        usage.input_uncached,
        usage.cache_read,
        usage.cache_write_short + usage.cache_write_long,
        usage.output,
        usage.reasoning,
        use.held_nanos,
        use.paid_nanos,
        use.list_nanos,
    )
