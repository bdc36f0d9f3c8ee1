"""Publishable keys as their owners see them: made, listed, revoked, audited."""

import re
import time
from typing import Any

import orjson
import pytest
from sqlalchemy import text

from gateway.access.scopes import ALL_SCOPES, Scope
from gateway.access.widget_keys import KEYS_MAX, WidgetKeyDigest
from models.session import transaction
from tests.integration.web_world import Customer, Web
from tests.integration.widget_world import KEY, PAGE, flat, listed, made


@pytest.mark.parametrize("body", [None, {}, {"agent_id": "agent_abc123"}])
def test_a_key_is_made_as_the_page_says(
    web: Web, customer: Customer, body: dict[str, str] | None
) -> None:
    client = web.client(customer)
    response = client.post(KEY) if body is None else client.post(KEY, json=body)
    answer = response.get_json()
    assert response.status_code == 200
    assert answer.keys() == {"key", "keyPreview"}
    assert re.fullmatch(r"pk_[0-9A-Za-z]{32}", answer["key"])
    assert answer["keyPreview"] == answer["key"][:7]
    (key,) = listed(web, customer)
    assert key.pop("createdAt") == pytest.approx(time.time(), abs=60)
    assert re.fullmatch(r"wkey_[0-9a-f]{32}", key.pop("id"))
    assert key == {
        "keyPreview": answer["keyPreview"],
        "agentId": (body or {}).get("agent_id"),
        "allowedOrigins": [],
        "models": None,
        "requestsPerMinute": 60,
        "visitorRequestsPerMinute": 20,
        "dailyUsd": 5,
        "monthlyUsd": 50,
    }


def test_a_key_has_the_terms_it_was_made_with(web: Web, customer: Customer) -> None:
    made(
        web,
        customer,
        allowed_origins=[PAGE.upper(), PAGE, "https://*.example.org"],
        models=["openai/gpt-4o-mini"],
        requests_per_minute=600,
        visitor_requests_per_minute=3,
        daily_usd="0.25",
        monthly_usd="2",
    )
    (key,) = listed(web, customer)
    assert key["allowedOrigins"] == [PAGE, "https://*.example.org"]
    assert key["models"] == ["openai/gpt-4o-mini"]
    assert (key["requestsPerMinute"], key["visitorRequestsPerMinute"]) == (600, 3)
    assert (key["dailyUsd"], key["monthlyUsd"]) == (0.25, 2)


@pytest.mark.parametrize(
    ("terms", "field"),
    [
        ({"agent_id": ""}, "agent_id"),
        ({"agent_id": "a b"}, "agent_id"),
        ({"allowed_origins": ["*"]}, "allowed_origins"),
        ({"allowed_origins": ["https://a.example/"]}, "allowed_origins"),
        ({"models": ["no-such-model"]}, "no-such-model"),
        ({"requests_per_minute": 601}, "requests_per_minute"),
        ({"visitor_requests_per_minute": 0}, "visitor_requests_per_minute"),
        ({"daily_usd": "-1"}, "daily_usd"),
        ({"monthly_usd": "a lot"}, "monthly_usd"),
        ({"origins": []}, "origins"),
    ],
)
def test_terms_that_are_wrong_are_refused_and_named(
    web: Web, customer: Customer, terms: dict[str, Any], field: str
) -> None:
    response = web.client(customer).post(KEY, json=terms)
    assert flat(response) == (400, "BAD_REQUEST")
    assert field in response.get_json()["message"]
    assert web.count("widget_keys") == 0


def test_an_account_has_so_many_keys_at_most(web: Web, customer: Customer) -> None:
    made(web, customer)
    copies = """
        INSERT INTO widget_keys
        SELECT (copy).* FROM (
            SELECT jsonb_populate_record(widget_keys, jsonb_build_object(
                'id', gen_random_uuid(), 'digest', '\\x' || md5(CAST(n AS text)))) AS copy
            FROM widget_keys, generate_series(2, :keys) AS n
        ) AS copies
    """
    with transaction(web.engine) as session:
        session.execute(text(copies), {"keys": KEYS_MAX})
    assert flat(web.client(customer).post(KEY)) == (400, "BAD_REQUEST")
    oldest = listed(web, customer)[-1]["id"]
    assert web.client(customer).delete(KEY, json={"id": oldest}).status_code == 200
    assert web.client(customer).post(KEY).status_code == 200


def test_only_a_digest_is_kept_of_a_key(web: Web, customer: Customer) -> None:
    key = made(web, customer)
    (row,) = web.column("SELECT to_jsonb(widget_keys)::text FROM widget_keys")
    assert key not in row
    assert web.column("SELECT encode(digest, 'hex') FROM widget_keys") == [
        WidgetKeyDigest("s" * 32)(key).hex()
    ]


