"""The operators' commands for accounts, keys and the audit log."""

from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest

from gateway.access import keys
from gateway.access.scopes import ALL_SCOPES
from models import ids
from models.ids import Prefix
from tests.integration.web_world import Customer, Web

NOBODY = f"key_{'0' * 32}"


def run(web: Web, *arguments: str) -> dict[str, Any]:
    """A command's answer to a machine."""
    result = web.app.test_cli_runner().invoke(args=[*arguments, "--json"])
    assert result.exit_code == 0, result.output
    answer: dict[str, Any] = orjson.loads(result.stdout.splitlines()[-1])
    return answer


def refusal(web: Web, *arguments: str) -> str:
    """What a command that refuses says."""
    result = web.app.test_cli_runner().invoke(args=list(arguments))
    assert result.exit_code != 0
    assert "Traceback" not in result.output
    return result.output


@pytest.fixture
def account_id(customer: Customer) -> str:
    return ids.show(Prefix.ACCOUNT, customer.account_id)


def listed(web: Web, account_id: str, key_id: str) -> dict[str, Any]:
    shown = run(web, "keys", "list", account_id)["keys"]
    (found,) = [key for key in shown if key["id"] == key_id]
    key: dict[str, Any] = found
    return key


def actions(web: Web, account_id: str) -> list[str]:
    return [entry["action"] for entry in run(web, "audit", "list", account_id)["entries"]]


def test_the_first_key_of_an_account_may_do_everything(web: Web) -> None:
    made = run(web, "accounts", "create", "Ada", "--credit", "12.5")
    assert keys.is_well_formed(made["api_key"])
    (key,) = run(web, "keys", "list", made["account_id"])["keys"]
    assert set(key["scopes"]) == ALL_SCOPES
    log = run(web, "audit", "list", made["account_id"])["entries"]
    assert [entry["action"] for entry in log] == [
        "account.credited",
        "api_key.created",
        "account.created",
    ]
    assert log[0]["changes"] == {"amount_usd": "12.5", "note": "opening credit"}
    assert {entry["actor"]["type"] for entry in log} == {"operator"}
    assert all(entry["actor"]["name"] for entry in log)
    assert made["api_key"] not in str(log)


def test_a_credit_is_in_the_audit_log(web: Web, account_id: str) -> None:
    run(web, "accounts", "credit", account_id, "3", "--note", "sorry")
    (entry,) = run(web, "audit", "list", account_id)["entries"]
    assert (entry["action"], entry["target_id"]) == ("account.credited", account_id)
    assert entry["changes"] == {"amount_usd": "3", "note": "sorry"}


def test_a_key_is_made_as_the_options_say(web: Web, account_id: str) -> None:
    plain = run(web, "keys", "create", account_id)
    assert set(listed(web, account_id, plain["key_id"])["scopes"]) == ALL_SCOPES
    made = run(
        web,
        *("keys", "create", account_id, "--name", "ci", "--scope", "inference", "--scope", "admin"),
        *("--model", "gpt-4o-mini", "--requests-per-minute", "900", "--daily-usd", "4"),
        *("--monthly-usd", "40", "--expires", "2h"),
    )
    key = listed(web, account_id, made["key_id"])
    assert key["name"] == "ci"
    assert key["scopes"] == ["admin", "inference"]
    assert key["models"] == ["openai/gpt-4o-mini"]
    assert (key["requests_per_minute"], key["daily_usd"], key["monthly_usd"]) == (900, "4", "40")
    in_two_hours = (datetime.now(UTC) + timedelta(hours=2)).timestamp()
    assert key["expires_at"] == pytest.approx(in_two_hours, abs=60)


def test_a_key_is_renamed_limited_allowed_expired_rotated_and_revoked(
    web: Web, account_id: str
) -> None:
    made = run(web, "keys", "create", account_id, "--daily-usd", "9")
    key_id = made["key_id"]
    assert run(web, "keys", "rename", key_id, "new")["name"] == "new"
    limited = run(web, "keys", "limit", key_id, "--requests-per-minute", "5000")
    assert (limited["requests_per_minute"], limited["daily_usd"]) == (5000, "9")
    assert run(web, "keys", "limit", key_id, "--default")["daily_usd"] == "100"
    allowed = run(web, "keys", "allow", key_id, "--scope", "jobs:read", "--model", "gpt-4o")
    assert (allowed["scopes"], allowed["models"]) == (["jobs:read"], ["openai/gpt-4o"])
    assert run(web, "keys", "allow", key_id, "--every-model")["models"] is None
    assert run(web, "keys", "expire", key_id, "30d")["expires_at"] is not None
    assert run(web, "keys", "expire", key_id, "--never")["expires_at"] is None
    rotated = run(web, "keys", "rotate", key_id, "--overlap-seconds", "60")
    assert rotated["api_key"] != made["api_key"]
    assert run(web, "keys", "revoke", key_id) == {"key_id": key_id, "revoked": True}
    assert listed(web, account_id, key_id)["status"] == "revoked"
    assert actions(web, account_id) == [
        "api_key.revoked",
        "api_key.rotated",
        *["api_key.changed"] * 7,
        "api_key.created",
    ]


def test_what_cannot_be_is_refused_in_a_sentence(web: Web, account_id: str) -> None:
    made = run(web, "keys", "create", account_id)["key_id"]
    assert "no such key" in refusal(web, "keys", "rename", NOBODY, "x")
    assert "no such key" in refusal(web, "keys", "revoke", NOBODY)
    assert "no such key" in refusal(web, "keys", "rotate", NOBODY)
    assert "no such account" in refusal(web, "keys", "create", f"acct_{'0' * 32}")
    assert "no model" in refusal(web, "keys", "create", account_id, "--model", "nothing")
    assert "no time to come" in refusal(web, "keys", "expire", made, "2001-01-01T00:00:00Z")
    assert "--never" in refusal(web, "keys", "expire", made)
    assert "what to change" in refusal(web, "keys", "limit", made)
    assert "begin after" in refusal(web, "keys", "list", account_id, "--after", NOBODY)
    run(web, "keys", "revoke", made)
    assert "expired or revoked" in refusal(web, "keys", "rename", made, "x")
    assert actions(web, account_id) == ["api_key.revoked", "api_key.created"]


def test_people_read_lists_as_lines(web: Web, account_id: str) -> None:
    run(web, "keys", "create", account_id, "--name", "ci")
    runner = web.app.test_cli_runner()
    shown = runner.invoke(args=["keys", "list", account_id]).output.splitlines()
    assert [line.split()[1] for line in shown] == ["active", "active"]
    assert shown[0].endswith("ci")
    (line,) = runner.invoke(args=["audit", "list", account_id]).output.splitlines()
    assert "api_key.created" in line
    assert "type=operator" in line
