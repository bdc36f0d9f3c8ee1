"""Keys as an account's admin manages them over HTTP."""

from datetime import UTC, datetime, timedelta
from typing import Any

import gevent
import pytest
from flask.testing import FlaskClient
from sqlalchemy import text
from werkzeug.test import TestResponse

from gateway.access import keys, keys_admin
from gateway.access.keys_admin import KEYS_MAX
from gateway.access.scopes import DEFAULT_SCOPES, Scope
from models import ids
from models.ids import Prefix
from models.session import transaction
from tests.integration.web_world import CHAT, CHAT_BODY, OPERATOR, Customer, Web, error_of

KEYS = "/v1/keys"
MANY_KEYS = """
    INSERT INTO api_keys (id, account_id, digest, preview, name)
    SELECT gen_random_uuid(), :account_id, int4send(number), '', ''
    FROM generate_series(1, :number) AS number
"""


@pytest.fixture
def admin(web: Web, customer: Customer) -> FlaskClient:
    return web.client(customer)


def created(admin: FlaskClient, **fields: Any) -> dict[str, Any]:
    response = admin.post(KEYS, json=fields)
    assert response.status_code == 200, response.text
    made: dict[str, Any] = response.get_json()
    return made


def path(key: dict[str, Any], rest: str = "") -> str:
    return f"{KEYS}/{key['id']}{rest}"


def opens(web: Web, api_key: str) -> bool:
    """Whether a process that remembers nothing lets this key in."""
    web.renew()
    headers = {"Authorization": f"Bearer {api_key}"}
    response: TestResponse = web.client(None).get("/v1/models", headers=headers)
    assert response.status_code in (200, 401)
    return response.status_code == 200


def test_a_key_is_made_with_defaults_and_its_text_is_shown_once(
    web: Web, admin: FlaskClient
) -> None:
    made = created(admin)
    shown = made.pop("api_key")
    assert keys.is_well_formed(shown)
    assert made["preview"] == f"{shown[:10]}…{shown[-4:]}"
    assert set(made["scopes"]) == DEFAULT_SCOPES
    assert (made["status"], made["models"], made["expires_at"]) == ("active", None, None)
    assert made["requests_per_minute"] == 60
    assert (made["daily_usd"], made["monthly_usd"]) == ("100", "1000")
    assert admin.get(path(made)).get_json() == made
    assert shown not in admin.get(KEYS).text
    assert opens(web, shown)


def test_a_key_is_made_with_everything_that_is_said_of_it(admin: FlaskClient) -> None:
    expires_at = int((datetime.now(UTC) + timedelta(days=30)).timestamp())
    made = created(
        admin,
        name="nightly",
        scopes=["inference"],
        models=["gpt-4o-mini"],
        requests_per_minute=5,
        daily_usd="0.25",
        monthly_usd="2000",
        expires_at=expires_at,
    )
    assert made["name"] == "nightly"
    assert made["scopes"] == ["inference"]
    assert made["models"] == ["openai/gpt-4o-mini"]
    assert made["requests_per_minute"] == 5
    assert (made["daily_usd"], made["monthly_usd"]) == ("0.25", "2000")
    assert made["expires_at"] == expires_at


def test_keys_are_listed_newest_first_a_page_at_a_time(
    admin: FlaskClient, customer: Customer
) -> None:
    made = [created(admin, name=str(number))["id"] for number in range(3)]
    first = admin.get(f"{KEYS}?limit=3").get_json()
    assert [each["id"] for each in first["data"]] == made[::-1]
    assert first["has_more"]
    second = admin.get(f"{KEYS}?limit=3&after={first['last_id']}").get_json()
    assert [each["id"] for each in second["data"]] == [ids.show(Prefix.KEY, customer.key_id)]
    assert not second["has_more"]


