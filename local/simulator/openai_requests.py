"""Checks of OpenAI's request bodies, refusing as OpenAI does. Every refusal is an ApiError."""

from collections.abc import Callable, Mapping
from typing import Any, Final

from local.simulator import models
from local.simulator.errors import ApiError, invalid

_ROLES: Final = frozenset({"developer", "system", "user", "assistant", "tool", "function"})
_PARTS: Final = frozenset({"text", "image_url", "input_audio", "file", "refusal"})
_EFFORTS: Final = frozenset({"none", "minimal", "low", "medium", "high", "xhigh", "max"})

Check = Callable[[str, Any], None]


def _anything(_name: str, _value: Any) -> None:
    """A parameter this provider takes and does not look at."""


def _wrong_type(name: str, wanted: str) -> ApiError:
    return invalid(f"Invalid type for '{name}': expected {wanted}.", name, "invalid_type")


def _number(low: float, high: float) -> Check:
    def check(name: str, value: Any) -> None:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise _wrong_type(name, "a decimal number")
        _bounds(name, value, low, high, "decimal")

    return check


def _integer(low: int, high: int | None = None) -> Check:
    def check(name: str, value: Any) -> None:
        if isinstance(value, bool) or not isinstance(value, int):
            raise _wrong_type(name, "an integer")
        _bounds(name, value, low, high, "integer")

    return check


def _bounds(name: str, value: float, low: float, high: float | None, kind: str) -> None:
    if value < low:
        message = f"Invalid '{name}': {kind} below minimum value. Expected a value >= {low}."
        raise invalid(message, name, f"{kind}_below_min_value")
    if high is not None and value > high:
        message = f"Invalid '{name}': {kind} above maximum value. Expected a value <= {high}."
        raise invalid(message, name, f"{kind}_above_max_value")


def _boolean(name: str, value: Any) -> None:
    if not isinstance(value, bool):
        raise _wrong_type(name, "a boolean")


