"""Says of a route what the code around it cannot: what it takes, and what it answers.

`web.openapi` reads this together with the routes themselves, so path, method, arguments and the
summary are written once: in the route and its docstring.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from pydantic import BaseModel

View = TypeVar("View", bound=Callable[..., Any])

ATTRIBUTE = "documented_operation"
"""Where a view keeps its `Operation`."""
JSON, EVENTS = "application/json", "text/event-stream"


@dataclass(frozen=True, slots=True)
class Parameter:
    """A query parameter or header. `type` is anything pydantic makes a schema of."""

    name: str
    type: Any
    description: str
    place: Literal["query", "header"] = "query"
    style: Mapping[str, Any] = field(default_factory=dict)
    """How a list or object is written, in OpenAPI's words."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One status: the model of its JSON, of each of its events, or nothing.

    `more` names other media types that it may come in; `links` where an id of the answer leads,
    as `{view: (its argument, a runtime expression)}`.
    """

    description: str
    model: type[BaseModel] | None = None
    media_type: str = JSON
    more: tuple[str, ...] = ()
    headers: tuple[str, ...] = ()
    links: Mapping[str, tuple[str, str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Operation:
    """What is known of a route besides its rule and its docstring."""

    tag: str
    answers: Mapping[int, Answer]
    errors: tuple[int, ...]
    parameters: tuple[Parameter, ...]
    body: type[BaseModel] | None
    needs_body: bool


def documented(
    tag: str,
    answers: Mapping[int, Answer],
    *,
    errors: tuple[int, ...] = (),
    parameters: tuple[Parameter, ...] = (),
    body: type[BaseModel] | None = None,
    needs_body: bool = True,
) -> Callable[[View], View]:
    """Documents a view. `errors` are the statuses of the error table beyond the usual ones.

    Usual are those of every keyed route (see `web.openapi`) and, with a `body`, of reading one.
    """

    def keep(view: View) -> View:
        setattr(view, ATTRIBUTE, Operation(tag, answers, errors, parameters, body, needs_body))
        return view

    return keep


def operation_of(view: Callable[..., Any]) -> Operation | None:
    """What `documented` was told about a view."""
    found: Operation | None = getattr(view, ATTRIBUTE, None)
    return found
