"""The operator commands for publishable keys."""

from uuid import UUID

import click
from flask.cli import AppGroup, with_appcontext

from gateway.access import audit_log, widget_keys
from gateway.access.audit_log import Note
from models import ids
from models.ids import Prefix
from models.session import transaction
from web.command_line import OutsideId, json_option, operator, process_state, say, say_list
from web.widgets import key_json

widget_keys_group = AppGroup("widget_keys", help="Publishable keys.")


@widget_keys_group.command("list")
@click.argument("account_id", type=OutsideId(Prefix.ACCOUNT))
@json_option
@with_appcontext
def list_widget_keys(account_id: UUID, as_json: bool) -> None:
    """An account's publishable keys that are not revoked, newest first."""
    with transaction(process_state().house.engine) as session:
        found = widget_keys.usable(session, account_id)
    columns = ("id", "keyPreview", "agentId", "requestsPerMinute", "allowedOrigins")
    say_list("keys", [key_json(key) for key in found], columns, as_json)


@widget_keys_group.command("revoke")
@click.argument("key_id", type=OutsideId(Prefix.WIDGET_KEY))
@json_option
@with_appcontext
def revoke_widget_key(key_id: UUID, as_json: bool) -> None:
    """Revokes a publishable key; it opens nothing from two seconds later on."""
    shown = ids.show(Prefix.WIDGET_KEY, key_id)
    with transaction(process_state().house.engine) as session:
        account_id = widget_keys.owner(session, key_id)
        if account_id is None:
            raise click.ClickException("There is no such key.")
        if widget_keys.revoke(session, account_id, key_id=key_id):
            audit_log.record(session, operator(), account_id, Note("widget_key.revoked", shown))
    say({"key_id": shown, "revoked": True}, as_json)
