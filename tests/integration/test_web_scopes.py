"""Which key may do what, for every method of every route. Generated from the URL map."""

import re
import time
from collections.abc import Iterator

import gevent
import pytest
from flask.testing import FlaskClient
from sqlalchemy import text

from gateway.access import keys
from gateway.access.scopes import ALL_SCOPES, Scope
from models import ids
from models.ids import Prefix
from models.session import transaction
from tests.integration.web_world import CHAT, CHAT_BODY, Customer, Web, make_web
from web.auth import OPEN_ROUTES
from web.errors import is_flat
from web.fresh import FRESH_SECONDS
from web.scopes import SCOPES, scope_of

ROWS = ("jobs", "holds", "webhook_endpoints", "api_keys", "audit_log", "widget_keys")
"""What a call that is refused makes none of."""


def routes(web: Web) -> Iterator[tuple[str, str]]:
    """Method and rule of all that needs a key."""
    for rule in web.app.url_map.iter_rules():
        if rule.rule not in OPEN_ROUTES:
            for method in sorted((rule.methods or set()) - {"OPTIONS"}):
                yield method, rule.rule


def key_with(web: Web, customer: Customer, scopes: frozenset[Scope]) -> FlaskClient:
    """A client with another key of the customer's."""
    with transaction(web.engine) as session:
        key = keys.create(
            session,
            web.state.house.digest,
            customer.account_id,
            scopes=scopes,
            requests_per_minute=10**6,
        )
    return web.client(Customer(customer.account_id, key.id, key.text))


def test_every_route_is_in_the_table_and_nothing_else(web: Web) -> None:
    assert {f"{method} {rule}" for method, rule in routes(web) if method != "HEAD"} == set(SCOPES)


def test_without_its_scope_no_route_does_anything(web: Web, customer: Customer) -> None:
    clients = {each: key_with(web, customer, ALL_SCOPES - {each}) for each in Scope}
    before = [web.count(table) for table in ROWS]
    tried = 0
    for method, rule in routes(web):
        scope = scope_of(method, rule)
        if scope is None:
            continue
        path = re.sub(r"<[^>]+>", "x", rule)
        response = clients[scope].open(path, method=method, json={})
        assert response.status_code == 403, (method, rule)
        if method != "HEAD":
            error = response.get_json()
            told = error["message"] if is_flat(rule) else error["error"]["message"]
            assert f"'{scope}'" in told, (method, rule)
        tried += 1
    assert tried >= 30
    assert [web.count(table) for table in ROWS] == before


def test_its_scope_alone_is_enough_for_every_route(web: Web, customer: Customer) -> None:
    clients = {each: key_with(web, customer, frozenset({each})) for each in Scope}
    nothing = {
        "key_id": ids.show(Prefix.KEY, ids.new()),
        "job_id": ids.show(Prefix.JOB, ids.new()),
    }
    for method, rule in routes(web):
        for scope in {scope_of(method, rule)} - {None} or set(Scope):
            assert scope is not None
            path = re.sub(r"<(?:\w+:)?(\w+)>", lambda found: nothing.get(found[1], "x"), rule)
            response = clients[scope].open(path, method=method, json={})
            assert response.status_code not in (401, 403), (method, rule, scope)


def test_a_route_that_nobody_thought_of_is_shut() -> None:
    assert scope_of("GET", "/v1/forgotten") is Scope.ADMIN
    assert scope_of("HEAD", "/v1/jobs") is scope_of("GET", "/v1/jobs") is Scope.JOBS_READ
    assert scope_of("OPTIONS", "/v1/jobs") is None


def test_the_document_names_the_scope_of_every_operation(web: Web) -> None:
    document = web.client(None).get("/openapi.json").get_json()
    for (method, rule), scope in ((each.split(" "), scope) for each, scope in SCOPES.items()):
        path = re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule)
        operation = document["paths"][path][method.lower()]
        demanded = operation.get("security", document["security"])
        assert [each for one in demanded for each in one.values()] == (
            [[], []] if scope is None else [[scope], [scope]]
        )
        assert "403" in operation["responses"]


@pytest.fixture
def other(database_url: str, redis_url: str) -> Iterator[Web]:
    """Another web process, which remembers for itself."""
    with make_web(database_url, redis_url, None) as made:
        yield made


def test_a_key_that_ends_is_refused_by_every_process_within_two_seconds(
    web: Web, other: Web, customer: Customer
) -> None:
    admin = web.client(customer)
    made = [admin.post("/v1/keys", json={}).get_json() for _ in range(3)]
    clients = [process.app.test_client(use_cookies=False) for process in (web, other) for _ in made]
    for client, key in zip(clients, [*made, *made], strict=True):
        client.environ_base["HTTP_AUTHORIZATION"] = f"Bearer {key['api_key']}"
        assert client.get("/v1/models").status_code == 200
    began = time.monotonic()
    # One is revoked, one rotated away, one has expired.
    admin.delete(f"/v1/keys/{made[0]['id']}")
    admin.post(f"/v1/keys/{made[1]['id']}/rotate", json={"overlap_seconds": 0})
    with transaction(web.engine) as session:
        expired = "UPDATE api_keys SET expires_at = now() WHERE id = :id"
        session.execute(text(expired), {"id": ids.parse(Prefix.KEY, made[2]["id"])})
    gevent.sleep(max(0.0, began + FRESH_SECONDS + 0.1 - time.monotonic()))
    assert FRESH_SECONDS <= 2
    assert [client.get("/v1/models").status_code for client in clients] == [401] * 6
    assert [client.post(CHAT, json=CHAT_BODY).status_code for client in clients] == [401] * 6


def test_what_a_key_may_do_changes_everywhere_within_two_seconds(
    web: Web, other: Web, customer: Customer
) -> None:
    made = web.client(customer).post("/v1/keys", json={"scopes": ["inference"]}).get_json()
    elsewhere = other.app.test_client()
    elsewhere.environ_base["HTTP_AUTHORIZATION"] = f"Bearer {made['api_key']}"
    assert elsewhere.get("/v1/jobs").status_code == 403
    web.client(customer).post(f"/v1/keys/{made['id']}", json={"scopes": ["jobs:read"]})
    gevent.sleep(FRESH_SECONDS + 0.1)
    assert elsewhere.get("/v1/jobs").status_code == 200
