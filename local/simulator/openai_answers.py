"""Chat completions and embeddings in OpenAI's format, from a body to an answer and its tokens."""

import base64
import hashlib
import math
import secrets
import time
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson

from local.simulator import answers, models
from local.simulator.answers import Ask, Reply, Tool
from local.simulator.errors import invalid
from local.simulator.meter import Tokens
from local.simulator.openai_requests import check_chat, check_embeddings

CHAT: Final = "/v1/chat/completions"
EMBEDDINGS: Final = "/v1/embeddings"

_MAX_INPUT_TOKENS: Final = 8192
_MAX_TOTAL_TOKENS: Final = 300_000
_FINISH: Final = {"stop": "stop", "stop_sequence": "stop", "length": "length", "tool": "tool_calls"}
_BYTE_VALUES: Final = tuple((byte - 127.5) / 128 for byte in range(256))


@dataclass(frozen=True, slots=True)
class Answered:
    """A finished call: the answer's JSON, the model as it was asked for, what is billed."""

    body: dict[str, Any]
    model: str
    tokens: Tokens


def answer(endpoint: str, body: object, *, strict: bool) -> Answered:
    """The answer of either endpoint. Raises ApiError."""
    if endpoint == EMBEDDINGS:
        return embed(body, strict=strict)
    return chat(body, strict=strict)


