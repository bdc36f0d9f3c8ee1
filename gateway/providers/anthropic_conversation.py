"""The messages of a chat completion request as Anthropic's system blocks and turns. Pure."""

from typing import Any

from gateway.providers.dialect import Rejected
from gateway.providers.fields import JsonObject, decode_object, items, mapping


class Untranslatable(Rejected):
    """`param` names the field that Anthropic has no counterpart for, or that cannot be read."""

    def __init__(self, field: str) -> None:
        super().__init__(
            f"{field} is not supported for this model", status=400, code="unsupported", param=field
        )
        self.field = field


def conversation(messages: Any) -> tuple[list[JsonObject], list[JsonObject]]:
    """System blocks and turns. Adjacent messages of one role become one turn.

    System messages at the start are Anthropic's `system`. A later one becomes user text where it
    stands, which makes it part of the next user turn.
    """
    if not isinstance(messages, list):
        raise Untranslatable("messages")
    system: list[JsonObject] = []
    turns: list[JsonObject] = []
    for index, message in enumerate(messages):
        path = f"messages.{index}"
        if not isinstance(message, dict):
            raise Untranslatable(path)
        match message.get("role"):
            case "system" | "developer":
                blocks = _text_blocks(message.get("content"), f"{path}.content")
                if turns:
                    _say(turns, "user", blocks)
                else:
                    system += blocks
            case "user":
                _say(turns, "user", _text_blocks(message.get("content"), f"{path}.content"))
            case "assistant":
                _say(turns, "assistant", _assistant_blocks(message, path))
            case "tool":
                _give_result(turns, _tool_result(message, path))
            case _:
                raise Untranslatable(f"{path}.role")
    return system, turns


def _say(turns: list[JsonObject], role: str, blocks: list[JsonObject]) -> None:
    if turns and turns[-1]["role"] == role:
        turns[-1]["content"] += blocks
    elif blocks:
        turns.append({"role": role, "content": blocks})


def _give_result(turns: list[JsonObject], result: JsonObject) -> None:
    """Tool results open their turn: all of them must come before its text."""
    if not turns or turns[-1]["role"] != "user":
        turns.append({"role": "user", "content": [result]})
        return
    content = turns[-1]["content"]
    results = sum(block["type"] == "tool_result" for block in content)
    content.insert(results, result)


def _text_blocks(content: Any, path: str) -> list[JsonObject]:
    """Text blocks of a string or of parts. Empty ones go, for Anthropic refuses them."""
    if isinstance(content, str):
        return [{"type": "text", "text": content}] if content else []
    if not isinstance(content, list):
        raise Untranslatable(path)
    blocks = [_text_block(part, f"{path}.{index}") for index, part in enumerate(content)]
    return [block for block in blocks if block["text"]]


def _text_block(part: Any, path: str) -> JsonObject:
    fields = mapping(part)
    kind = fields.get("type")
    # A refusal is what the assistant said instead of an answer, so it is said again as text.
    if kind not in ("text", "refusal"):
        named = isinstance(kind, str) and kind.isidentifier()
        raise Untranslatable(f"{path}.{kind}" if named else path)
    words = fields.get(kind)
    if not isinstance(words, str):
        raise Untranslatable(f"{path}.{kind}")
    block = {"type": "text", "text": words}
    # Anthropic's own mark, which callers of gateways put on OpenAI's parts to have them cached.
    cache_control = fields.get("cache_control")
    return {**block, "cache_control": cache_control} if cache_control else block


def _assistant_blocks(message: JsonObject, path: str) -> list[JsonObject]:
    for field in ("audio", "function_call"):
        if message.get(field) is not None:
            raise Untranslatable(f"{path}.{field}")
    content = message.get("content")
    blocks = [] if content is None else _text_blocks(content, f"{path}.content")
    refusal = message.get("refusal")
    if refusal is not None:
        blocks += _text_blocks(refusal, f"{path}.refusal")
    calls = list_in(message, "tool_calls")
    return blocks + [_tool_use(call, f"{path}.tool_calls.{i}") for i, call in enumerate(calls)]


def _tool_use(call: Any, path: str) -> JsonObject:
    fields = mapping(call)
    if fields.get("type", "function") != "function":
        raise Untranslatable(f"{path}.type")
    function = mapping(fields.get("function"))
    arguments = function.get("arguments")
    try:
        # A call without arguments is an empty string with some models and `{}` with others.
        given = decode_object(arguments.encode()) if arguments else {}
    except (AttributeError, ValueError):
        raise Untranslatable(f"{path}.function.arguments") from None
    return {
        "type": "tool_use",
        "id": name_in(fields, "id", path),
        "name": name_in(function, "name", f"{path}.function"),
        "input": given,
    }


def _tool_result(message: JsonObject, path: str) -> JsonObject:
    call_id = name_in(message, "tool_call_id", path)
    blocks = _text_blocks(message.get("content"), f"{path}.content")
    result: JsonObject = {"type": "tool_result", "tool_use_id": call_id}
    return {**result, "content": blocks} if blocks else result


def list_in(body: JsonObject, field: str) -> list[Any]:
    value = body.get(field)
    if value is not None and not isinstance(value, list):
        raise Untranslatable(field)
    return items(value)


def name_in(fields: JsonObject, field: str, path: str) -> str:
    value = fields.get(field)
    if not isinstance(value, str) or not value:
        raise Untranslatable(f"{path}.{field}")
    return value
