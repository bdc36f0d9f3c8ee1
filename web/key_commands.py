"""The operator commands for keys and for the audit log."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import click
from flask.cli import AppGroup, with_appcontext
from sqlalchemy.orm import Session

from gateway.access import accounts, audit_log, keys_admin
from gateway.access.audit_log import UnknownCursor
from gateway.access.keys_admin import LONGEST_OVERLAP, KeyEnded, KeyView, TooManyKeys
from gateway.access.scopes import ALL_SCOPES, Scope
from gateway.calls.options import read_moment
from models import ids
from models.ids import Prefix
from models.session import transaction
from web.audit import entry_json
from web.command_line import OutsideId, Usd, json_option, operator, process_state, say, say_list
from web.keys import key_json, model_ids

LONGEST_OVERLAP_SECONDS = round(LONGEST_OVERLAP.total_seconds())
DAY_SECONDS = 86_400

account_argument = click.argument("account_id", type=OutsideId(Prefix.ACCOUNT))
key_argument = click.argument("key_id", type=OutsideId(Prefix.KEY))
scope_option = click.option(
    "--scope", "scopes", multiple=True, type=click.Choice([scope.value for scope in Scope])
)
model_option = click.option("--model", "models", multiple=True, help="Only this one; repeatable.")
limit_option = click.option("--limit", type=click.IntRange(1, 1000), default=50)
requests_option = click.option("--requests-per-minute", type=click.IntRange(min=1))
daily_option = click.option("--daily-usd", "daily_nanos", type=Usd())
monthly_option = click.option("--monthly-usd", "monthly_nanos", type=Usd())


class Moment(click.ParamType[datetime]):
    """A time to come: seconds, a duration such as `30d`, or RFC 3339."""

    name = "time"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> datetime:
        """The moment."""
        now = datetime.now(UTC)
        moment = value if isinstance(value, datetime) else read_moment(value, now)
        if moment is None or moment <= now:
            self.fail(f"{value!r} is no time to come, such as 30d or an RFC 3339 time", param, ctx)
        return moment


keys_group = AppGroup("keys", help="API keys.")


@keys_group.command("create")
@account_argument
@click.option("--name", default="", help="What the key is for.")
@scope_option
@model_option
@requests_option
@daily_option
@monthly_option
@click.option("--expires", "expires_at", type=Moment(), help="30d, or an RFC 3339 time.")
@json_option
@with_appcontext
def create_key(
    account_id: UUID,
    scopes: Sequence[str],
    models: Sequence[str],
    as_json: bool,
    **fields: Any,
) -> None:
    """Makes a key for an account; it is shown this once.

    Without --scope it may do everything; without --model it may call every model.
    """
    fields["scopes"] = frozenset(map(Scope, scopes)) or ALL_SCOPES
    fields["models"] = _models(models)
    house = process_state().house
    with _told(), transaction(house.engine) as session:
        if not accounts.exists(session, account_id):
            raise click.ClickException("There is no such account.")
        key, made = keys_admin.create(session, house.digest, operator(), account_id, fields)
    say({"key_id": ids.show(Prefix.KEY, key.id), "api_key": made.text}, as_json)


@keys_group.command("list")
@account_argument
@limit_option
@click.option("--after", type=OutsideId(Prefix.KEY), help="Begin after this one.")
@json_option
@with_appcontext
def list_keys(account_id: UUID, limit: int, after: UUID | None, as_json: bool) -> None:
    """An account's keys, newest first."""
    with _told(), transaction(process_state().house.engine) as session:
        page = keys_admin.page(session, account_id, limit=limit, after=after)
    columns = ("id", "status", "preview", "requests_per_minute", "daily_usd", "name")
    say_list("keys", [key_json(each) for each in page], columns, as_json)


@keys_group.command("rename")
@key_argument
@click.argument("name")
@json_option
@with_appcontext
def rename_key(key_id: UUID, name: str, as_json: bool) -> None:
    """Gives a key another name."""
    _change(key_id, {"name": name}, as_json)


@keys_group.command("limit")
@key_argument
@requests_option
@daily_option
@monthly_option
@click.option("--default", "to_default", is_flag=True, help="Those that are not named: default.")
@json_option
@with_appcontext
def limit_key(key_id: UUID, to_default: bool, as_json: bool, **limits: int | None) -> None:
    """Sets a key's limits."""
    wanted = {name: each for name, each in limits.items() if to_default or each is not None}
    _change(key_id, wanted, as_json)