def test_what_a_change_names_is_changed_and_null_puts_the_default_back(admin: FlaskClient) -> None:
    made = created(admin, name="a", daily_usd="3", models=["gpt-4o-mini"], requests_per_minute=7)
    changed = admin.post(path(made), json={"name": "b", "scopes": ["billing:read"]}).get_json()
    assert (changed["name"], changed["scopes"]) == ("b", ["billing:read"])
    assert (changed["daily_usd"], changed["requests_per_minute"]) == ("3", 7)
    nulls = {"daily_usd": None, "models": None, "requests_per_minute": None, "expires_at": None}
    reset = admin.post(path(made), json=nulls).get_json()
    assert (reset["daily_usd"], reset["models"], reset["requests_per_minute"]) == ("100", None, 60)
    assert admin.get(path(made)).get_json() == reset


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"scopes": []}, "scopes"),
        ({"scopes": ["root"]}, "scopes"),
        ({"models": []}, "models"),
        ({"models": ["no/such-model"]}, "models"),
        ({"requests_per_minute": 0}, "requests_per_minute"),
        ({"daily_usd": "0"}, "daily_usd"),
        ({"daily_usd": 1.5}, "daily_usd"),
        ({"monthly_usd": "-1"}, "monthly_usd"),
        ({"expires_at": 1}, "expires_at"),
        ({"expires_at": "tomorrow"}, "expires_at"),
        ({"name": "a\x00b"}, "name"),
        ({"digest": "x"}, "digest"),
    ],
)
def test_a_wrong_field_is_named(admin: FlaskClient, fields: dict[str, Any], param: str) -> None:
    made = created(admin)
    for where in (KEYS, path(made)):
        response = admin.post(where, json=fields)
        assert response.status_code == 400
        assert error_of(response)["param"].startswith(param)


def test_more_requests_a_minute_than_the_default_are_an_operators_to_give(
    web: Web, admin: FlaskClient, customer: Customer
) -> None:
    made = created(admin)
    for where in (KEYS, path(made)):
        response = admin.post(where, json={"requests_per_minute": 61})
        assert response.status_code == 400
        assert error_of(response)["param"] == "requests_per_minute"
    key_id = ids.parse(Prefix.KEY, made["id"])
    assert key_id is not None
    with transaction(web.engine) as session:
        given = {"requests_per_minute": 500}
        keys_admin.change(session, OPERATOR, customer.account_id, key_id, given)
    # What an operator gave may be lowered, and is lost by that.
    assert admin.post(path(made), json={"requests_per_minute": 400}).status_code == 200
    assert admin.post(path(made), json={"requests_per_minute": 500}).status_code == 400


def test_after_a_rotation_both_texts_open_until_the_overlap_is_over(
    web: Web, admin: FlaskClient
) -> None:
    made = created(admin, daily_usd="7")
    rotated = admin.post(path(made, "/rotate"), json={"overlap_seconds": 3600}).get_json()
    assert rotated["id"] == made["id"]
    assert rotated["daily_usd"] == "7"
    assert rotated["previous_until"] == pytest.approx(datetime.now(UTC).timestamp() + 3600, abs=60)
    assert rotated["preview"] != made["preview"]
    assert opens(web, made["api_key"])
    assert opens(web, rotated["api_key"])
    ended = "UPDATE api_keys SET previous_until = now() WHERE previous_until IS NOT NULL"
    with transaction(web.engine) as session:
        session.execute(text(ended))
    assert not opens(web, made["api_key"])
    assert opens(web, rotated["api_key"])
    assert admin.get(path(made)).get_json()["previous_until"] is None


def test_the_overlap_is_a_day_unless_said_and_none_at_all_if_wanted(
    web: Web, admin: FlaskClient
) -> None:
    made = created(admin)
    rotated = admin.post(path(made, "/rotate")).get_json()
    assert rotated["previous_until"] == pytest.approx(
        datetime.now(UTC).timestamp() + 86_400, abs=60
    )
    again = admin.post(path(made, "/rotate"), json={"overlap_seconds": 0}).get_json()
    assert again["previous_until"] is None
    assert not opens(web, made["api_key"])
    assert not opens(web, rotated["api_key"])
    assert opens(web, again["api_key"])
    longer = admin.post(path(made, "/rotate"), json={"overlap_seconds": 604_801})
    assert error_of(longer)["param"] == "overlap_seconds"


