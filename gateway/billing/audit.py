"""`ledger verify`: every invariant of the books, checked in one consistent view of them."""

from dataclasses import dataclass, field

from sqlalchemy import Connection, Engine, text

from gateway.billing.ledger import Amounts
from gateway.billing.pricing import NoBatchPrice, amounts
from gateway.catalogue.rates import PriceSnapshot
from gateway.catalogue.usage import Usage

SHOWN_PER_RULE = 20
PAGE = 2000


@dataclass(slots=True)
class Report:
    """What was found. Each violation is a sentence."""

    transfers: int = 0
    imbalance_nanos: int = 0
    open_holds: int = 0
    unpriced: int = 0
    violations: list[str] = field(default_factory=list)

    @property
    def is_clean(self) -> bool:
        """Whether nothing is off."""
        return not self.violations and not self.imbalance_nanos


_TOTALS = text(
    """
    SELECT (SELECT count(*) FROM transfers) AS transfers,
           (SELECT count(*) FROM holds WHERE status = 'open') AS open_holds,
           (SELECT count(*) FROM settlements WHERE unpriced AND NOT EXISTS (
               SELECT 1 FROM transfers
               WHERE hold_id = settlements.id AND kind = 'suspense_return')) AS unpriced
    """
)
# A balance against the replay of its transfers and its open holds.
_BALANCES = text(
    """
    SELECT account_id, abs(credits_nanos - coalesce(moved.credits, 0))
         + abs(debits_nanos - coalesce(moved.debits, 0)) + abs(held_nanos - coalesce(open.held, 0))
         AS off
    FROM balances
    LEFT JOIN (
        SELECT account_id, sum(amount_nanos) FILTER (WHERE credit = 'customer') AS credits,
               sum(amount_nanos) FILTER (WHERE debit = 'customer') AS debits
        FROM transfers WHERE account_id IS NOT NULL GROUP BY account_id
    ) AS moved USING (account_id)
    LEFT JOIN (
        SELECT account_id, sum(amount_nanos) AS held FROM holds WHERE status = 'open'
        GROUP BY account_id
    ) AS open USING (account_id)
    WHERE credits_nanos <> coalesce(moved.credits, 0) OR debits_nanos <> coalesce(moved.debits, 0)
       OR held_nanos <> coalesce(open.held, 0)
    """
)
RULES = {
    "Account {}'s balance is below zero.": """
        SELECT account_id FROM balances WHERE credits_nanos - debits_nanos - held_nanos < 0""",
    "Transfers name account {}, which has no balance.": """
        SELECT DISTINCT account_id FROM transfers
        WHERE account_id IS NOT NULL
          AND account_id NOT IN (SELECT account_id FROM balances)""",
    "Hold {} is open without unfinished work or an expiry.": """
        SELECT holds.id FROM holds LEFT JOIN jobs ON jobs.id = holds.id
        WHERE holds.status = 'open' AND holds.expires_at IS NULL
          AND (jobs.id IS NULL OR jobs.completed_at IS NOT NULL)""",
    "Job {} is unfinished without an open hold.": """
        SELECT jobs.id FROM jobs LEFT JOIN holds ON holds.id = jobs.id
        WHERE jobs.completed_at IS NULL AND holds.status IS DISTINCT FROM 'open'""",
    "Job {} is completed without a settlement.": """
        SELECT jobs.id FROM jobs LEFT JOIN settlements ON settlements.id = jobs.id
        WHERE jobs.status = 'completed' AND settlements.id IS NULL""",
    "Job {} is settled without being completed.": """
        SELECT jobs.id FROM jobs JOIN settlements ON settlements.id = jobs.id
        WHERE jobs.status <> 'completed'""",
    "Hold {} is posted without a settlement, or settled without being posted.": """
        SELECT coalesce(holds.id, settlements.id) FROM settlements
        FULL JOIN (SELECT * FROM holds WHERE status = 'posted') AS holds USING (id)
        WHERE holds.id IS NULL OR settlements.id IS NULL""",
    "Settlement {} differs from what was transferred for it.": """
        SELECT settlements.id FROM settlements JOIN holds USING (id)
        LEFT JOIN (
            SELECT hold_id, sum(amount_nanos) FILTER (WHERE kind = 'suspense') AS kept,
                   sum(amount_nanos) FILTER (WHERE kind <> 'suspense') AS charged
            FROM transfers
            WHERE kind IN ('charge', 'overrun_loss', 'suspense', 'suspense_charge')
            GROUP BY hold_id
        ) AS moved ON moved.hold_id = settlements.id
        WHERE coalesce(charged, 0) <> coalesce(charged_nanos, 0)
           OR unpriced AND coalesce(kept, 0) <> holds.amount_nanos""",
    "Transfer {} is for a hold that was not settled.": """
        SELECT transfers.id FROM transfers
        LEFT JOIN settlements ON settlements.id = transfers.hold_id
        WHERE kind IN ('charge', 'overrun_loss', 'suspense', 'suspense_charge')
          AND settlements.id IS NULL""",
    "Transfer {} moves the money of another account than its hold's.": """
        SELECT transfers.id FROM transfers JOIN holds ON holds.id = transfers.hold_id
        WHERE transfers.account_id IS NOT NULL AND transfers.account_id <> holds.account_id""",
    "Settlement {} names another account than its hold.": """
        SELECT settlements.id FROM settlements JOIN holds USING (id)
        WHERE settlements.account_id <> holds.account_id""",
    "Hold {} was not used up, and yet the house lost on it.": """
        SELECT loss.hold_id FROM transfers AS loss JOIN holds ON holds.id = loss.hold_id
        LEFT JOIN transfers AS charge
            ON charge.hold_id = loss.hold_id AND charge.kind IN ('charge', 'suspense_charge')
        WHERE loss.kind = 'overrun_loss'
          AND coalesce(charge.amount_nanos, 0) < holds.amount_nanos""",
    "Suspense of hold {} ended in another amount than it had.": """
        SELECT hold_id FROM transfers
        WHERE kind IN ('suspense', 'suspense_return', 'suspense_charge') GROUP BY hold_id
        HAVING count(*) > 1 AND sum(
            CASE kind WHEN 'suspense' THEN amount_nanos ELSE -amount_nanos END) <> 0
            OR bool_and(kind <> 'suspense')""",
    "Provider batch {} is booked at another cost than its settlements.": """
        SELECT batch_id FROM (
            SELECT batch_id, amount_nanos AS amount FROM transfers WHERE kind = 'provider_cost'
            UNION ALL
            SELECT batch_id, -cost_nanos FROM settlements WHERE NOT unpriced
        ) AS booked_and_settled
        GROUP BY batch_id HAVING sum(amount) <> 0""",
    "Key {} has spent something else in a day or month than its holds and charges.": """
        SELECT key_id FROM (
            SELECT key_id, period, starts_on, -amount_nanos AS amount FROM key_spending
            UNION ALL
            SELECT key_id, period, CAST(date_trunc(period, CAST(held_on AS timestamp)) AS date),
                   CASE status WHEN 'open' THEN amount_nanos ELSE coalesce(paid, 0) END
            FROM holds CROSS JOIN (VALUES ('day'), ('month')) AS periods (period)
            LEFT JOIN (
                SELECT hold_id, sum(amount_nanos) AS paid FROM transfers
                WHERE kind IN ('charge', 'suspense') GROUP BY hold_id
            ) AS moved ON moved.hold_id = holds.id
        ) AS counted_and_held
        GROUP BY key_id, period, starts_on HAVING sum(amount) <> 0""",
    "Account {}'s usage of a day is not what it was charged on it.": """
        SELECT account_id FROM (
            SELECT account_id, day, -paid_nanos AS amount FROM daily_usage
            UNION ALL
            SELECT settled.account_id, CAST(settled.created_at AT TIME ZONE 'UTC' AS date),
                   amount_nanos
            FROM transfers JOIN settlements AS settled ON settled.id = transfers.hold_id
            WHERE kind IN ('charge', 'suspense_charge')
        ) AS counted_and_charged
        GROUP BY account_id, day HAVING sum(amount) <> 0""",
}
"""What no row may satisfy, by the sentence that says so of it."""

