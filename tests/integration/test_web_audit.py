"""The audit log: what gets into it, who sees it, and that it stays as it was written."""

from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from gateway.access import audit_log, keys_admin
from gateway.access.audit_log import Actor, Note
from gateway.access.scopes import Scope
from models import ids
from models.audit import ActorKind
from models.ids import Prefix
from models.session import transaction
from tests.integration.web_world import OPERATOR, Customer, Web
from web.scopes import SCOPES

LOG = "/v1/audit_log"
ENDPOINT = {"name": "hooks", "url": "http://127.0.0.1:9/s3cret", "event_types": ["job.completed"]}
NOT_A_CHANGE = {
    "POST /v1/webhook_endpoints/<endpoint_id>/test",
    "POST /v1/webhook_endpoints/<endpoint_id>/recover",
    "POST /v1/webhook_deliveries/<delivery_id>/resend",
}
"""What an admin may do that sends something, and leaves every setting as it was."""
BODIES: Mapping[str, Any] = {
    "POST /v1/keys": {"name": "made"},
    "POST /v1/keys/<key_id>": {"name": "changed", "daily_usd": "5"},
    "POST /v1/keys/<key_id>/rotate": {"overlap_seconds": 60},
    "DELETE /v1/keys/<key_id>": None,
    "POST /v1/webhook_endpoints": ENDPOINT,
    "POST /v1/webhook_endpoints/<endpoint_id>": {"enabled": False, "url": "http://127.0.0.1:8/x"},
    "POST /v1/webhook_endpoints/<endpoint_id>/rotate_secret": {},
    "DELETE /v1/webhook_endpoints/<endpoint_id>": None,
    "POST /ai/widget/key": {},
    "DELETE /ai/widget/key": {},
    "PUT /ai/providers/<provider>/key": {"key": "sk-planted-provider-key-000001"},
    "POST /ai/providers/<provider>/rotate": {"key": "sk-planted-provider-key-000002"},
    "DELETE /ai/providers/<provider>/key": None,
}
"""What makes each change succeed, in an order in which it does."""


@pytest.fixture
def admin(web: Web, customer: Customer) -> FlaskClient:
    return web.client(customer)


def entries(admin: FlaskClient) -> list[dict[str, Any]]:
    """The log's newest page, newest first."""
    found: list[dict[str, Any]] = admin.get(f"{LOG}?limit=100").get_json()["data"]
    return found


def changing() -> Iterator[str]:
    """Every operation by which an admin changes something."""
    for operation, scope in SCOPES.items():
        reads = operation.startswith("GET ")
        if scope is Scope.ADMIN and not reads and operation not in NOT_A_CHANGE:
            yield operation


def test_every_change_that_an_admin_makes_is_in_the_log_once_and_tells_no_secret(
    web: Web, admin: FlaskClient
) -> None:
    assert set(changing()) == set(BODIES)
    made = {
        "key_id": admin.post("/v1/keys", json={}).get_json(),
        "endpoint_id": admin.post("/v1/webhook_endpoints", json=ENDPOINT).get_json(),
    }
    arguments = {name: each["id"] for name, each in made.items()} | {"provider": "openai"}
    secrets = [made["key_id"]["api_key"], made["endpoint_id"]["signing_secret"], "s3cret"]
    for operation, body in BODIES.items():
        method, rule = operation.split(" ")
        path = rule
        for name, value in arguments.items():
            path = path.replace(f"<{name}>", value)
        before = len(entries(admin))
        response = admin.open(path, method=method, json=body)
        assert response.status_code == 200, (operation, response.text)
        answer = response.get_json()
        secrets += [answer[each] for each in ("api_key", "signing_secret") if each in answer]
        found = entries(admin)
        assert len(found) == before + 1, operation
        assert found[0]["request_id"] == response.headers["X-Request-Id"]
    log = " ".join(web.column("SELECT audit_log::text FROM audit_log"))
    assert not [secret for secret in secrets if secret in log]
    assert "planted" not in log


