"""Tells accounts that their balance is low: once each time that it falls below their threshold."""

from uuid import UUID

from sqlalchemy import Engine, delete, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from gateway.billing.prices import format_usd
from gateway.webhooks import events
from gateway.webhooks.bodies import low_balance_data
from gateway.webhooks.events import AccountEvent, EventType
from models.session import transaction
from models.usage import BalanceThreshold

# Whoever changes the row first tells it: the others find, once they have its lock, that it is done.
_CROSSED = text(
    """
    UPDATE balance_thresholds AS threshold
    SET low_since = CASE WHEN crossed.is_low THEN now() END
    FROM (
        SELECT account_id, held_nanos, credits_nanos - debits_nanos - held_nanos AS available_nanos,
               credits_nanos - debits_nanos - held_nanos < threshold_nanos AS is_low
        FROM balance_thresholds JOIN balances USING (account_id)
    ) AS crossed
    WHERE crossed.account_id = threshold.account_id
      AND crossed.is_low = (threshold.low_since IS NULL)
    RETURNING threshold.account_id, threshold.threshold_nanos, crossed.is_low,
              crossed.available_nanos, crossed.held_nanos
    """
)


def tell(engine: Engine) -> int:
    """Looks at all accounts that have a threshold; how many deliveries are due for it."""
    with transaction(engine) as session:
        return events.record(
            session,
            [
                AccountEvent(
                    row.account_id,
                    EventType.BALANCE_LOW,
                    low_balance_data(
                        available_usd=format_usd(row.available_nanos),
                        held_usd=format_usd(row.held_nanos),
                        threshold_usd=format_usd(row.threshold_nanos),
                    ),
                )
                for row in session.execute(_CROSSED)
                if row.is_low
            ],
        )


def set_threshold(session: Session, account_id: UUID, threshold_nanos: int | None) -> None:
    """Sets where an account's balance counts as low; None: it never does.

    One that is low already is told at the next look, unless it was told before.
    """
    if threshold_nanos is None:
        session.execute(delete(BalanceThreshold).where(BalanceThreshold.account_id == account_id))
        return
    wanted = insert(BalanceThreshold).values(account_id=account_id, threshold_nanos=threshold_nanos)
    session.execute(
        wanted.on_conflict_do_update(
            index_elements=[BalanceThreshold.account_id],
            set_={"threshold_nanos": wanted.excluded.threshold_nanos},
        )
    )