_SETTLEMENTS = text(
    """
    SELECT id, lane, price_id, markup_bps, input_uncached, cache_read, cache_write_short,
           cache_write_long, output, reasoning, cost_nanos, charged_nanos, list_nanos
    FROM settlements WHERE NOT unpriced
    """
)


def verify(engine: Engine) -> Report:
    """Reads the books as they were at one moment, whatever goes on meanwhile."""
    report = Report()
    with engine.connect().execution_options(
        isolation_level="REPEATABLE READ", postgresql_readonly=True
    ) as connection:
        connection.execute(text("SET LOCAL statement_timeout = 0"))
        totals = connection.execute(_TOTALS).one()
        report.transfers = totals.transfers
        report.open_holds = totals.open_holds
        report.unpriced = totals.unpriced
        for row in connection.execute(_BALANCES):
            report.imbalance_nanos += row.off
            report.violations.append(
                f"Account {row.account_id}'s balance is not the replay of its transfers and holds."
            )
        for sentence, query in RULES.items():
            found = connection.execute(text(f"{query} LIMIT {SHOWN_PER_RULE}")).scalars()
            report.violations += [sentence.format(each) for each in found]
        report.violations += _wrong_charges(connection)
    return report


def _wrong_charges(connection: Connection) -> list[str]:
    """Every charge computed again from its usage and its price snapshot."""
    snapshots = {
        row.id: PriceSnapshot.from_json(row.snapshot)
        for row in connection.execute(text("SELECT id, snapshot FROM prices"))
    }
    wrong: list[str] = []
    with connection.execution_options(yield_per=PAGE).execute(_SETTLEMENTS) as rows:
        for row in rows:
            usage = Usage(
                row.input_uncached,
                row.cache_read,
                row.cache_write_short,
                row.cache_write_long,
                row.output,
                row.reasoning,
            )
            snapshot = snapshots.get(row.price_id)
            stored = Amounts(row.cost_nanos, row.charged_nanos, row.list_nanos)
            if _amounts(usage, snapshot, row.lane, row.markup_bps) != stored:
                wrong.append(f"Settlement {row.id} is not its usage at its price snapshot.")
                if len(wrong) >= SHOWN_PER_RULE:
                    break
    return wrong


def _amounts(
    usage: Usage, snapshot: PriceSnapshot | None, lane: str, markup_bps: int
) -> Amounts | None:
    if snapshot is None:
        return None
    try:
        return amounts(usage, snapshot, lane, markup_bps)
    except NoBatchPrice:
        return None
