"""The document for machines, and for people as one page that needs nothing from elsewhere."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson
from flask import Blueprint, Response, current_app, render_template

from web import openapi
from web.documented import Answer, documented
from web.objects import Document
from web.state import state

blueprint = Blueprint("docs", __name__)

EXTENSION = "offpeak.document"
HTML = "text/html"
# The page has no script, and loads nothing.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
CONSTRAINTS: Mapping[str, str] = {
    "minimum": "≥ {}",
    "exclusiveMinimum": "> {}",
    "maximum": "≤ {}",
    "minLength": "length ≥ {}",
    "maxLength": "length ≤ {}",
    "minItems": "items ≥ {}",
    "maxItems": "items ≤ {}",
    "maxProperties": "pairs ≤ {}",
    "format": "{}",
}


@dataclass(frozen=True, slots=True)
class _Kept:
    document: bytes
    page: str


@blueprint.get("/openapi.json")
@documented("Service", {200: Answer("OpenAPI 3.1.", Document)})
def openapi_json() -> Response:
    """This document."""
    return Response(_kept().document, mimetype="application/json")


@blueprint.get("/docs")
@documented("Service", {200: Answer("A page of HTML.", more=(HTML,))})
def docs() -> Response:
    """The document as a page."""
    return Response(_kept().page, mimetype=HTML, headers={"Content-Security-Policy": POLICY})


def _kept() -> _Kept:
    """Made when it is first asked for: it takes a few hundred milliseconds."""
    kept: _Kept | None = current_app.extensions.get(EXTENSION)
    if kept is None:
        document = openapi.document(current_app, state().house.settings.public_url)
        kept = _Kept(orjson.dumps(document), _page(document))
        current_app.extensions[EXTENSION] = kept
    return kept


def _page(document: dict[str, Any]) -> str:
    return render_template(
        "docs.html",
        document=document,
        tags=_by_tag(document),
        errors=[
            (status, openapi.error_name(status), text) for status, text in openapi.ERRORS.items()
        ],
        base_url=document["servers"][0]["url"],
        resolve=lambda node: _resolve(document, node),
        kind=kind_of,
        constraints=constraints_of,
        example=lambda operation: _example(document, operation),
        pretty=lambda value: orjson.dumps(value, option=orjson.OPT_INDENT_2).decode(),
    )


def _by_tag(document: dict[str, Any]) -> dict[str, list[tuple[str, str, dict[str, Any]]]]:
    """(method, path, operation) of every route, under its tag."""
    tags: dict[str, list[tuple[str, str, dict[str, Any]]]] = {tag: [] for tag in openapi.TAGS}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            tags[operation["tags"][0]].append((method, path, operation))
    return tags


def _resolve(document: dict[str, Any], node: dict[str, Any]) -> dict[str, Any]:
    """What a reference refers to, or the node itself."""
    reference = node.get("$ref")
    if reference is None:
        return node
    found: dict[str, Any] = document
    for step in reference.removeprefix("#/").split("/"):
        found = found[step]
    return found


def kind_of(schema: dict[str, Any]) -> list[tuple[str, str | None]]:
    """A schema's type as words; those that name a component come with its name."""
    return list(_words(schema))


def _words(schema: dict[str, Any]) -> Iterator[tuple[str, str | None]]:
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        yield name, name
    elif "const" in schema:
        yield orjson.dumps(schema["const"]).decode(), None
    elif "enum" in schema:
        yield " | ".join(orjson.dumps(each).decode() for each in schema["enum"]), None
    elif options := schema.get("anyOf") or schema.get("oneOf"):
        for number, option in enumerate(options):
            if number:
                yield " | ", None
            yield from _words(option)
    elif schema.get("type") == "array":
        yield "list of ", None
        yield from _words(schema.get("items", {}))
    elif schema.get("type") == "object" and isinstance(schema.get("additionalProperties"), dict):
        yield "object of ", None
        yield from _words(schema["additionalProperties"])
    else:
        yield schema.get("type", "anything"), None


def constraints_of(schema: dict[str, Any]) -> list[str]:
    """What a schema's values are bound by, in words; of a union, what binds any of its options."""
    options = [schema, *schema.get("anyOf", [])]
    return [
        wording.format(each[name])
        for each in options
        for name, wording in CONSTRAINTS.items()
        if name in each
    ]


def _example(document: dict[str, Any], operation: dict[str, Any]) -> Any:
    """The first example of an operation's body."""
    content = operation.get("requestBody", {}).get("content", {})
    for each in content.values():
        for example in _resolve(document, each["schema"]).get("examples", ()):
            return example
    return None
