"""Requests in OpenAI's words, and how they are put into Anthropic's."""

from typing import Any

from gateway.providers.anthropic_messages import to_messages

MODEL = "claude-sonnet-5-5"
Json = dict[str, Any]
CALL: Json = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "weather", "arguments": '{"city":"Oslo"}'},
}
TOOL: Json = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tells the weather.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        "strict": True,
    },
}
OUTPUT_LIMIT = 8_192
USER: Json = {"role": "user", "content": "hi"}


def translate(messages: list[Json] | None = None, **fields: Any) -> Json:
    asked = {"messages": [USER] if messages is None else messages, **fields}
    return to_messages(MODEL, asked, OUTPUT_LIMIT)


def said(text: str) -> Json:
    return {"type": "text", "text": text}


def parts(*more: Json) -> list[Json]:
    return [{"role": "user", "content": [said("look"), *more]}]


def calling(call: Json) -> list[Json]:
    return [USER, {"role": "assistant", "content": None, "tool_calls": [call]}]
