"""The operator commands about money: the books, and what the providers say of them."""

import sys
from collections.abc import Sequence

import click
import orjson
from flask.cli import AppGroup, with_appcontext
from sqlalchemy import RowMapping

from gateway.billing import audit, export
from gateway.billing.export import Table
from gateway.billing.prices import format_usd
from gateway.billing.pricing import PriceBook
from gateway.reconciliation import records
from gateway.reconciliation.run import DAYS
from gateway.reconciling import reconcile
from models.session import transaction
from web.command_line import json_option, process_state, say

SHOWN = 100
MONEY = ("provider", "explained", "in_flight", "orphaned", "unexplained", "excess")

ledger_group = AppGroup("ledger", help="The books.")


@ledger_group.command("verify")
@json_option
@with_appcontext
def verify_ledger(as_json: bool) -> None:
    """Checks every invariant of the books; exit 1 if one does not hold."""
    report = audit.verify(process_state().house.engine)
    say(
        {
            "transfers": report.transfers,
            "imbalance_nanos": report.imbalance_nanos,
            "open_holds": report.open_holds,
            "unpriced": report.unpriced,
            "violations": report.violations,
        },
        as_json,
    )
    if not report.is_clean:
        sys.exit(1)


@ledger_group.command("export")
@click.option(
    "--csv",
    "table",
    type=click.Choice([table.value for table in Table]),
    help="One table as CSV instead of all of them as JSON lines.",
)
@with_appcontext
def export_ledger(table: str | None) -> None:
    """Writes the books to stdout: all that it takes to compute every charge again."""
    engine = process_state().house.engine
    lines = export.json_lines(engine) if table is None else export.csv_lines(engine, Table(table))
    for line in lines:
        sys.stdout.buffer.write(line)
    sys.stdout.buffer.flush()


reconcile_group = AppGroup("reconcile", help="What the providers count against the books.")
days_option = click.option(
    "--days", type=click.IntRange(1, 31), default=DAYS, help="UTC days, today's included."
)


@reconcile_group.command("run")
@days_option
@json_option
@with_appcontext
def run_reconciliation(days: int, as_json: bool) -> None:
    """Asks the providers now; exit 1 if one did not answer."""
    outcome = reconcile(process_state().house, PriceBook(), days)
    say(
        {
            "compared": outcome.compared,
            "priced": outcome.priced,
            "alerts": outcome.alerts,
            "not_asked": outcome.not_asked,
        },
        as_json,
    )
    if outcome.not_asked:
        sys.exit(1)


@reconcile_group.command("report")
@days_option
@json_option
@with_appcontext
def report_reconciliation(days: int, as_json: bool) -> None:
    """What the last run found, by day and model; exit 1 if something is unexplained."""
    with transaction(process_state().house.engine) as session:
        first = records.first_day(session, days)
        totals = records.totals(session, first)
        unexplained = records.unexplained(session, first, SHOWN)
    if as_json:
        found = {"totals": list(totals), "unexplained": list(unexplained)}
        click.echo(orjson.dumps(found, default=dict).decode())
    else:
        _print(totals, unexplained)
    if unexplained:
        sys.exit(1)


def _print(totals: Sequence[RowMapping], unexplained: Sequence[RowMapping]) -> None:
    for row in totals:
        amounts = "  ".join(f"{name} ${format_usd(row[f'{name}_nanos'])}" for name in MONEY)
        click.echo(f"{row['day']}  {row['source']:<7}  {row['provider']}/{row['model']}  {amounts}")
    for row in unexplained:
        click.echo(
            f"unexplained: {row['day']}  {row['source']}  {row['provider']}/{row['model']}  "
            f"{row['subject']}  ${format_usd(row['unexplained_nanos'])} not booked, "
            f"${format_usd(row['excess_nanos'])} not counted, {row['unexplained_requests']} answers"
        )
