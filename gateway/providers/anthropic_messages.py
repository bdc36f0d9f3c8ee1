"""OpenAI's chat completion request as Anthropic's Messages request. Pure.

What has no counterpart there is never dropped in silence: `to_messages` raises Untranslatable,
which names the field. Only values that ask for nothing (null, a default, a hint to a cache) go.
"""

from typing import Any

from gateway.providers.anthropic_conversation import cache_mark, conversation, list_in, name_in
from gateway.providers.anthropic_media import Untranslatable
from gateway.providers.fields import JsonObject, count, items, mapping

CAREFUL_MAX_TOKENS = 4_096

_TRANSLATED = frozenset(
    {
        "model",
        "messages",
        "max_tokens",
        "max_completion_tokens",
        "temperature",
        "top_p",
        "stop",
        "tools",
        "tool_choice",
        "parallel_tool_calls",
        "response_format",
        "reasoning_effort",
        "thinking",
        "cache_control",
        "user",
        "safety_identifier",
    }
)
# Hints on caching, storing, speed and delivery: they change neither the answer nor who may see it.
_HINTS = frozenset(
    {
        "metadata",
        "prediction",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "store",
        "stream",
        "stream_options",
    }
)
_DEFAULTS: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "logit_bias": ({},),
    "modalities": (["text"],),
    "functions": ([],),
    "function_call": ("none", "auto"),
}


_EFFORTS = {
    "minimal": "low",
    **{effort: effort for effort in ("low", "medium", "high", "xhigh", "max")},
}


def to_messages(model: str, body: JsonObject, output_limit: int | None) -> JsonObject:
    """The Messages request of a chat completion request; raises Untranslatable.

    Anthropic requires `max_tokens`: a caller who sets no limit gets the model's own, in tokens,
    or a careful one where that is not known.
    """
    for field, value in body.items():
        _require_translatable(field, value)
    system, turns = conversation(body.get("messages"))
    tools = [_tool(tool, index) for index, tool in enumerate(list_in(body, "tools"))]
    optional: JsonObject = {
        "system": system,
        "tools": tools,
        "tool_choice": _tool_choice(body, bool(tools)),
        "thinking": _thinking(body),
        "output_config": _effort(body) | _format(body.get("response_format")),
        "stop_sequences": _stop_sequences(body.get("stop")),
        "temperature": _sampling(body, "temperature"),
        "top_p": _sampling(body, "top_p"),
        "metadata": _metadata(body),
        **cache_mark(body),
    }
    return {
        "model": model,
        "max_tokens": _max_tokens(body, output_limit),
        "messages": turns,
        **{name: value for name, value in optional.items() if value not in (None, [], {})},
    }


def _require_translatable(field: str, value: Any) -> None:
    known = field in _TRANSLATED or field in _HINTS or value is None
    if not known and value not in _DEFAULTS.get(field, ()):
        raise Untranslatable(field)


def _tool(tool: Any, index: int) -> JsonObject:
    path = f"tools[{index}]"
    fields = mapping(tool)
    if fields.get("type", "function") != "function":
        raise Untranslatable(f"{path}.type")
    function = mapping(fields.get("function"))
    parameters = function.get("parameters")
    if parameters is not None and not isinstance(parameters, dict):
        raise Untranslatable(f"{path}.function.parameters")
    translated = {
        "name": name_in(function, "name", f"{path}.function"),
        "input_schema": {"type": "object", **mapping(parameters)},
    }
    kept = {name: function[name] for name in ("description", "strict") if function.get(name)}
    marks = cache_mark(function, f"{path}.function") | cache_mark(fields, path)
    return {**translated, **kept, **marks}


def _tool_choice(body: JsonObject, has_tools: bool) -> JsonObject | None:
    """Anthropic refuses a tool choice without tools, and puts the ban on parallel calls into it."""
    choice = body.get("tool_choice")
    if not has_tools:
        if choice in (None, "auto", "none"):
            return None
        raise Untranslatable("tool_choice")
    if choice == "none":
        return {"type": "none"}
    if body.get("parallel_tool_calls") is False:
        return {**_choice(choice), "disable_parallel_tool_use": True}
    return None if choice is None else _choice(choice)


def _choice(choice: Any) -> JsonObject:
    if choice in (None, "auto"):
        return {"type": "auto"}
    if choice == "required":
        return {"type": "any"}
    name = mapping(mapping(choice).get("function")).get("name")
    if mapping(choice).get("type") != "function" or not isinstance(name, str):
        raise Untranslatable("tool_choice")
    return {"type": "tool", "name": name}


def _thinking(body: JsonObject) -> JsonObject | None:
    """Anthropic's own object if the caller gives one; an effort of `none` switches thinking off."""
    thinking = body.get("thinking")
    if thinking is None:
        return {"type": "disabled"} if body.get("reasoning_effort") == "none" else None
    if not isinstance(thinking, dict):
        raise Untranslatable("thinking")
    return thinking


def _effort(body: JsonObject) -> JsonObject:
    effort = body.get("reasoning_effort")
    if effort in (None, "none"):
        return {}
    if not isinstance(effort, str) or effort not in _EFFORTS:
        raise Untranslatable("reasoning_effort")
    return {"effort": _EFFORTS[effort]}


def _format(response_format: Any) -> JsonObject:
    kind = mapping(response_format).get("type")
    if response_format is None or kind == "text":
        return {}
    if kind != "json_schema":
        raise Untranslatable("response_format")
    schema = mapping(mapping(response_format).get("json_schema")).get("schema")
    if not isinstance(schema, dict):
        raise Untranslatable("response_format.json_schema.schema")
    return {"format": {"type": "json_schema", "schema": schema}}


def _stop_sequences(stop: Any) -> list[str] | None:
    if stop is None:
        return None
    sequences = [stop] if isinstance(stop, str) else items(stop)
    if not isinstance(stop, str | list) or not all(isinstance(one, str) for one in sequences):
        raise Untranslatable("stop")
    return sequences


def _max_tokens(body: JsonObject, output_limit: int | None) -> int:
    for field in ("max_completion_tokens", "max_tokens"):
        value = body.get(field)
        if value is not None:
            limit = count(value)
            if limit is None:
                raise Untranslatable(field)
            return limit
    if output_limit is not None:
        return output_limit
    # The budget for thinking is a part of the limit, and must leave some of it.
    return CAREFUL_MAX_TOKENS + (count(mapping(body.get("thinking")).get("budget_tokens")) or 0)


def _sampling(body: JsonObject, field: str) -> float | None:
    """Both run from 0 to 1 at Anthropic. 1 is the default, and some models take only one of them,
    so a default that the caller merely spells out is not sent."""
    value = body.get(field)
    if value is None or value == 1:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise Untranslatable(field)
    return value


def _metadata(body: JsonObject) -> JsonObject | None:
    for field in ("safety_identifier", "user"):
        value = body.get(field)
        if value is not None:
            if not isinstance(value, str):
                raise Untranslatable(field)
            return {"user_id": value}
    return None
