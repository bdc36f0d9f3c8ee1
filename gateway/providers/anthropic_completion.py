"""Anthropic's Message as one of OpenAI's chat completions. Pure."""

import orjson

from gateway.providers.dialect import Broken
from gateway.providers.fields import JsonObject, mapping, string, text
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
THINKING = ("thinking", "redacted_thinking")
_SERVICE_TIERS = {"standard": "default", "priority": "priority"}


def to_completion(message: JsonObject, created: int) -> JsonObject:
    """The completion of a Message; Broken if it holds no content. `created` is Unix seconds.

    Thinking is shown as `reasoning_content`, DeepSeek's name for it, and kept whole and signed in
    `thinking_blocks`, for callers who send it back with the results of tools.
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
                "finish_reason": finish_reason(stop_reason),
            }
        ],
        "usage": None if usage is None else completion_usage(usage),
    }
    tier = shown_tier(mapping(message.get("usage")))
    return {**completion, "service_tier": tier} if tier else completion


def finish_reason(stop_reason: str) -> str:
    """Why an answer ended, in OpenAI's words."""
    return _FINISH_REASONS.get(stop_reason, "stop")


def refusal_of(stop_details: JsonObject) -> str:
    """What is told as the refusal where the model said nothing itself."""
    return text(stop_details.get("explanation")) or "The model declined to answer."


def shown_tier(usage: JsonObject) -> str | None:
    """The tier of a synchronous call in OpenAI's words."""
    return _SERVICE_TIERS.get(text(usage.get("service_tier")) or "")


def thinking_blocks(blocks: list[JsonObject]) -> JsonObject:
    """`thinking_blocks` of a message, where any of its blocks is one."""
    thoughts = [block for block in blocks if block.get("type") in THINKING]
    return {"thinking_blocks": thoughts} if thoughts else {}


def _answer(blocks: list[JsonObject], stop_reason: str, stop_details: JsonObject) -> JsonObject:
    said = "".join(string(block.get("text")) for block in blocks if block.get("type") == "text")
    thought = "".join(
        string(block.get("thinking")) for block in blocks if block.get("type") == "thinking"
    )
    calls = [_tool_call(block) for block in blocks if block.get("type") == "tool_use"]
    answer: JsonObject = {"role": "assistant", "content": said, "refusal": None}
    if stop_reason == "refusal":
        answer |= {"content": None, "refusal": said or refusal_of(stop_details)}
    elif calls and not said:
        answer["content"] = None
    if thought:
        answer["reasoning_content"] = thought
    answer |= thinking_blocks(blocks)
    return {**answer, "tool_calls": calls} if calls else answer


def _tool_call(block: JsonObject) -> JsonObject:
    call_id, name = text(block.get("id")), text(block.get("name"))
    if call_id is None or name is None:
        raise Broken("a tool call lacks its id or name")
    arguments = orjson.dumps(mapping(block.get("input"))).decode()
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}
