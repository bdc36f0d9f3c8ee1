"""The OpenAPI 3.1 document, made from the routes, their `documented` views and the schemas.

Paths, methods and arguments are those of the URL map, summaries the views' docstrings, schemas
the pydantic models that bodies are checked by. Source: https://spec.openapis.org/oas/v3.1.0
"""

import inspect
import re
from collections.abc import Iterator, Mapping
from typing import Any

from flask import Flask
from pydantic import BaseModel, TypeAdapter
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode
from werkzeug.routing import Rule

from web.auth import OPEN_ROUTES
from web.documented import EVENTS, JSON, Answer, Operation, Parameter, operation_of
from web.errors import TYPES, is_flat
from web.key_schemas import KeyId
from web.neureus_schemas import FlatError
from web.objects import CompletionId, Error, JobId
from web.scopes import scope_of
from web.webhook_objects import DeliveryId, EndpointId

VERSION = "1"
"""Of the API: the 1 of /v1."""
INTRODUCTION = """\
An OpenAI-compatible gateway. Any call with `"prefer_async": true` becomes one line of a \
discounted provider batch: it is answered at once with a job, and billed once, at the batch price.

Money is a decimal string of USD, times are Unix seconds. Errors are \
`{"error": {"type", "message", "code", "param"}}`, and every answer carries `X-Request-Id`.

The routes under `/ai` are the same service in other words: costs are numbers there, and errors \
`{"error": "NOT_FOUND", "message"}`."""

TAGS = ("Calls", "Jobs", "Models", "Webhooks", "Keys", "Billing", "AI", "Service")

ARGUMENTS: Mapping[str, tuple[Any, str]] = {
    "job_id": (JobId, "The job."),
    "completion_id": (CompletionId, "The completion of a job; the same digits as the job's id."),
    "endpoint_id": (EndpointId, "The webhook endpoint."),
    "delivery_id": (DeliveryId, "The webhook delivery."),
    "key_id": (KeyId, "The API key."),
    "provider": (str, "The provider, such as `openai` or `anthropic`."),
    "name": (str, "Any name of the model, such as `openai/gpt-4o-mini` or `gpt-4o-mini`."),
}
"""The arguments that routes have in their paths."""

ERRORS: Mapping[int, str] = {
    400: "Malformed or compressed JSON, or a field that is missing or wrong; `param` names it.",
    401: "No key, or one that is bad, revoked or expired.",
    402: "The balance cannot hold the ceiling price.",
    403: "The key may not do this; the message names the scope that it lacks.",
    404: "No such route, model or resource, or somebody else's.",
    405: "The route does not take that method; `Allow` names those it takes.",
    409: "The state does not allow it, or the idempotency key's first call is in flight.",
    413: "The body is over 8 MB.",
    422: "The idempotency key came with another body, or what was required is not possible.",
    429: "Too many requests, or a spending limit was reached; see `Retry-After`.",
    500: "A fault of ours.",
    502: "The provider failed.",
    503: "The database is away, or the process is being restarted; see `Retry-After`.",
    504: "The provider, or the job's deadline, was too late.",
}
FLAT_ERRORS: Mapping[int, str] = {
    **ERRORS,
    400: "Malformed JSON, or a field that is missing or wrong; the message names it.",
    402: "The balance cannot hold the ceiling price, or a spending limit was reached.",
    429: "Too many requests; see `Retry-After`.",
}
"""Of the routes that tell their errors flat."""
KEYED_ERRORS = (401, 403, 429, 500, 503)
BODY_ERRORS = (400, 413)