@keys_group.command("allow")
@key_argument
@scope_option
@model_option
@click.option("--every-model", is_flag=True, help="Whatever is served.")
@json_option
@with_appcontext
def allow_key(
    key_id: UUID, scopes: Sequence[str], models: Sequence[str], every_model: bool, as_json: bool
) -> None:
    """Sets what a key may do, and which models it may call."""
    changes: dict[str, Any] = {}
    if scopes:
        changes["scopes"] = frozenset(map(Scope, scopes))
    if models or every_model:
        changes["models"] = None if every_model else _models(models)
    _change(key_id, changes, as_json)


@keys_group.command("expire")
@key_argument
@click.argument("expires_at", type=Moment(), metavar="WHEN", required=False)
@click.option("--never", is_flag=True)
@json_option
@with_appcontext
def expire_key(key_id: UUID, expires_at: datetime | None, never: bool, as_json: bool) -> None:
    """Sets when a key expires: 30d, or an RFC 3339 time."""
    if never == (expires_at is not None):
        raise click.UsageError("Give a time, or --never.")
    _change(key_id, {"expires_at": expires_at}, as_json)


@keys_group.command("rotate")
@key_argument
@click.option(
    "--overlap-seconds",
    type=click.IntRange(0, LONGEST_OVERLAP_SECONDS),
    default=DAY_SECONDS,
    show_default=True,
    help="How long the text before opens as well.",
)
@json_option
@with_appcontext
def rotate_key(key_id: UUID, overlap_seconds: int, as_json: bool) -> None:
    """Gives a key a new text, which is shown this once."""
    house, overlap = process_state().house, timedelta(seconds=overlap_seconds)
    with _told(), transaction(house.engine) as session:
        account_id = _owner(session, key_id)
        rotated = keys_admin.rotate(session, house.digest, operator(), account_id, key_id, overlap)
        assert rotated is not None
    say({"key_id": ids.show(Prefix.KEY, key_id), "api_key": rotated[1].text}, as_json)


@keys_group.command("revoke")
@key_argument
@json_option
@with_appcontext
def revoke_key(key_id: UUID, as_json: bool) -> None:
    """Revokes a key; it opens nothing from two seconds later on."""
    with transaction(process_state().house.engine) as session:
        keys_admin.revoke(session, operator(), _owner(session, key_id), key_id)
    say({"key_id": ids.show(Prefix.KEY, key_id), "revoked": True}, as_json)


audit_group = AppGroup("audit", help="Who changed what.")


@audit_group.command("list")
@account_argument
@limit_option
@click.option("--after", type=OutsideId(Prefix.AUDIT), help="Begin after this one.")
@json_option
@with_appcontext
def list_audit_log(account_id: UUID, limit: int, after: UUID | None, as_json: bool) -> None:
    """The changes of an account, of its keys and its settings, newest first."""
    with _told(), transaction(process_state().house.engine) as session:
        page = audit_log.page(session, account_id, limit=limit, after=after)
    columns = ("created_at", "action", "target_id", "actor", "remote_address", "changes")
    say_list("entries", [entry_json(each) for each in page], columns, as_json)


def _change(key_id: UUID, changes: dict[str, Any], as_json: bool) -> None:
    if not changes:
        raise click.UsageError("Say what to change.")
    with _told(), transaction(process_state().house.engine) as session:
        changed: KeyView | None = keys_admin.change(
            session, operator(), _owner(session, key_id), key_id, changes
        )
        assert changed is not None
    say(key_json(changed), as_json)


def _owner(session: Session, key_id: UUID) -> UUID:
    account_id = keys_admin.owner_of(session, key_id)
    if account_id is None:
        raise click.ClickException("There is no such key.")
    return account_id


def _models(names: Sequence[str]) -> frozenset[str] | None:
    try:
        return model_ids(names) or None
    except LookupError as error:
        raise click.ClickException(f"There is no model {error}.") from error


@contextmanager
def _told() -> Iterator[None]:
    """Tells in a sentence why something is refused."""
    try:
        yield
    except KeyEnded as error:
        raise click.ClickException("The key is expired or revoked.") from error
    except TooManyKeys as error:
        raise click.ClickException("The account has as many keys as it may have.") from error
    except UnknownCursor as error:
        raise click.ClickException("There is nothing of that id to begin after.") from error