def test_a_revoked_key_opens_nothing_stays_listed_and_is_changed_no_more(
    web: Web, admin: FlaskClient
) -> None:
    made = created(admin)
    for _ in range(2):
        assert admin.delete(path(made)).get_json()["deleted"] is True
    assert not opens(web, made["api_key"])
    shown = admin.get(path(made)).get_json()
    assert shown["status"] == "revoked"
    assert shown["revoked_at"] is not None
    for response in (
        admin.post(path(made), json={"name": "x"}),
        admin.post(path(made, "/rotate"), json={}),
    ):
        assert response.status_code == 409
        assert response.headers["x-should-retry"] == "false"


def test_a_revoked_key_opens_nothing_by_the_text_before_its_rotation_either(
    web: Web, admin: FlaskClient
) -> None:
    made = created(admin)
    rotated = admin.post(path(made, "/rotate")).get_json()
    admin.delete(path(made))
    assert not opens(web, made["api_key"])
    assert not opens(web, rotated["api_key"])


def test_an_account_has_so_many_keys_that_open_something_at_most(
    web: Web, admin: FlaskClient, customer: Customer
) -> None:
    made = created(admin)
    others = {"account_id": customer.account_id, "number": KEYS_MAX - 2}
    with transaction(web.engine) as session:
        session.execute(text(MANY_KEYS), others)
    assert admin.post(KEYS, json={}).status_code == 400
    admin.delete(path(made))
    assert admin.post(KEYS, json={}).status_code == 200


def test_a_key_calls_only_the_models_that_it_is_for(web: Web, admin: FlaskClient) -> None:
    made = created(admin, models=["gpt-4o-mini"])
    client = web.app.test_client()
    client.environ_base["HTTP_AUTHORIZATION"] = f"Bearer {made['api_key']}"
    for name in ("openai/gpt-4o-mini", "gpt-4o-mini"):
        assert client.post(CHAT, json={**CHAT_BODY, "model": name}).status_code == 200
    for more in ({}, {"prefer_async": True}, {"stream": True}):
        refused = client.post(CHAT, json={**CHAT_BODY, "model": "claude-haiku-4-5", **more})
        assert refused.status_code == 403
        assert error_of(refused)["param"] == "model"
    flat = client.post("/ai/chat", json={"messages": CHAT_BODY["messages"], "model": "gpt-4o"})
    assert (flat.status_code, flat.get_json()["error"]) == (403, "FORBIDDEN")
    listed = client.get("/v1/models").get_json()["data"]
    assert [model["id"] for model in listed] == ["openai/gpt-4o-mini"]
    assert client.get("/v1/models/gpt-4o-mini").status_code == 200
    assert client.get("/v1/models/claude-haiku-4-5").status_code == 404
    assert [model["id"] for model in client.get("/ai/models").get_json()["models"]] == [
        "gpt-4o-mini"
    ]


def test_the_last_use_is_noted_once_a_minute_and_for_many_keys_in_one_statement(
    web: Web, customer: Customer, admin: FlaskClient
) -> None:
    made = [created(admin) for _ in range(3)]
    assert [key["last_used_at"] for key in made] == [None] * 3
    web.renew()
    for key in made:
        headers = {"Authorization": f"Bearer {key['api_key']}"}
        web.client(None).get("/v1/models", headers=headers)
    uses = "SELECT last_used_at FROM api_keys WHERE id <> :id"
    with gevent.Timeout(10):
        while None in web.column(uses, id=customer.key_id):
            gevent.sleep(0.01)
    noted = web.column(uses, id=customer.key_id)
    every = web.column("SELECT id FROM api_keys")
    with transaction(web.engine) as session:
        keys_admin.note_uses(session, every)
    assert web.column(uses, id=customer.key_id) == noted
    with transaction(web.engine) as session:
        session.execute(text("UPDATE api_keys SET last_used_at = now() - interval '61 seconds'"))
    with transaction(web.engine) as session:
        keys_admin.note_uses(session, every)
    assert web.column("SELECT last_used_at > now() - interval '50 seconds' FROM api_keys") == (
        [True] * len(every)
    )


@pytest.mark.parametrize("scope", sorted(DEFAULT_SCOPES))
def test_no_key_but_an_admins_administers_keys(web: Web, scope: Scope) -> None:
    client = web.client(web.customer(scopes=[scope]))
    refused = client.post(KEYS, json={"scopes": ["admin"]})
    assert refused.status_code == 403
    assert "'admin'" in error_of(refused)["message"]
    assert web.count("api_keys") == 1
