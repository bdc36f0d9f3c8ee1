"""`/v1/models`, which both providers have: `anthropic-version` tells whose list is meant."""

from typing import Any, Final

from flask import Blueprint, Response, request

from local.simulator import models
from local.simulator.anthropic_api import as_page
from local.simulator.anthropic_batches import rfc3339
from local.simulator.errors import ApiError
from local.simulator.models import Model
from local.simulator.paging import limit_of, page_after, page_before
from local.simulator.web import json_response

_YES: Final = {"supported": True}
_NO: Final = {"supported": False}
_CAPABILITIES: Final = {
    "batch": _YES,
    "citations": _YES,
    "code_execution": _NO,
    "context_management": _NO,
    "effort": {"supported": True, **dict.fromkeys(("low", "medium", "high", "xhigh", "max"), _YES)},
    "image_input": _YES,
    "pdf_input": _YES,
    "server_tools": {"supported": False, "code_execution": _NO, "web_search": _NO},
    "structured_outputs": _YES,
    "thinking": {"supported": True, "types": {"adaptive": _YES, "enabled": _YES}},
}


def blueprint() -> Blueprint:
    routes = Blueprint("models", __name__, url_prefix="/v1/models")
    routes.add_url_rule("", "model_list", _list, methods=["GET"])
    routes.add_url_rule("/<name>", "model_get", _get, methods=["GET"])
    return routes


class _Listed:
    """A model with the id that paging looks at."""

    def __init__(self, model: Model) -> None:
        self.id = model.snapshot
        self.model = model


def _list() -> Response:
    if "anthropic-version" not in request.headers:
        data = [_openai(model.name, model) for model in models.of(models.OPENAI)]
        return json_response({"object": "list", "data": data})
    limit = limit_of(request.args.get("limit"), 20, 1000)
    listed = [_Listed(model) for model in models.of(models.ANTHROPIC)]
    before, after = request.args.get("before_id"), request.args.get("after_id")
    if before is None:
        page, has_more = page_after(listed, limit, after, "after_id")
    else:
        page, has_more = page_before(listed, limit, before, "before_id")
    data = [_anthropic(item.id, item.model) for item in page]
    return json_response(as_page(data, has_more))


def _get(name: str) -> Response:
    anthropic = "anthropic-version" in request.headers
    model = models.find(name, models.ANTHROPIC if anthropic else models.OPENAI)
    if model is None:
        if anthropic:
            raise ApiError(404, f"model: {name}")
        message = f"The model '{name}' does not exist"
        raise ApiError(404, message, param="model", code="model_not_found")
    if anthropic:
        return json_response(_anthropic(models.answering_name(model, name), model))
    return json_response(_openai(name, model))


def _openai(name: str, model: Model) -> dict[str, Any]:
    frame = {"id": name, "object": "model", "created": models.CREATED_AT}
    return frame | {"owned_by": model.owned_by}


def _anthropic(name: str, model: Model) -> dict[str, Any]:
    family, *version = model.name.removeprefix("claude-").split("-")
    return {
        "type": "model",
        "id": name,
        "display_name": f"Claude {family.title()} {'.'.join(version)}",
        "created_at": rfc3339(models.CREATED_AT),
        "line": family,
        "lifecycle": "active",
        "deprecated_at": None,
        "retires_at": None,
        "max_input_tokens": model.context_tokens,
        "max_tokens": model.max_output_tokens,
        "capabilities": _CAPABILITIES,
    }