@pytest.mark.parametrize("name", ["id", "key", "agent_id"])
@pytest.mark.parametrize("place", ["body", "query"])
def test_a_key_is_revoked_by_whatever_names_it(
    web: Web, customer: Customer, name: str, place: str
) -> None:
    made(web, customer)
    key = made(web, customer, agent_id="agent_1")
    names = {"id": listed(web, customer)[0]["id"], "key": key, "agent_id": "agent_1"}
    named = {name: names[name]}
    client = web.client(customer)
    if place == "body":
        response = client.delete(KEY, json=named)
    else:
        response = client.delete(KEY, query_string=named)
    assert response.get_json() == {"id": names["id"], "revoked": True}
    assert [each["agentId"] for each in listed(web, customer)] == [None]
    assert flat(client.delete(KEY, json=named)) == (404, "NOT_FOUND")


def test_an_agent_that_cannot_be_is_refused(web: Web, customer: Customer) -> None:
    for agent_id in ("", "a\x00b", "a b"):
        response = web.client(customer).delete(KEY, query_string={"agent_id": agent_id})
        assert flat(response) == (400, "BAD_REQUEST")


def test_the_only_key_needs_no_name_and_of_several_none_is_guessed(
    web: Web, customer: Customer
) -> None:
    client = web.client(customer)
    assert flat(client.delete(KEY)) == (404, "NOT_FOUND")
    made(web, customer, agent_id="a")
    made(web, customer, agent_id="a")
    assert flat(client.delete(KEY)) == (409, "CONFLICT")
    assert flat(client.delete(KEY, json={"agent_id": "a"})) == (409, "CONFLICT")
    newest, oldest = listed(web, customer)
    assert client.delete(KEY, json={"id": newest["id"]}).status_code == 200
    assert client.delete(KEY).get_json() == {"id": oldest["id"], "revoked": True}


def test_nobody_sees_or_revokes_somebody_elses_key(web: Web, customer: Customer) -> None:
    key = made(web, customer, agent_id="agent_1")
    stranger = web.client(web.customer())
    for named in ({"id": listed(web, customer)[0]["id"]}, {"key": key}, {"agent_id": "agent_1"}):
        assert flat(stranger.delete(KEY, json=named)) == (404, "NOT_FOUND")
    assert flat(stranger.delete(KEY)) == (404, "NOT_FOUND")
    assert stranger.get(KEY).get_json() == {"keys": []}
    assert len(listed(web, customer)) == 1


def test_only_an_admins_key_makes_publishable_ones(web: Web) -> None:
    client = web.client(web.customer(scopes=ALL_SCOPES - {Scope.ADMIN}))
    for method in ("GET", "POST", "DELETE"):
        assert flat(client.open(KEY, method=method)) == (403, "FORBIDDEN")


def test_the_audit_log_tells_who_made_and_revoked_a_key(web: Web, customer: Customer) -> None:
    key = made(web, customer, daily_usd="1")
    shown = listed(web, customer)[0]["id"]
    assert web.client(customer).delete(KEY).status_code == 200
    revoked, created = web.client(customer).get("/v1/audit_log").get_json()["data"]
    assert [each["action"] for each in (created, revoked)] == [
        "widget_key.created",
        "widget_key.revoked",
    ]
    assert created["target_id"] == revoked["target_id"] == shown
    assert created["changes"]["daily_usd"] == "1"
    assert created["actor"]["id"] == f"key_{customer.key_id.hex}"
    assert key not in orjson.dumps([created, revoked]).decode()


def test_operators_list_and_revoke_keys_and_the_audit_log_names_them(
    web: Web, customer: Customer
) -> None:
    made(web, customer, agent_id="agent_1")
    (key,) = listed(web, customer)
    run, account_id = web.app.test_cli_runner().invoke, f"acct_{customer.account_id.hex}"
    told = run(args=["widget_keys", "list", account_id, "--json"]).output
    assert orjson.loads(told) == {"keys": [key]}
    told = run(args=["widget_keys", "list", account_id]).output
    assert told.split()[:3] == [key["id"], key["keyPreview"], "agent_1"]
    for _ in range(2):
        told = run(args=["widget_keys", "revoke", key["id"], "--json"]).output
        assert orjson.loads(told) == {"key_id": key["id"], "revoked": True}
    assert listed(web, customer) == []
    entries = web.client(customer).get("/v1/audit_log").get_json()["data"]
    assert [(each["action"], each["actor"]["type"]) for each in entries] == [
        ("widget_key.revoked", "operator"),
        ("widget_key.created", "api_key"),
    ]
    assert run(args=["widget_keys", "revoke", "wkey_" + "0" * 32]).exit_code == 1