REQUEST_ID = "X-Request-Id"
HEADERS: Mapping[str, tuple[Any, str]] = {
    REQUEST_ID: (str, "Names this request in the service's log."),
    "Retry-After": (int, "Seconds to wait before asking again."),
    "Location": (str, "Where the job is read."),
    "Preference-Applied": (str, "What of `Prefer` was heeded."),
    "Idempotent-Replayed": (str, "`true` on an answer that was given before."),
    "X-Lane": (str, "`batch` or `standard`."),
    "X-Cost-Usd": (str, "What was charged, as a decimal string."),
    "X-Async-Ineligible": (str, "Why the call did not become a job."),
    "x-should-retry": (str, "`false` where asking again changes nothing."),
    "WWW-Authenticate": (str, "How to authenticate."),
    "Allow": (str, "The methods that the route takes."),
    "Cache-Control": (str, "How long the answer may be kept."),
}
ERROR_HEADERS: Mapping[int, tuple[str, ...]] = {
    401: ("WWW-Authenticate",),
    405: ("Allow",),
    429: ("Retry-After", "x-should-retry"),
    503: ("Retry-After",),
}
FLAT_ERROR_HEADERS: Mapping[int, tuple[str, ...]] = {
    **ERROR_HEADERS,
    402: ("Retry-After", "x-should-retry"),
    429: ("Retry-After",),
}


class _Untitled(GenerateJsonSchema):
    """pydantic titles every field after itself; that tells nobody anything."""

    def field_title_should_be_set(
        self,
        schema: Any,  # noqa: ARG002 (the library's signature)
    ) -> bool:
        """Never."""
        return False


class _Schemas:
    """The schemas that the document refers to, each under its class's name."""

    def __init__(self) -> None:
        self.components: dict[str, Any] = {}

    def of(self, shown: Any, mode: JsonSchemaMode = "serialization") -> dict[str, Any]:
        """The schema of a type; a reference if it is a model's."""
        schema = TypeAdapter(shown).json_schema(
            mode=mode, ref_template="#/components/schemas/{model}", schema_generator=_Untitled
        )
        for name, each in schema.pop("$defs", {}).items():
            self._keep(name, each)
        if not (isinstance(shown, type) and issubclass(shown, BaseModel)):
            return schema
        self._keep(shown.__name__, schema)
        return {"$ref": f"#/components/schemas/{shown.__name__}"}

    def _keep(self, name: str, schema: dict[str, Any]) -> None:
        schema.pop("title", None)
        if self.components.setdefault(name, schema) != schema:
            raise ValueError(f"Two schemas want to be called {name}.")


def document(app: Flask, server_url: str) -> dict[str, Any]:
    """The document of every route of the app. Raises LookupError on one that says nothing."""
    schemas = _Schemas()
    paths: dict[str, dict[str, Any]] = {}
    for rule, method, operation in operations(app):
        path = re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule)
        shown = _operation(app, rule, operation, schemas, keyed=rule.rule not in OPEN_ROUTES)
        _demand(shown, rule, method)
        paths.setdefault(path, {})[method.lower()] = shown
    responses = {
        **_errors(Error, ERRORS, ERROR_HEADERS, schemas),
        **_errors(FlatError, FLAT_ERRORS, FLAT_ERROR_HEADERS, schemas, flat=True),
    }
    headers: dict[str, dict[str, Any]] = {
        name: {"description": text, "schema": schemas.of(kind)}
        for name, (kind, text) in HEADERS.items()
    }
    headers[REQUEST_ID]["required"] = True
    return {
        "openapi": "3.1.0",
        "info": {"title": "offpeak", "version": VERSION, "description": INTRODUCTION},
        "servers": [{"url": server_url}],
        "security": [{"bearer": []}, {"key": []}],
        "paths": paths,
        "components": {
            "schemas": dict(sorted(schemas.components.items())),
            "responses": responses,
            "headers": headers,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
            },
        },
    }


def operations(app: Flask) -> Iterator[tuple[Rule, str, Operation]]:
    """Every route and method with what is documented of it. Raises LookupError for want of it."""
    for rule in app.url_map.iter_rules():
        operation = operation_of(app.view_functions[rule.endpoint])
        if operation is None:
            raise LookupError(f"{rule.rule} is not documented.")
        for method in sorted((rule.methods or set()) - {"HEAD", "OPTIONS"}):
            yield rule, method, operation


def statuses(operation: Operation, rule: Rule, *, keyed: bool) -> list[int]:
    """Every status that a route may answer with."""
    usual = KEYED_ERRORS if keyed else (500,)
    reading = BODY_ERRORS if operation.body is not None else ()
    asking = (400,) if operation.parameters else ()
    finding = (404,) if rule.arguments else ()
    return sorted({*operation.answers, *operation.errors, *usual, *reading, *asking, *finding})


