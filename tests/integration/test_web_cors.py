"""CORS: off, but for publishable keys on `/ai/chat`, unless CORS_ALLOWED_ORIGINS says otherwise."""

import re
from collections.abc import Iterator

import pytest
from werkzeug.test import TestResponse

from tests.integration.web_world import CHAT as V1_CHAT
from tests.integration.web_world import CHAT_BODY, Customer, Web
from tests.integration.widget_world import BODY, CHAT, KEY, PAGE, ask, made, settings_of

FOREIGN = "https://evil.example"
TELLING = "Access-Control-"
"""What the names of all headers of CORS begin with."""


def cors_of(response: TestResponse) -> dict[str, str]:
    """The headers of CORS by the rest of their names."""
    return {
        name.removeprefix(TELLING): value
        for name, value in response.headers
        if name.startswith(TELLING)
    }


def preflight(web: Web, path: str, origin: str | None = PAGE, **headers: str) -> TestResponse:
    sent = {} if origin is None else {"Origin": origin}
    for name, value in headers.items():
        sent[f"{TELLING}Request-{name}"] = value
    return web.app.test_client().options(path, headers=sent)


def test_a_page_may_read_what_a_key_for_all_pages_is_answered(web: Web, customer: Customer) -> None:
    key = made(web, customer)
    answer = ask(web, key, origin=PAGE)
    assert (answer.status_code, cors_of(answer)["Allow-Origin"]) == (200, PAGE)
    assert "X-Async-Ineligible" in cors_of(answer)["Expose-Headers"]
    assert "Origin" in answer.vary
    assert "Allow-Credentials" not in cors_of(answer)
    # What is no page, an app say, is answered as well, and told nothing of pages.
    answer = ask(web, key)
    assert (answer.status_code, cors_of(answer)) == (200, {})
    assert "Origin" in answer.vary


def test_a_page_may_read_a_stream_and_an_error(web: Web, customer: Customer) -> None:
    key = made(web, customer, visitor_requests_per_minute=2)
    answers = [
        ask(web, key, {**BODY, "stream": True}, origin=PAGE),
        ask(web, key, {"messages": []}, origin=PAGE),
        ask(web, key, origin=PAGE),
    ]
    assert [answer.status_code for answer in answers] == [200, 400, 429]
    assert [cors_of(answer)["Allow-Origin"] for answer in answers] == [PAGE] * 3


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        (PAGE, 200),
        ("https://one.example.org", 200),
        ("https://one.two.example.org", 403),
        ("https://example.org", 403),
        ("http://app.example.com", 403),
        (f"{PAGE}:8443", 403),
        (FOREIGN, 403),
        ("null", 403),
        (None, 403),
    ],
)
def test_a_key_for_some_pages_is_refused_everywhere_else(
    web: Web, customer: Customer, origin: str | None, status: int
) -> None:
    key = made(web, customer, allowed_origins=[PAGE, "https://*.example.org"])
    answer = ask(web, key, origin=origin)
    assert answer.status_code == status
    assert cors_of(answer).get("Allow-Origin") == (origin if status == 200 else None)
    assert web.count("holds") == (status == 200)


def test_a_call_with_a_secret_key_or_none_tells_pages_nothing(web: Web, customer: Customer) -> None:
    headers = {"Origin": PAGE}
    answers = [
        web.client(customer).post(CHAT, json=BODY, headers=headers),
        web.client(None).post(CHAT, json=BODY, headers=headers),
        ask(web, "pk_nothing", origin=PAGE),
    ]
    assert [answer.status_code for answer in answers] == [200, 401, 401]
    assert [cors_of(answer) for answer in answers] == [{}, {}, {}]


