"""Rows of the table of transfers, for COPY."""

from uuid import UUID

from models import ids
from models.states import TRANSFER_SIDES, TransferKind

COLUMNS = (
    "id",
    "kind",
    "debit",
    "credit",
    "account_id",
    "hold_id",
    "batch_id",
    "amount_nanos",
    "note",
)

_WORDS = {
    kind: (kind.value, debit.value, credit.value)
    for kind, (debit, credit) in TRANSFER_SIDES.items()
}


def row(
    kind: TransferKind,
    amount_nanos: int,
    account_id: UUID | None,
    hold_id: UUID | None,
    batch_id: UUID | None,
    note: str | None = None,
    *,
    transfer_id: UUID | None = None,
) -> tuple[object, ...]:
    """One transfer, its sides by its kind; the values in the order of `COLUMNS`."""
    row_id = transfer_id or ids.new()
    return (row_id, *_WORDS[kind], account_id, hold_id, batch_id, amount_nanos, note)
