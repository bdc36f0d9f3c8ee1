"""Anthropic's Message as one of OpenAI's chat completions. Pure."""

from typing import Any

import orjson

from gateway.providers.dialect import Broken
from gateway.providers.fields import JsonObject, mapping, text
from gateway.providers.usage import anthropic_usage, completion_usage

_FINISH_REASONS = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    # Happens with Anthropic's own tools only, which are not offered: resending would continue.
    "pause_turn": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}
_SERVICE_TIERS = {"standard": "default", "priority": "priority"}


def to_completion(message: JsonObject, created: int) -> JsonObject:
    """The completion of a Message; Broken if it holds no content. `created` is Unix seconds.

    Thinking is left out: OpenAI shows none either, and counts it in the usage.
    """
    content = message.get("content")
    if not isinstance(content, list):
        raise Broken("a message holds no content")
    stop_reason = text(message.get("stop_reason")) or ""
    blocks = [mapping(block) for block in content]
    usage = anthropic_usage(message)
    completion: JsonObject = {
        "id": message.get("id"),
        "object": "chat.completion",
        "created": created,
        "model": message.get("model"),
        "choices": [
            {
                "index": 0,
                "message": _answer(blocks, stop_reason, mapping(message.get("stop_details"))),
                "logprobs": None,
                "finish_reason": _FINISH_REASONS.get(stop_reason, "stop"),
            }
        ],
        "usage": None if usage is None else completion_usage(usage),
    }
    tier = _SERVICE_TIERS.get(text(mapping(message.get("usage")).get("service_tier")) or "")
    return {**completion, "service_tier": tier} if tier else completion


def _answer(blocks: list[JsonObject], stop_reason: str, stop_details: JsonObject) -> JsonObject:
    said = "".join(_words(block) for block in blocks)
    calls = [_tool_call(block) for block in blocks if block.get("type") == "tool_use"]
    answer: JsonObject = {"role": "assistant", "content": said, "refusal": None}
    if stop_reason == "refusal":
        reason = said or text(stop_details.get("explanation"))
        answer |= {"content": None, "refusal": reason or "The model declined to answer."}
    elif calls and not said:
        answer["content"] = None
    return {**answer, "tool_calls": calls} if calls else answer


def _words(block: JsonObject) -> str:
    words: Any = block.get("text") if block.get("type") == "text" else None
    return words if isinstance(words, str) else ""


def _tool_call(block: JsonObject) -> JsonObject:
    call_id, name = text(block.get("id")), text(block.get("name"))
    if call_id is None or name is None:
        raise Broken("a tool call lacks its id or name")
    arguments = orjson.dumps(mapping(block.get("input"))).decode()
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}