def test_a_browser_may_ask_before_a_visitors_call(web: Web) -> None:
    answer = preflight(web, CHAT, Method="POST", Headers="authorization,x-stainless-os")
    assert (answer.status_code, answer.data) == (204, b"")
    assert cors_of(answer) == {
        "Allow-Origin": PAGE,
        "Allow-Methods": "POST",
        "Allow-Headers": "authorization,x-stainless-os",
        "Max-Age": "7200",
        "Expose-Headers": cors_of(answer)["Expose-Headers"],
    }
    assert set(answer.vary) == {
        "Origin",
        "Access-Control-Request-Method",
        "Access-Control-Request-Headers",
    }


def test_nothing_else_passes_for_such_a_question(web: Web) -> None:
    for asked in (
        preflight(web, CHAT),
        preflight(web, CHAT, None, Method="POST"),
        web.client(None).get(CHAT, headers={"Origin": PAGE, f"{TELLING}Request-Method": "POST"}),
    ):
        assert (asked.status_code, cors_of(asked)) == (401, {})


def test_no_other_route_says_anything_to_pages(web: Web, customer: Customer) -> None:
    client, tried = web.client(customer), 0
    for rule in web.app.url_map.iter_rules():
        path = re.sub(r"<[^>]+>", "x", rule.rule)
        asked = preflight(web, path, Method="POST", Headers="authorization")
        assert cors_of(asked) == {} or path == CHAT, path
        if "GET" in (rule.methods or ()):
            answer = client.get(path, headers={"Origin": PAGE})
            assert cors_of(answer) == {}, path
            assert "Origin" not in answer.vary, path
            tried += 1
    assert tried > 10


# CORS_ALLOWED_ORIGINS.


@pytest.fixture
def fronted(web: Web) -> Iterator[Web]:
    """A process whose operator has named the pages of a front of theirs."""
    with settings_of(web, cors_allowed_origins=(PAGE, "https://*.example.org")):
        yield web


@pytest.mark.parametrize("origin", [PAGE, "https://front.example.org"])
def test_pages_that_the_operator_names_may_read_every_call(
    fronted: Web, customer: Customer, origin: str
) -> None:
    client = fronted.client(customer, origin=origin)
    answers = [
        client.post(V1_CHAT, json=CHAT_BODY),
        client.post(V1_CHAT, json={**CHAT_BODY, "stream": True}),
        client.get("/v1/models"),
        client.get("/v1/nothing"),
        client.get("/ai/models"),
        client.post(CHAT, json=BODY),
        fronted.client(None, origin=origin).get("/v1/models"),
    ]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 404, 200, 200, 401]
    for answer in answers:
        assert cors_of(answer)["Allow-Origin"] == origin
        assert "Allow-Credentials" not in cors_of(answer)
        assert "Origin" in answer.vary


def test_browsers_may_ask_for_those_pages_on_every_route(fronted: Web) -> None:
    for path in (V1_CHAT, "/v1/jobs/job_1", KEY, CHAT):
        answer = preflight(fronted, path, Method="DELETE", Headers="x-api-key")
        assert answer.status_code == 204
        assert cors_of(answer)["Allow-Origin"] == PAGE
        assert cors_of(answer)["Allow-Methods"] == "GET, POST, PUT, PATCH, DELETE"
        assert cors_of(answer)["Allow-Headers"] == "x-api-key"


def test_other_pages_are_told_nothing_and_caches_that_pages_differ(
    fronted: Web, customer: Customer
) -> None:
    asked = preflight(fronted, V1_CHAT, FOREIGN, Method="POST")
    assert (asked.status_code, cors_of(asked)) == (401, {})
    for origin in (FOREIGN, "null"):
        answer = fronted.client(customer, origin=origin).get("/v1/models")
        assert (answer.status_code, cors_of(answer)) == (200, {})
        assert "Origin" in answer.vary
    plain = fronted.client(customer).get("/v1/models")
    assert cors_of(plain) == {}
    assert "Origin" in plain.vary


def test_what_is_no_api_says_nothing_even_then(fronted: Web) -> None:
    for path in ("/health", "/ready", "/openapi.json", "/docs", "/metrics"):
        answer = fronted.client(None, origin=PAGE).get(path)
        assert cors_of(answer) == {}, path
