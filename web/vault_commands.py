"""The operator commands for what is sealed: `flask --app web vault …`."""

import sys

from flask.cli import AppGroup, with_appcontext

from gateway.access.rewrapping import DATA_KEYS, WEBHOOK_SECRETS, rewrap
from web.command_line import json_option, process_state, say

vault_group = AppGroup("vault", help="What is kept encrypted.")


@vault_group.command("rewrap")
@json_option
@with_appcontext
def rewrap_vault(as_json: bool) -> None:
    """Seals anew, under ENCRYPTION_KEY, what is under ENCRYPTION_KEY_PREVIOUS; exit 1 if it cannot.

    Customers' provider keys themselves are left as they are: only their data keys are sealed anew.
    """
    house = process_state().house
    vaults = {
        **dict.fromkeys(DATA_KEYS, house.data_key_vault),
        **dict.fromkeys(WEBHOOK_SECRETS, house.webhook_vault),
    }
    done = rewrap(house.engine, vaults)
    say({"rewrapped": done.count, "broken": done.broken}, as_json)
    if done.broken:
        sys.exit(1)