def _operation(
    app: Flask, rule: Rule, operation: Operation, schemas: _Schemas, *, keyed: bool
) -> dict[str, Any]:
    summary, _, more = (inspect.getdoc(app.view_functions[rule.endpoint]) or "").partition("\n\n")
    shown: dict[str, Any] = {
        "operationId": _operation_id(rule.endpoint),
        "tags": [operation.tag],
        "summary": " ".join(summary.split()),
        "description": more,
        "parameters": [
            *(_argument(name, schemas) for name in sorted(rule.arguments)),
            *(_parameter(each, schemas) for each in operation.parameters),
        ],
        "responses": {
            str(status): _answer(operation.answers[status], schemas)
            if status in operation.answers
            else {"$ref": f"#/components/responses/{error_name(status, flat=is_flat(rule.rule))}"}
            for status in statuses(operation, rule, keyed=keyed)
        },
    }
    if operation.body is not None:
        shown["requestBody"] = {
            "required": operation.needs_body,
            "content": {JSON: {"schema": schemas.of(operation.body, "validation")}},
        }
    if not keyed:
        shown["security"] = []
    return shown


def _demand(shown: dict[str, Any], rule: Rule, method: str) -> None:
    """Says which scope an operation needs: in words, and as OpenAPI 3.1 names roles."""
    scope = None if rule.rule in OPEN_ROUTES else scope_of(method, rule.rule)
    if scope is None:
        return
    shown["security"] = [{"bearer": [scope.value]}, {"key": [scope.value]}]
    sentence = f"The key needs the scope `{scope}`."
    shown["description"] = "\n\n".join(filter(None, [shown["description"], sentence]))


def _operation_id(endpoint: str) -> str:
    return endpoint.rpartition(".")[2]


def _argument(name: str, schemas: _Schemas) -> dict[str, Any]:
    kind, text = ARGUMENTS[name]
    schema = schemas.of(kind)
    return {"name": name, "in": "path", "required": True, "description": text, "schema": schema}


def _parameter(parameter: Parameter, schemas: _Schemas) -> dict[str, Any]:
    return {
        "name": parameter.name,
        "in": parameter.place,
        "description": parameter.description,
        "schema": schemas.of(parameter.type, "validation"),
        **parameter.style,
    }


def _headers(names: tuple[str, ...]) -> dict[str, Any]:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in (REQUEST_ID, *names)}


def _answer(answer: Answer, schemas: _Schemas) -> dict[str, Any]:
    content: dict[str, Any] = {}
    if answer.model is not None and answer.media_type == JSON:
        content[JSON] = {"schema": schemas.of(answer.model)}
    elif answer.model is not None:
        content[answer.media_type] = {"schema": _event(schemas.of(answer.model))}
    for media_type in answer.more:
        content[media_type] = {"schema": _event({}) if media_type == EVENTS else {"type": "string"}}
    shown: dict[str, Any] = {
        "description": answer.description,
        "headers": _headers(answer.headers),
    }
    if content:
        shown["content"] = content
    if answer.links:
        shown["links"] = {
            view: {"operationId": view, "parameters": {argument: expression}}
            for view, (argument, expression) in answer.links.items()
        }
    return shown


def _event(data: dict[str, Any]) -> dict[str, Any]:
    """The schema of one server-sent event, as OpenAPI 3.2 writes those of its streams."""
    text = {"type": "string"}
    told = {**text, "contentMediaType": JSON, "contentSchema": data}
    return {
        "type": "object",
        "required": ["data"],
        "properties": {"id": text, "event": text, "data": told},
    }


def error_name(status: int, *, flat: bool = False) -> str:
    """What an error's answer is called in the document: its type, where that is its own."""
    others = {405: "method_not_allowed"}
    return ("flat_" if flat else "") + (others.get(status) or TYPES[status])


def _errors(
    model: type[BaseModel],
    texts: Mapping[int, str],
    headers: Mapping[int, tuple[str, ...]],
    schemas: _Schemas,
    *,
    flat: bool = False,
) -> dict[str, Any]:
    return {
        error_name(status, flat=flat): {
            "description": text,
            "headers": _headers(headers.get(status, ())),
            "content": {JSON: {"schema": schemas.of(model)}},
        }
        for status, text in texts.items()
    }
