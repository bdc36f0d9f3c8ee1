"""The operator commands: `flask --app web …`. `--json` answers for machines."""

import sys
from decimal import InvalidOperation
from uuid import UUID

import click
import orjson
from flask import Flask, current_app
from flask.cli import AppGroup, with_appcontext
from sqlalchemy import text

from gateway.access import accounts, keys
from gateway.billing import audit, ledger
from gateway.billing.prices import format_usd, parse_usd
from gateway.webhooks.signing import new_secret
from models import ids
from models.ids import Prefix
from models.session import transaction
from web.state import EXTENSION, State

json_option = click.option("--json", "as_json", is_flag=True, help="Answer as one line of JSON.")


class Usd(click.ParamType[int]):
    """A positive amount of USD, read exactly."""

    name = "usd"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        """Nano-USD."""
        if isinstance(value, int):
            return value
        try:
            nanos = parse_usd(str(value))
        except (ValueError, InvalidOperation) as error:
            self.fail(f"{value!r} is not an amount of USD: {error}", param, ctx)
        if nanos <= 0:
            self.fail("the amount must be more than 0", param, ctx)
        return nanos


class OutsideId(click.ParamType[UUID]):
    """An id with its prefix."""

    name = "id"

    def __init__(self, prefix: Prefix) -> None:
        self._prefix = prefix

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> UUID:
        """The UUID behind it."""
        parsed = ids.parse(self._prefix, str(value))
        if parsed is None:
            self.fail(f"{value!r} is not an id that begins with {self._prefix}", param, ctx)
        return parsed


def _state() -> State:
    found: State = current_app.extensions[EXTENSION]
    return found


def _say(answer: dict[str, object], as_json: bool) -> None:
    if as_json:
        click.echo(orjson.dumps(answer).decode())
        return
    for name, value in answer.items():
        click.echo(f"{name}: {value}")


accounts_group = AppGroup("accounts", help="Accounts and their credit.")


@accounts_group.command("create")
@click.argument("name")
@click.option("--credit", "credit_nanos", type=Usd(), help="USD to credit at once.")
@json_option
@with_appcontext
def create_account(name: str, credit_nanos: int | None, as_json: bool) -> None:
    """Makes an account and its first key, which is shown this once."""
    house = _state().house
    with transaction(house.engine) as session:
        account_id = accounts.create(session, house.webhook_vault, name, new_secret())
        key = keys.create(session, house.digest, account_id, name="default")
        if credit_nanos is not None:
            ledger.deposit(session, account_id, credit_nanos, "opening credit")
    _say({"account_id": ids.show(Prefix.ACCOUNT, account_id), "api_key": key.text}, as_json)


@accounts_group.command("credit")
@click.argument("account_id", type=OutsideId(Prefix.ACCOUNT))
@click.argument("amount_nanos", type=Usd(), metavar="USD")
@click.option("--note", required=True, help="Why; kept with the transfer.")
@json_option
@with_appcontext
def credit_account(account_id: UUID, amount_nanos: int, note: str, as_json: bool) -> None:
    """Credits an account."""
    with transaction(_state().house.engine) as session:
        if not accounts.exists(session, account_id):
            raise click.ClickException("There is no such account.")
        ledger.deposit(session, account_id, amount_nanos, note)
    _say(
        {
            "account_id": ids.show(Prefix.ACCOUNT, account_id),
            "credited_usd": format_usd(amount_nanos),
        },
        as_json,
    )


keys_group = AppGroup("keys", help="API keys.")


@keys_group.command("create")
@click.argument("account_id", type=OutsideId(Prefix.ACCOUNT))
@click.option("--name", default="", help="What the key is for.")
@click.option("--requests-per-minute", type=click.IntRange(min=1))
@click.option("--daily-usd", "daily_nanos", type=Usd())
@click.option("--monthly-usd", "monthly_nanos", type=Usd())
@json_option
@with_appcontext
def create_key(
    account_id: UUID,
    name: str,
    requests_per_minute: int | None,
    daily_nanos: int | None,
    monthly_nanos: int | None,
    as_json: bool,
) -> None:
    """Makes a key for an account; it is shown this once."""
    house = _state().house
    with transaction(house.engine) as session:
        if not accounts.exists(session, account_id):
            raise click.ClickException("There is no such account.")
        key = keys.create(
            session,
            house.digest,
            account_id,
            name=name,
            requests_per_minute=requests_per_minute,
            daily_nanos=daily_nanos,
            monthly_nanos=monthly_nanos,
        )
    _say({"key_id": ids.show(Prefix.KEY, key.id), "api_key": key.text}, as_json)


@keys_group.command("revoke")
@click.argument("key_id", type=OutsideId(Prefix.KEY))
@json_option
@with_appcontext
def revoke_key(key_id: UUID, as_json: bool) -> None:
    """Revokes a key; it opens nothing from two seconds later on."""
    with transaction(_state().house.engine) as session:
        if not keys.revoke(session, key_id):
            raise click.ClickException("There is no such key.")
    _say({"key_id": ids.show(Prefix.KEY, key_id), "revoked": True}, as_json)


ledger_group = AppGroup("ledger", help="The books.")


@ledger_group.command("verify")
@json_option
@with_appcontext
def verify_ledger(as_json: bool) -> None:
    """Checks every invariant of the books; exit 1 if one does not hold."""
    report = audit.verify(_state().house.engine)
    _say(
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
    with transaction(_state().house.engine) as session:
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
    for group in (accounts_group, keys_group, ledger_group, batches_group):
        app.cli.add_command(group)
