"""The operator commands: `flask --app web …`. `--json` answers for machines."""

from uuid import UUID

import click
import orjson
from flask import Flask
from flask.cli import AppGroup, with_appcontext
from sqlalchemy import text
from sqlalchemy.orm import Session

from gateway.access import accounts, audit_log, keys_admin
from gateway.access.audit_log import Note
from gateway.access.scopes import ALL_SCOPES
from gateway.analytics import low_balance
from gateway.billing import ledger
from gateway.billing.prices import format_usd
from gateway.webhooks.signing import new_secret
from models import ids
from models.ids import Prefix
from models.session import transaction
from web.command_line import OutsideId, Usd, json_option, operator, process_state, say
from web.key_commands import audit_group, keys_group
from web.ledger_commands import ledger_group, reconcile_group
from web.vault_commands import vault_group
from web.widget_commands import widget_keys_group

accounts_group = AppGroup("accounts", help="Accounts and their credit.")


@accounts_group.command("create")
@click.argument("name")
@click.option("--credit", "credit_nanos", type=Usd(), help="USD to credit at once.")
@json_option
@with_appcontext
def create_account(name: str, credit_nanos: int | None, as_json: bool) -> None:
    """Makes an account and its first key, which may do everything and is shown this once."""
    house = process_state().house
    with transaction(house.engine) as session:
        account_id = accounts.create(session, house.webhook_vault, name, new_secret())
        outside_id = ids.show(Prefix.ACCOUNT, account_id)
        audit_log.record(
            session, operator(), account_id, Note("account.created", outside_id, {"name": name})
        )
        first = {"name": "default", "scopes": ALL_SCOPES}
        _, key = keys_admin.create(session, house.digest, operator(), account_id, first)
        if credit_nanos is not None:
            _credit(session, account_id, credit_nanos, "opening credit")
    say({"account_id": outside_id, "api_key": key.text}, as_json)


@accounts_group.command("credit")
@click.argument("account_id", type=OutsideId(Prefix.ACCOUNT))
@click.argument("amount_nanos", type=Usd(), metavar="USD")
@click.option("--note", required=True, help="Why; kept with the transfer.")
@json_option
@with_appcontext
def credit_account(account_id: UUID, amount_nanos: int, note: str, as_json: bool) -> None:
    """Credits an account."""
    with transaction(process_state().house.engine) as session:
        if not accounts.exists(session, account_id):
            raise click.ClickException("There is no such account.")
        _credit(session, account_id, amount_nanos, note)
    say(
        {
            "account_id": ids.show(Prefix.ACCOUNT, account_id),
            "credited_usd": format_usd(amount_nanos),
        },
        as_json,
    )


@accounts_group.command("threshold")
@click.argument("account_id", type=OutsideId(Prefix.ACCOUNT))
@click.argument("threshold_nanos", type=Usd(), metavar="[USD]", required=False)
@json_option
@with_appcontext
def set_threshold(account_id: UUID, threshold_nanos: int | None, as_json: bool) -> None:
    """Sets below which balance an account is told `balance.low`; without USD, never."""
    outside_id = ids.show(Prefix.ACCOUNT, account_id)
    changes = {"low_balance_nanos": threshold_nanos}
    with transaction(process_state().house.engine) as session:
        if not accounts.exists(session, account_id):
            raise click.ClickException("There is no such account.")
        low_balance.set_threshold(session, account_id, threshold_nanos)
        note = Note("account.threshold_set", outside_id, changes)
        audit_log.record(session, operator(), account_id, note)
    shown = None if threshold_nanos is None else format_usd(threshold_nanos)
    say({"account_id": outside_id, "low_balance_usd": shown}, as_json)


def _credit(session: Session, account_id: UUID, amount_nanos: int, note: str) -> None:
    ledger.deposit(session, account_id, amount_nanos, note)
    changes = {"amount_nanos": amount_nanos, "note": note}
    outside_id = ids.show(Prefix.ACCOUNT, account_id)
    audit_log.record(session, operator(), account_id, Note("account.credited", outside_id, changes))


batches_group = AppGroup("batches", help="Provider batches.")

_BATCHES = text(
    """
    SELECT b.id, b.status, b.external_id, b.request_count, b.created_at, b.due_at, b.refusals,
           b.last_error, lanes.provider, lanes.credential, lanes.endpoint, lanes.model
    FROM provider_batches AS b JOIN lanes ON lanes.id = b.lane_id ORDER BY b.id DESC LIMIT :limit
    """
)


@batches_group.command("list")
@click.option("--limit", type=click.IntRange(1, 1000), default=50)
@json_option
@with_appcontext
def list_batches(limit: int, as_json: bool) -> None:
    """The newest provider batches."""
    with transaction(process_state().house.engine) as session:
        rows = session.execute(_BATCHES, {"limit": limit}).mappings().all()
    shown = [{**row, "id": ids.show(Prefix.PROVIDER_BATCH, row["id"])} for row in rows]
    if as_json:
        click.echo(orjson.dumps({"batches": shown}).decode())
        return
    for row in shown:
        click.echo(
            f"{row['id']}  {row['status']:<11}  {row['request_count']:>6}  "
            f"{row['provider']}/{row['model']}  {row['external_id'] or '-'}"
        )


def register(app: Flask) -> None:
    """Adds the commands to the app's command line."""
    for group in (
        accounts_group,
        keys_group,
        widget_keys_group,
        audit_group,
        ledger_group,
        reconcile_group,
        batches_group,
        vault_group,
    ):
        app.cli.add_command(group)
