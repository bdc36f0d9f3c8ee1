"""The messages of a chat completion request as Anthropic's system blocks and turns. Pure."""

from typing import Any

from gateway.providers.anthropic_completion import THINKING
from gateway.providers.anthropic_media import Untranslatable, document_block, image_block
from gateway.providers.fields import JsonObject, decode_object, items, mapping


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
        path = f"messages[{index}]"
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
                _say(turns, "user", _blocks(message.get("content"), f"{path}.content"))
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
    return _blocks(content, path, ("text", "refusal"))


def _blocks(
    content: Any, path: str, kinds: tuple[str, ...] = ("text", "refusal", "image_url", "file")
) -> list[JsonObject]:
    """The blocks of a string, or of parts of those kinds."""
    if isinstance(content, str):
        return [{"type": "text", "text": content}] if content else []
    if not isinstance(content, list):
        raise Untranslatable(path)
    blocks = [_block(part, f"{path}[{index}]", kinds) for index, part in enumerate(content)]
    return [block for block in blocks if block.get("text") != ""]


def _block(part: Any, path: str, kinds: tuple[str, ...]) -> JsonObject:
    fields = mapping(part)
    kind = fields.get("type")
    if not isinstance(kind, str) or kind not in kinds:
        named = isinstance(kind, str) and kind.isidentifier()
        raise Untranslatable(f"{path}.{kind}" if named else path)
    match kind:
        case "image_url":
            block = image_block(fields, path)
        case "file":
            block = document_block(fields, path)
        case _:
            # A refusal is what the assistant said instead of an answer: said again as text.
            words = fields.get(kind)
            if not isinstance(words, str):
                raise Untranslatable(f"{path}.{kind}")
            block = {"type": "text", "text": words}
    return {**block, **cache_mark(fields, path)}


def cache_mark(fields: JsonObject, path: str = "") -> JsonObject:
    """Anthropic's own mark, which callers of gateways put on OpenAI's parts to have them cached."""
    mark = fields.get("cache_control")
    if mark is None:
        return {}
    if not isinstance(mark, dict):
        raise Untranslatable(f"{path}.cache_control" if path else "cache_control")
    return {"cache_control": mark}


def _assistant_blocks(message: JsonObject, path: str) -> list[JsonObject]:
    for field in ("audio", "function_call"):
        if message.get(field) is not None:
            raise Untranslatable(f"{path}.{field}")
    content = message.get("content")
    blocks = _thoughts(message, path)
    if content is not None:
        blocks += _text_blocks(content, f"{path}.content")
    refusal = message.get("refusal")
    if refusal is not None:
        blocks += _text_blocks(refusal, f"{path}.refusal")
    calls = list_in(message, "tool_calls", path)
    return blocks + [_tool_use(call, f"{path}.tool_calls[{i}]") for i, call in enumerate(calls)]


def _thoughts(message: JsonObject, path: str) -> list[JsonObject]:
    """The signed thinking of an earlier answer, which opened that turn."""
    blocks = list_in(message, "thinking_blocks", path)
    if not all(mapping(block).get("type") in THINKING for block in blocks):
        raise Untranslatable(f"{path}.thinking_blocks")
    return blocks


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
    blocks = _blocks(message.get("content"), f"{path}.content")
    result: JsonObject = {"type": "tool_result", "tool_use_id": call_id}
    return {**result, "content": blocks} if blocks else result


def list_in(fields: JsonObject, field: str, path: str = "") -> list[Any]:
    value = fields.get(field)
    if value is not None and not isinstance(value, list):
        raise Untranslatable(f"{path}.{field}" if path else field)
    return list(items(value))


def name_in(fields: JsonObject, field: str, path: str) -> str:
    value = fields.get(field)
    if not isinstance(value, str) or not value:
        raise Untranslatable(f"{path}.{field}")
    return value
