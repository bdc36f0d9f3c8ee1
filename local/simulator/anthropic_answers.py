"""Messages in Anthropic's format, from a body to an answer and its tokens."""

import hashlib
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson

from local.simulator import answers, models
from local.simulator.answers import Ask, Reply, Tool
from local.simulator.anthropic_requests import breakpoints, check_message, check_prompt
from local.simulator.errors import invalid
from local.simulator.meter import BATCH, Tokens

_STOP_REASONS: Final = {
    "stop": "end_turn",
    "stop_sequence": "stop_sequence",
    "length": "max_tokens",
    "tool": "tool_use",
}
_PIECE_CHARACTERS: Final = 24


@dataclass(frozen=True, slots=True)
class Answered:
    """A finished call: the message, the model as it was asked for, what it would be billed."""

    body: dict[str, Any]
    model: str
    tokens: Tokens


def message(body: object, version: str, lane: str, *, strict: bool) -> Answered:
    """The answer to a Messages request. Raises ApiError."""
    fields, model = check_message(body, version, strict=strict)
    ask = _ask(fields)
    if ask.prompt_tokens > model.context_tokens:
        message = f"prompt is too long: {ask.prompt_tokens} tokens > {model.context_tokens} maximum"
        raise invalid(message)
    reply = answers.reply(ask)
    thought = min(ask.reasoning_tokens, fields["max_tokens"] // 2)
    tokens = _tokens(fields, ask, reply, thought)
    result = {
        "id": "msg_01" + secrets.token_hex(11),
        "type": "message",
        "role": "assistant",
        "model": models.answering_name(model, fields["model"]),
        "content": list(_content(ask, reply, thought)),
        "stop_reason": _STOP_REASONS[reply.finish],
        "stop_sequence": reply.stop_sequence,
        "stop_details": None,
        "usage": usage(tokens, lane),
    }
    return Answered(result, fields["model"], tokens)


def count_tokens(body: object, version: str, *, strict: bool) -> int:
    """The input tokens a Messages request would have. Raises ApiError."""
    fields, _model = check_prompt(body, version, strict=strict)
    return prompt_tokens(fields)


def prompt_tokens(body: Mapping[str, Any]) -> int:
    """Tokens of a request: its texts, its tools, and a little for the frame."""
    size_bytes = len(answers.text_of(body.get("system")).encode())
    images = 0
    for turn in body["messages"]:
        size_bytes += len(answers.text_of(turn["content"]).encode())
        for block in turn["content"] if isinstance(turn["content"], list) else ():
            images += block["type"] in ("image", "document")
            if block["type"] == "tool_use":
                size_bytes += len(orjson.dumps(block["input"]))
            elif block["type"] == "tool_result":
                size_bytes += len(answers.text_of(block.get("content")).encode())
    for name in ("tools", "output_config"):
        if body.get(name):
            size_bytes += len(orjson.dumps(body[name]))
    spoken = max(1, size_bytes // answers.BYTES_PER_TOKEN)
    return spoken + answers.OVERHEAD_TOKENS + images * answers.IMAGE_TOKENS


def _ask(body: Mapping[str, Any]) -> Ask:
    digest = answers.digest_of(body)
    config = body.get("output_config") or {}
    thinking = (body.get("thinking") or {}).get("type")
    thought = 0
    if thinking in ("adaptive", "enabled"):
        thought = answers.reasoning_tokens(config.get("effort") or "high", digest)
    return Ask(
        digest=digest,
        user_text=answers.last_user_text(body["messages"]),
        prompt_tokens=prompt_tokens(body),
        max_tokens=body["max_tokens"],
        stops=[stop for stop in body.get("stop_sequences") or () if isinstance(stop, str)],
        tool=_tool(body),
        schema=(config.get("format") or {}).get("schema"),
        reasoning_tokens=thought,
    )


def _tool(body: Mapping[str, Any]) -> Tool | None:
    """The tool that must be called: the named one, or the first where any is required."""
    choice = body.get("tool_choice") or {}
    named = choice.get("name") if choice.get("type") == "tool" else None
    if named is None and choice.get("type") != "any":
        return None
    for tool in body["tools"]:
        if named in (None, tool["name"]):
            return Tool(tool["name"], tool.get("input_schema") or {})
    return None


def _tokens(body: Mapping[str, Any], ask: Ask, reply: Reply, thought: int) -> Tokens:
    caches = list(breakpoints(body))
    long_lived = any(cache.get("ttl") == "1h" for cache in caches)
    classes = answers.input_classes(ask, caching=bool(caches), writes=True, long_lived=long_lived)
    return Tokens(
        input_uncached=classes.input_uncached,
        cache_read=classes.cache_read,
        cache_write_short=classes.cache_write_short,
        cache_write_long=classes.cache_write_long,
        output=reply.output_tokens,
        reasoning=thought,
    )


def _content(ask: Ask, reply: Reply, thought: int) -> Iterator[dict[str, Any]]:
    if thought:
        signature = hashlib.sha256(ask.digest).hexdigest()
        thinking = "The question asks for an answer; here is one."
        yield {"type": "thinking", "thinking": thinking, "signature": signature}
    if ask.tool is not None:
        yield {
            "type": "tool_use",
            "id": "toolu_01" + ask.digest[:11].hex(),
            "name": ask.tool.name,
            "input": reply.arguments if isinstance(reply.arguments, dict) else {},
        }
    elif reply.text:
        yield {"type": "text", "text": reply.text, "citations": None}


def usage(tokens: Tokens, lane: str) -> dict[str, Any]:
    """Usage whose three input counts are disjoint; thinking is inside `output_tokens`."""
    return {
        "input_tokens": tokens.input_uncached,
        "cache_creation_input_tokens": tokens.cache_write_short + tokens.cache_write_long,
        "cache_read_input_tokens": tokens.cache_read,
        "cache_creation": {
            "ephemeral_5m_input_tokens": tokens.cache_write_short,
            "ephemeral_1h_input_tokens": tokens.cache_write_long,
        },
        "output_tokens": tokens.output,
        "output_tokens_details": {"thinking_tokens": tokens.reasoning},
        "server_tool_use": None,
        "service_tier": BATCH if lane == BATCH else "standard",
        "speed": None,
        "inference_geo": None,
    }


def events(result: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The message as the events of a stream; each event's type is its SSE name too."""
    reported = result.get("usage")
    opening = dict(result) | {"content": [], "stop_reason": None, "stop_sequence": None}
    if reported is not None:
        opening["usage"] = reported | {"output_tokens": min(1, reported["output_tokens"])}
    yield {"type": "message_start", "message": opening}
    yield {"type": "ping"}
    for index, block in enumerate(result["content"]):
        empty, deltas = _deltas(block)
        yield {"type": "content_block_start", "index": index, "content_block": empty}
        for delta in deltas:
            yield {"type": "content_block_delta", "index": index, "delta": delta}
        yield {"type": "content_block_stop", "index": index}
    names = ("stop_reason", "stop_sequence", "stop_details")
    closing: dict[str, Any] = {
        "type": "message_delta",
        "delta": {name: result[name] for name in names},
    }
    if reported is not None:
        hidden = ("cache_creation", "service_tier", "speed", "inference_geo")
        closing["usage"] = {name: part for name, part in reported.items() if name not in hidden}
    yield closing
    yield {"type": "message_stop"}


def _deltas(block: Mapping[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A content block as it begins, and what is added to it."""
    if block["type"] == "thinking":
        deltas = [
            {"type": "thinking_delta", "thinking": piece} for piece in _pieces(block["thinking"])
        ]
        deltas.append({"type": "signature_delta", "signature": block["signature"]})
        return {"type": "thinking", "thinking": "", "signature": ""}, deltas
    if block["type"] == "tool_use":
        written = orjson.dumps(block["input"]).decode()
        deltas = [{"type": "input_json_delta", "partial_json": piece} for piece in _pieces(written)]
        return dict(block) | {"input": {}}, deltas
    deltas = [{"type": "text_delta", "text": piece} for piece in _pieces(block["text"])]
    return {"type": "text", "text": "", "citations": None}, deltas


def _pieces(text: str) -> Iterator[str]:
    for start in range(0, len(text), _PIECE_CHARACTERS):
        yield text[start : start + _PIECE_CHARACTERS]