def test_an_entry_tells_who_what_when_and_from_where(
    customer: Customer, admin: FlaskClient
) -> None:
    made = admin.post("/v1/keys", json={"name": "a", "daily_usd": "2"}).get_json()
    changes = {"name": "b", "daily_usd": "3", "monthly_usd": None}
    changed = admin.post(
        f"/v1/keys/{made['id']}",
        json=changes,
        environ_overrides={"REMOTE_ADDR": "203.0.113.7"},
    )
    newest = entries(admin)[0]
    assert newest == {
        "id": newest["id"],
        "object": "audit_log.entry",
        "action": "api_key.changed",
        "target_id": made["id"],
        "changes": {
            "name": {"from": "a", "to": "b"},
            "daily_usd": {"from": "2", "to": "3"},
        },
        "actor": {
            "type": "api_key",
            "id": ids.show(Prefix.KEY, customer.key_id),
            "name": None,
        },
        "remote_address": "203.0.113.7",
        "request_id": changed.headers["X-Request-Id"],
        "created_at": newest["created_at"],
    }
    assert newest["created_at"] >= made["created_at"]


def test_what_changes_nothing_is_not_in_the_log(admin: FlaskClient) -> None:
    made = admin.post("/v1/keys", json={"name": "a"}).get_json()
    before = entries(admin)
    assert admin.post(f"/v1/keys/{made['id']}", json={"name": "a"}).status_code == 200
    assert admin.post(f"/v1/keys/{made['id']}", json={"requests_per_minute": 99}).status_code == 400
    assert admin.post(f"/v1/keys/key_{'0' * 32}", json={"name": "b"}).status_code == 404
    assert admin.delete(f"/v1/webhook_endpoints/whe_{'0' * 32}").status_code == 404
    assert entries(admin) == before
    for _ in range(2):
        admin.delete(f"/v1/keys/{made['id']}")
    assert len(entries(admin)) == len(before) + 1


def test_the_log_is_read_newest_first_a_page_at_a_time(admin: FlaskClient) -> None:
    for number in range(3):
        admin.post("/v1/keys", json={"name": str(number)})
    first = admin.get(f"{LOG}?limit=2").get_json()
    assert [each["changes"]["name"] for each in first["data"]] == ["2", "1"]
    assert first["has_more"]
    second = admin.get(f"{LOG}?limit=2&after={first['last_id']}").get_json()
    assert [each["changes"]["name"] for each in second["data"]] == ["0"]
    assert not second["has_more"]


def test_nobody_sees_anothers_log_nor_pages_by_it(web: Web, admin: FlaskClient) -> None:
    admin.post("/v1/keys", json={})
    (entry,) = entries(admin)
    stranger = web.client(web.customer())
    assert entries(stranger) == []
    assert stranger.get(f"{LOG}?after={entry['id']}").status_code == 404


def test_a_change_and_its_entry_are_there_together_or_not_at_all(
    web: Web, customer: Customer
) -> None:
    def make_and_fail() -> None:
        with transaction(web.engine) as session:
            digest, account_id = web.state.house.digest, customer.account_id
            keys_admin.create(session, digest, OPERATOR, account_id, {"name": "lost"})
            raise LookupError

    with pytest.raises(LookupError):
        make_and_fail()
    assert web.count("audit_log") == 0
    # An entry that the table refuses takes the change with it.
    nobody = Actor(ActorKind.OPERATOR)
    with pytest.raises(IntegrityError), transaction(web.engine) as session:
        keys_admin.revoke(session, nobody, customer.account_id, customer.key_id)
    assert web.column("SELECT revoked_at FROM api_keys") == [None]


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit_log SET action = 'nothing'",
        "DELETE FROM audit_log",
        "UPDATE audit_log SET action = 'nothing' WHERE false",
    ],
)
def test_an_entry_is_neither_changed_nor_deleted(
    web: Web, customer: Customer, statement: str
) -> None:
    with transaction(web.engine) as session:
        audit_log.record(session, OPERATOR, customer.account_id, Note("account.created", "acct_"))
    refused = pytest.raises(IntegrityError, match="neither changed nor deleted")
    with refused, transaction(web.engine) as session:
        session.execute(text(statement))
    assert web.column("SELECT action FROM audit_log") == ["account.created"]