def _stop(name: str, value: Any) -> None:
    stops = [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or not all(isinstance(stop, str) for stop in stops):
        raise _wrong_type(name, "a string or an array of strings")
    if len(stops) > 4:
        raise invalid(f"Invalid '{name}': array too long.", name, "array_above_max_length")


def _tools(name: str, value: Any) -> None:
    if not isinstance(value, list):
        raise _wrong_type(name, "an array of objects")
    for index, tool in enumerate(value):
        kind = tool.get("type") if isinstance(tool, dict) else None
        if kind not in ("function", "custom"):
            raise invalid(f"Invalid value for '{name}[{index}].type'.", f"{name}[{index}].type")
        if not isinstance(tool.get(kind), dict) or not isinstance(tool[kind].get("name"), str):
            missing = f"{name}[{index}].{kind}.name"
            raise _missing(missing)


def _response_format(name: str, value: Any) -> None:
    kind = value.get("type") if isinstance(value, dict) else None
    if kind not in ("text", "json_object", "json_schema"):
        raise invalid(f"Invalid value for '{name}.type'.", f"{name}.type", "invalid_value")
    if kind == "json_schema":
        wanted = value.get("json_schema")
        if not isinstance(wanted, dict) or not isinstance(wanted.get("name"), str):
            raise _missing(f"{name}.json_schema.name")


def _effort(name: str, value: Any) -> None:
    if value not in _EFFORTS:
        raise invalid(f"Invalid value for '{name}'.", name, "invalid_value")


def _missing(name: str) -> ApiError:
    message = f"Missing required parameter: '{name}'."
    return invalid(message, name, "missing_required_parameter")


_TAKEN_AS_GIVEN: Final = (
    "messages model audio function_call functions logit_bias metadata modalities moderation "
    "prediction prompt_cache_key prompt_cache_options prompt_cache_retention safety_identifier "
    "service_tier stream_options tool_choice user verbosity web_search_options"
)
_CHAT: Final[dict[str, Check]] = {
    **dict.fromkeys(_TAKEN_AS_GIVEN.split(), _anything),
    "frequency_penalty": _number(-2, 2),
    "logprobs": _boolean,
    "max_completion_tokens": _integer(1),
    "max_tokens": _integer(1),
    "n": _integer(1, 128),
    "parallel_tool_calls": _boolean,
    "presence_penalty": _number(-2, 2),
    "reasoning_effort": _effort,
    "response_format": _response_format,
    "seed": _integer(-(2**63), 2**63 - 1),
    "stop": _stop,
    "store": _boolean,
    "stream": _boolean,
    "temperature": _number(0, 2),
    "tools": _tools,
    "top_logprobs": _integer(0, 20),
    "top_p": _number(0, 1),
}
_EMBEDDINGS: Final[dict[str, Check]] = {
    "model": _anything,
    "input": _anything,
    "user": _anything,
    "dimensions": _integer(1),
    "encoding_format": _anything,
}


def _fields(body: object, checks: Mapping[str, Check], strict: bool) -> dict[str, Any]:
    if not isinstance(body, dict):
        raise invalid("The body of your request must be a JSON object.")
    for name, value in body.items():
        check = checks.get(name)
        if check is None:
            if strict:
                raise invalid(f"Unrecognized request argument supplied: {name}")
        elif value is not None:
            check(name, value)
    return body


def _model(body: Mapping[str, Any], *, embeds: bool) -> models.Model:
    name = body.get("model")
    if not isinstance(name, str) or not name:
        raise invalid("you must provide a model parameter")
    model = models.find(name, models.OPENAI)
    if model is None:
        message = f"The model `{name}` does not exist or you do not have access to it."
        raise ApiError(404, message, code="model_not_found")
    if model.embeds != embeds:
        wanted = "an embedding" if embeds else "a chat"
        raise ApiError(404, f"This is not {wanted} model: `{name}`.", param="model")
    return model


def check_chat(body: object, *, strict: bool) -> tuple[dict[str, Any], models.Model]:
    """The body of a chat completion, checked, and its model."""
    fields = _fields(body, _CHAT, strict)
    model = _model(fields, embeds=False)
    messages = fields.get("messages")
    if messages is None:
        raise _missing("messages")
    if not isinstance(messages, list):
        raise _wrong_type("messages", "an array of objects")
    if not messages:
        message = "Invalid 'messages': empty array. Expected an array with minimum length 1."
        raise invalid(message, "messages", "empty_array")
    for index, message in enumerate(messages):
        _message(message, f"messages[{index}]")
    for name in ("max_tokens", "max_completion_tokens"):
        wanted = fields.get(name)
        if wanted is not None and wanted > model.max_output_tokens:
            raise invalid(
                f"max_tokens is too large: {wanted}. This model supports at most "
                f"{model.max_output_tokens} completion tokens, whereas you provided {wanted}.",
                name,
                "invalid_value",
            )
    _tool_choice(fields)
    return fields, model


def _message(message: Any, where: str) -> None:
    if not isinstance(message, dict):
        raise _wrong_type(where, "an object")
    role, content = message.get("role"), message.get("content")
    if role is None:
        raise _missing(f"{where}.role")
    if role not in _ROLES:
        raise invalid(f"Invalid value: '{role}'.", f"{where}.role", "invalid_value")
    if role == "tool" and not isinstance(message.get("tool_call_id"), str):
        raise _missing(f"{where}.tool_call_id")
    if content is None:
        if role != "assistant":
            raise invalid(
                f"Invalid value for 'content': expected a string, got null for {where}.",
                f"{where}.content",
            )
        return
    if isinstance(content, str):
        return
    if not isinstance(content, list) or not content:
        raise _wrong_type(f"{where}.content", "a string or an array of objects")
    for index, part in enumerate(content):
        kind = part.get("type") if isinstance(part, dict) else None
        name = f"{where}.content[{index}]"
        if kind not in _PARTS:
            raise invalid(f"Invalid value for '{name}.type'.", f"{name}.type", "invalid_value")
        if kind == "text" and not isinstance(part.get("text"), str):
            raise _missing(f"{name}.text")


def _tool_choice(fields: Mapping[str, Any]) -> None:
    choice, tools = fields.get("tool_choice"), fields.get("tools")
    if choice is None:
        return
    if not tools:
        message = "Invalid value for 'tool_choice': 'tool_choice' is only allowed with 'tools'."
        raise invalid(message, "tool_choice")
    if isinstance(choice, str):
        if choice not in ("none", "auto", "required"):
            raise invalid(f"Invalid value: '{choice}'.", "tool_choice", "invalid_value")
        return
    kind = choice.get("type") if isinstance(choice, dict) else None
    if kind in ("function", "custom"):
        wanted = choice.get(kind)
        name = wanted.get("name") if isinstance(wanted, dict) else None
        if name not in [tool[tool["type"]]["name"] for tool in tools]:
            message = "Invalid value for 'tool_choice': no such tool in 'tools'."
            raise invalid(message, "tool_choice")
    elif kind != "allowed_tools":
        raise invalid("Invalid value for 'tool_choice'.", "tool_choice", "invalid_value")


def check_embeddings(body: object, *, strict: bool) -> tuple[dict[str, Any], models.Model]:
    """The body of an embeddings call, checked but for its input, and its model."""
    fields = _fields(body, _EMBEDDINGS, strict)
    model = _model(fields, embeds=True)
    if fields.get("encoding_format") not in (None, "float", "base64"):
        raise invalid("Invalid value for 'encoding_format'.", "encoding_format", "invalid_value")
    wanted = fields.get("dimensions")
    if wanted is not None and not model.shortenable:
        raise invalid("This model does not support specifying dimensions.", "dimensions")
    if wanted is not None and wanted > model.dimensions:
        message = f"Invalid value for 'dimensions': at most {model.dimensions} for this model."
        raise invalid(message, "dimensions")
    return fields, model