def prompt_tokens(body: Mapping[str, Any]) -> int:
    """Tokens of a chat request: its texts and its tools, and a little for the frame."""
    size_bytes = images = 0
    for message in body["messages"]:
        content = message.get("content")
        size_bytes += len(answers.text_of(content).encode())
        if isinstance(content, list):
            images += sum(part["type"] in ("image_url", "file", "input_audio") for part in content)
        if message.get("tool_calls"):
            size_bytes += len(orjson.dumps(message["tool_calls"]))
    for name in ("tools", "functions", "response_format"):
        if body.get(name):
            size_bytes += len(orjson.dumps(body[name]))
    spoken = max(1, size_bytes // answers.BYTES_PER_TOKEN)
    return spoken + answers.OVERHEAD_TOKENS + images * answers.IMAGE_TOKENS


def chat(body: object, *, strict: bool) -> Answered:
    """A chat completion. Raises ApiError."""
    fields, model = check_chat(body, strict=strict)
    ask = _ask(fields)
    if ask.prompt_tokens > model.context_tokens:
        raise invalid(
            f"This model's maximum context length is {model.context_tokens} tokens. However, "
            f"your messages resulted in {ask.prompt_tokens} tokens.",
            "messages",
            "context_length_exceeded",
        )
    replies = [answers.reply(ask, choice) for choice in range(fields.get("n") or 1)]
    tokens = _tokens(ask, model, replies, caches=bool(fields.get("prompt_cache_key")))
    completion = {
        "id": "chatcmpl-" + secrets.token_hex(12),
        "object": "chat.completion",
        "created": int(time.time()),
        "model": models.answering_name(model, fields["model"]),
        "choices": [_choice(index, ask, reply) for index, reply in enumerate(replies)],
        "usage": usage(tokens),
        "service_tier": "default",
        "system_fingerprint": "fp_" + ask.digest[:5].hex(),
    }
    return Answered(completion, fields["model"], tokens)


def _ask(body: Mapping[str, Any]) -> Ask:
    digest = answers.digest_of(body)
    stop = body.get("stop") or ()
    response_format = body.get("response_format") or {}
    schema = None
    if response_format.get("type") == "json_schema":
        schema = response_format["json_schema"].get("schema") or {"type": "object"}
    elif response_format.get("type") == "json_object":
        schema = {"type": "object", "properties": {"answer": {"type": "string"}}}
    return Ask(
        digest=digest,
        user_text=answers.last_user_text(body["messages"]),
        prompt_tokens=prompt_tokens(body),
        max_tokens=body.get("max_completion_tokens") or body.get("max_tokens"),
        stops=(stop,) if isinstance(stop, str) else stop,
        tool=_tool(body),
        schema=schema,
        reasoning_tokens=answers.reasoning_tokens(body.get("reasoning_effort"), digest),
    )


def _tool(body: Mapping[str, Any]) -> Tool | None:
    """The tool that must be called: the named one, or the first where any is required."""
    tools, choice = body.get("tools"), body.get("tool_choice")
    if not tools or choice in (None, "none", "auto"):
        return None
    named = None
    if isinstance(choice, dict) and choice["type"] == "allowed_tools":
        if choice.get("allowed_tools", choice).get("mode") != "required":
            return None
    elif isinstance(choice, dict):
        named = choice[choice["type"]]["name"]
    for tool in tools:
        inner = tool[tool["type"]]
        if named in (None, inner["name"]):
            takes_text = tool["type"] == "custom"
            return Tool(inner["name"], None if takes_text else inner.get("parameters") or {})
    return None


def _tokens(ask: Ask, model: models.Model, replies: list[Reply], *, caches: bool) -> Tokens:
    caching = caches or ask.prompt_tokens >= answers.CACHEABLE_TOKENS
    classes = answers.input_classes(ask, caching=caching, writes=model.writes_cache)
    limit = ask.max_tokens
    thought = ask.reasoning_tokens if limit is None else min(ask.reasoning_tokens, limit // 2)
    return Tokens(
        input_uncached=classes.input_uncached,
        cache_read=classes.cache_read,
        cache_write_short=classes.cache_write_short,
        output=sum(reply.output_tokens for reply in replies),
        reasoning=thought * len(replies),
    )


def _choice(index: int, ask: Ask, reply: Reply) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": reply.text, "refusal": None}
    if ask.tool is not None:
        message |= {"content": None, "tool_calls": [_tool_call(ask, ask.tool, reply, index)]}
    return {
        "index": index,
        "message": message | {"annotations": []},
        "logprobs": None,
        "finish_reason": _FINISH[reply.finish],
    }


def _tool_call(ask: Ask, tool: Tool, reply: Reply, choice: int) -> dict[str, Any]:
    identity = f"call_{ask.digest[:11].hex()}{choice:02d}"
    if tool.schema is None:
        custom = {"name": tool.name, "input": reply.arguments}
        return {"id": identity, "type": "custom", "custom": custom}
    arguments = orjson.dumps(reply.arguments).decode()
    function = {"name": tool.name, "arguments": arguments}
    return {"id": identity, "type": "function", "function": function}


def usage(tokens: Tokens) -> dict[str, Any]:
    """Chat usage: cached, written and reasoning tokens are parts of the totals."""
    prompt = tokens.input_total
    return {
        "prompt_tokens": prompt,
        "completion_tokens": tokens.output,
        "total_tokens": prompt + tokens.output,
        "prompt_tokens_details": {
            "cached_tokens": tokens.cache_read,
            "cache_write_tokens": tokens.cache_write_short,
            "audio_tokens": 0,
        },
        "completion_tokens_details": {
            "reasoning_tokens": tokens.reasoning,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def chunks(completion: Mapping[str, Any], *, with_usage: bool) -> Iterator[dict[str, Any]]:
    """The completion as the chunks of a stream."""
    frame = {name: completion[name] for name in ("id", "created", "model", "system_fingerprint")}
    frame |= {"object": "chat.completion.chunk", "service_tier": completion["service_tier"]}
    if with_usage:
        frame["usage"] = None
    for choice in completion["choices"]:
        for delta, finish in _deltas(choice):
            part = {"index": choice["index"], "delta": delta, "logprobs": None}
            yield frame | {"choices": [part | {"finish_reason": finish}]}
    if with_usage:
        yield frame | {"choices": [], "usage": completion.get("usage")}


def _deltas(choice: Mapping[str, Any]) -> Iterator[tuple[dict[str, Any], str | None]]:
    message = choice["message"]
    yield {"role": "assistant", "content": None if "tool_calls" in message else ""}, None
    for index, call in enumerate(message.get("tool_calls", ())):
        field = "input" if call["type"] == "custom" else "arguments"
        inner = call[call["type"]]
        yield {"tool_calls": [call | {"index": index, call["type"]: inner | {field: ""}}]}, None
        for piece in pieces(inner[field]):
            yield {"tool_calls": [{"index": index, call["type"]: {field: piece}}]}, None
    for piece in pieces(message["content"] or ""):
        yield {"content": piece}, None
    yield {}, choice["finish_reason"]


def pieces(text: str) -> Iterator[str]:
    """A text as the handful of words that arrive together."""
    for start in range(0, len(text), 24):
        yield text[start : start + 24]


def embed(body: object, *, strict: bool) -> Answered:
    """An embeddings answer. Raises ApiError."""
    fields, model = check_embeddings(body, strict=strict)
    inputs = embedding_inputs(fields.get("input"))
    tokens = Tokens(input_uncached=sum(_input_tokens(item) for item in inputs))
    if tokens.input_uncached > _MAX_TOTAL_TOKENS:
        message = f"Invalid 'input': at most {_MAX_TOTAL_TOKENS} tokens per request."
        raise invalid(message, "input", "max_tokens_per_request")
    dimensions = fields.get("dimensions") or model.dimensions
    as_base64 = fields.get("encoding_format") == "base64"
    data = [
        {
            "object": "embedding",
            "index": index,
            "embedding": _encoded(_vector(item, model.name, dimensions), as_base64),
        }
        for index, item in enumerate(inputs)
    ]
    total = tokens.input_uncached
    reported = {"prompt_tokens": total, "total_tokens": total}
    result = {"object": "list", "data": data, "model": fields["model"], "usage": reported}
    return Answered(result, fields["model"], tokens)


def embedding_inputs(given: Any) -> list[str | list[int]]:
    """The inputs one by one, from any of the four shapes. Raises ApiError."""
    inputs = [given] if isinstance(given, str) else given
    if not isinstance(inputs, list) or not inputs:
        raise invalid("'input' cannot be empty.", "input")
    if all(isinstance(item, int) and not isinstance(item, bool) for item in inputs):
        inputs = [inputs]
    if len(inputs) > 2048:
        raise invalid("'input' array is too long: at most 2048.", "input")
    for item in inputs:
        numbers = isinstance(item, list) and all(isinstance(number, int) for number in item)
        if not item or not (isinstance(item, str) or numbers):
            raise invalid("'$.input' is invalid.", "input")
        if _input_tokens(item) > _MAX_INPUT_TOKENS:
            message = f"Invalid 'input': maximum context length is {_MAX_INPUT_TOKENS} tokens."
            raise invalid(message, "input")
    return inputs


def _input_tokens(item: str | list[int]) -> int:
    return answers.tokens_in(item) if isinstance(item, str) else len(item)


def _vector(item: str | list[int], model: str, dimensions: int) -> "array[float]":
    """A unit vector of float32 that depends on the text and the model alone."""
    source = (
        model.encode() + b"\0" + (item.encode() if isinstance(item, str) else repr(item).encode())
    )
    noise = hashlib.shake_128(source).digest(dimensions)
    length = math.sqrt(sum(_BYTE_VALUES[byte] ** 2 for byte in noise))
    scaled = [value / length for value in _BYTE_VALUES]
    return array("f", map(scaled.__getitem__, noise))


def _encoded(vector: "array[float]", as_base64: bool) -> str | list[float]:
    if not as_base64:
        return vector.tolist()
    # Little-endian float32 is what the format asks for, and what this machine keeps in memory.
    return base64.b64encode(vector.tobytes()).decode()
