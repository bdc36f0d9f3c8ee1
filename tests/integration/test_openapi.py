"""The document and its page, held against the routes, the schemas and the answers themselves."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest
from flask import Flask
from pydantic import ValidationError
from werkzeug.test import EnvironBuilder, TestResponse

from gateway.calls.options import take_options
from tests.integration.documented_client import check_answer
from tests.integration.test_structure import SETTINGS
from tests.integration.web_world import Web
from web import create_app, openapi
from web.auth import OPEN_ROUTES
from web.call_schemas import AsyncFields, ChatCall, EmbeddingCall
from web.docs import constraints_of, kind_of
from web.schemas import ChatRequest, EmbeddingRequest, check


@pytest.fixture(scope="module")
def app() -> Flask:
    return create_app(SETTINGS)


@pytest.fixture(scope="module")
def document(app: Flask) -> dict[str, Any]:
    read: dict[str, Any] = app.test_client().get("/openapi.json").get_json()
    return read


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield path, method.upper(), operation


def nodes(value: Any) -> Iterator[dict[str, Any]]:
    """Every object in the document."""
    if isinstance(value, dict):
        yield value
    for inner in value.values() if isinstance(value, dict) else value:
        if isinstance(inner, dict | list):
            yield from nodes(inner)


def test_every_route_and_method_is_documented_and_nothing_else(
    app: Flask, document: dict[str, Any]
) -> None:
    served = {
        (re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule), method)
        for rule in app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    assert {(path, method) for path, method, _ in operations(document)} == served


def test_every_operation_has_a_name_of_its_own_a_summary_and_a_known_tag(
    document: dict[str, Any],
) -> None:
    shown = [operation for _, _, operation in operations(document)]
    assert len({each["operationId"] for each in shown}) == len(shown)
    for each in shown:
        assert each["summary"].endswith("."), each["operationId"]
        assert set(each["tags"]) <= set(openapi.TAGS)


def test_every_argument_of_a_path_is_described(document: dict[str, Any]) -> None:
    for path, _, operation in operations(document):
        described = {each["name"] for each in operation["parameters"] if each["in"] == "path"}
        assert described == set(re.findall(r"{(\w+)}", path))


def test_every_reference_and_link_leads_somewhere(document: dict[str, Any]) -> None:
    names = {operation["operationId"] for _, _, operation in operations(document)}
    references = [node["$ref"] for node in nodes(document) if "$ref" in node]
    assert references
    for reference in references:
        found = document
        for step in reference.removeprefix("#/").split("/"):
            found = found[step]
    links = [node["links"] for node in nodes(document) if "links" in node]
    assert links
    assert {link["operationId"] for each in links for link in each.values()} <= names


def test_only_the_open_routes_need_no_key(document: dict[str, Any]) -> None:
    for path, _, operation in operations(document):
        assert (operation.get("security") == []) == (path in OPEN_ROUTES), path
        assert "401" in operation["responses"] or path in OPEN_ROUTES, path


def test_a_route_without_documentation_is_refused() -> None:
    other = Flask(__name__, static_folder=None)
    other.add_url_rule("/x", view_func=lambda: "x")
    with pytest.raises(LookupError, match="/x"):
        openapi.document(other, "http://x")


class Noted(dict[str, Any]):
    """A body that remembers what was taken out of it."""

    def __init__(self) -> None:
        super().__init__()
        self.taken: set[str] = set()

    def pop(self, key: str, default: object = None) -> Any:
        self.taken.add(key)
        return default


def test_the_documented_fields_of_ours_are_those_that_are_taken() -> None:
    body = Noted()
    take_options(body, "respond-async", datetime.now(UTC), allow_private=False)
    assert body.taken == set(AsyncFields.model_fields)


@pytest.mark.parametrize(
    ("shown", "checked"), [(ChatCall, ChatRequest), (EmbeddingCall, EmbeddingRequest)]
)
def test_the_documented_examples_are_taken(
    shown: type[ChatCall | EmbeddingCall], checked: type[ChatRequest | EmbeddingRequest]
) -> None:
    (example,) = shown.model_json_schema()["examples"]
    check(shown, example)
    assert take_options(dict(example), None, datetime.now(UTC), allow_private=False).prefer_async
    check(checked, example)


def test_the_document_needs_no_key_and_is_made_once(web: Web) -> None:
    client = web.client(None)
    first, second = client.get("/openapi.json"), client.get("/openapi.json")
    assert (first.status_code, first.mimetype) == (200, "application/json")
    assert first.data == second.data
    assert first.get_json()["openapi"] == "3.1.0"
    assert first.get_json()["servers"] == [{"url": web.settings.public_url}]


def test_the_page_shows_every_route_and_schema_and_loads_nothing(
    app: Flask, document: dict[str, Any]
) -> None:
    response = app.test_client().get("/docs")
    page = response.text
    assert (response.status_code, response.mimetype) == (200, "text/html")
    for path, _, operation in operations(document):
        assert f'id="{operation["operationId"]}"' in page
        assert f"<code>{path}</code>" in page
    for name in document["components"]["schemas"]:
        assert f'id="schema-{name}"' in page
    targets = set(re.findall(r'href="([^"]*)"', page))
    assert {each for each in targets if not each.startswith("#")} == {"/openapi.json"}
    ids = re.findall(r'id="([^"]*)"', page)
    assert len(set(ids)) == len(ids)
    assert {each[1:] for each in targets if each.startswith("#")} <= set(ids)
    assert not re.search(r"<script|<link|<img|\bsrc=|@import|url\(", page)
    assert "default-src 'none'" in response.headers["Content-Security-Policy"]


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"type": "string"}, "string"),
        ({}, "anything"),
        ({"const": "job"}, '"job"'),
        ({"enum": ["asc", "desc"]}, '"asc" | "desc"'),
        ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, "integer | null"),
        ({"type": "array", "items": {"$ref": "#/components/schemas/Job"}}, "list of Job"),
        ({"type": "object", "additionalProperties": {"type": "string"}}, "object of string"),
    ],
)
def test_a_type_is_told_in_words(schema: dict[str, Any], words: str) -> None:
    assert "".join(word for word, _ in kind_of(schema)) == words


def test_bounds_are_told_in_words() -> None:
    schema = {"anyOf": [{"type": "number", "minimum": 0, "maximum": 2}, {"type": "null"}]}
    assert constraints_of(schema) == ["≥ 0", "≤ 2"]


@pytest.mark.parametrize(
    ("status", "body", "complaint"),
    [
        (299, {"object": "list", "data": []}, "299"),
        (200, {"object": "list"}, "data"),
        (200, {"object": "list", "data": [], "more": 1}, "models"),
    ],
)
def test_an_undocumented_answer_does_not_pass_for_a_documented_one(
    app: Flask, status: int, body: dict[str, Any], complaint: str
) -> None:
    answer = app.response_class(orjson.dumps(body), status, mimetype="application/json")
    asked = EnvironBuilder(path="/v1/models").get_request()
    received = TestResponse(
        answer.iter_encoded(), answer.status, answer.headers, asked, mimetype="application/json"
    )
    with pytest.raises((AssertionError, ValidationError), match=complaint):
        check_answer(app, received)
