"""What schemathesis cannot know of the service: which models there are, and where calls may go.

Loaded by schemathesis through `SCHEMATHESIS_HOOKS`. Deterministic: what a case becomes depends on
the case alone.
"""

from collections.abc import Callable
from typing import Any

import schemathesis

MODELS = ("openai/gpt-4o-mini", "claude-haiku-4-5")
EMBEDDING_MODEL = "text-embedding-3-small"
NOBODY = "http://127.0.0.1:9/hook"
"""A port that refuses connections: no webhook leaves this machine."""
LONGEST_WAIT = "1"

Edit = Callable[[dict[str, Any]], None]


def _known_model(body: dict[str, Any]) -> None:
    model = body.get("model")
    # One name in eight stays unknown.
    if isinstance(model, str) and 0 < len(model) <= 200 and len(model) % 8:
        embeds = "input" in body
        body["model"] = EMBEDDING_MODEL if embeds else MODELS[len(model) % len(MODELS)]


def _nowhere(body: dict[str, Any]) -> None:
    for holder in (body, body.get("webhook")):
        if isinstance(holder, dict):
            for field in ("url", "callback_url"):
                if isinstance(holder.get(field), str):
                    holder[field] = NOBODY


def _briefly(query: dict[str, Any]) -> None:
    if str(query.get("wait", "")).isdecimal():
        query["wait"] = LONGEST_WAIT


@schemathesis.hook
def before_call(
    context: schemathesis.HookContext,  # noqa: ARG001 (the library's signature)
    case: schemathesis.Case[Any],
    kwargs: dict[str, Any],  # noqa: ARG001
) -> None:
    """The last word on a case, whichever phase made it."""
    if isinstance(case.body, dict):
        _known_model(case.body)
        _nowhere(case.body)
    if isinstance(case.query, dict):
        _briefly(case.query)
