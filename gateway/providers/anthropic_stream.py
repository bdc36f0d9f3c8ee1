"""Anthropic's events as the chunks of one of OpenAI's streams. Pure.

Thinking is told as `reasoning_content`, DeepSeek's name for it, which OpenAI's clients know. The
last chunk of the choice carries `thinking_blocks` besides, whole and signed, for callers who send
them back: Anthropic wants them with the results of tools.
"""

from dataclasses import dataclass, field

import orjson

from gateway.catalogue.usage import Usage
from gateway.providers.anthropic_completion import (
    finish_reason,
    refusal_of,
    shown_tier,
    thinking_blocks,
)
from gateway.providers.dialect import Broken, StreamPiece
from gateway.providers.errors import error_fields
from gateway.providers.fields import JsonObject, count, decode_object, mapping, string, text
from gateway.providers.streams import ErrorEvent
from gateway.providers.usage import anthropic_usage, completion_usage


@dataclass(slots=True)
class _Tool:
    """A tool call that is being told: its place among the calls, and its input so far."""

    place: int
    input: JsonObject
    told: bool = False


@dataclass(slots=True)
class _Thought:
    """A block of thinking: as it began, and what was added."""

    begun: JsonObject
    parts: list[str] = field(default_factory=list)
    signature: object = None

    def whole(self) -> JsonObject:
        thinking = string(self.begun.get("thinking")) + "".join(self.parts)
        added = {"thinking": thinking} if "thinking" in self.begun else {}
        signed = {"signature": self.signature} if self.signature else {}
        return {**self.begun, **added, **signed}


class AnthropicPieces:
    """One stream. `created` is Unix seconds."""

    def __init__(self, created: int) -> None:
        self.usage: Usage | None = None
        self.over = False
        self._frame: JsonObject = {"object": "chat.completion.chunk", "created": created}
        self._reported: JsonObject = {}
        self._tools: dict[int, _Tool] = {}
        self._thoughts: dict[int, _Thought] = {}
        self._said = False
        self._finished = False

    def read(self, data: bytes) -> list[StreamPiece]:
        """See `streams.Translation`. Pings, and events that are new, say nothing."""
        event = _decode(data)
        index = count(event.get("index")) or 0
        match event.get("type"):
            case "content_block_delta":
                return self._add(index, mapping(event.get("delta")))
            case "content_block_start":
                return self._begin(index, mapping(event.get("content_block")))
            case "content_block_stop":
                return self._stop(index)
            case "message_start":
                return self._open(mapping(event.get("message")))
            case "message_delta":
                return self._close(event)
            case "message_stop":
                self.over = True
                return self.end()
            case "error":
                raise ErrorEvent(error_fields(event))
        return []

    def end(self) -> list[StreamPiece]:
        """See `streams.Translation`."""
        if not self._finished:
            raise Broken("the answer was cut short")
        if self.usage is None:
            return []
        shown = {**self._frame, "choices": [], "usage": completion_usage(self.usage)}
        tier = text(self._reported.get("service_tier"))
        return [StreamPiece(orjson.dumps(shown), self.usage, usage_only=True, service_tier=tier)]

    def _open(self, message: JsonObject) -> list[StreamPiece]:
        self._count(message)
        self._frame = {"id": message.get("id"), **self._frame, "model": message.get("model")}
        tier = shown_tier(self._reported)
        if tier:
            self._frame["service_tier"] = tier
        return [self._piece({"role": "assistant", "content": "", "refusal": None})]

    def _begin(self, index: int, block: JsonObject) -> list[StreamPiece]:
        match block.get("type"):
            case "tool_use":
                call_id, name = text(block.get("id")), text(block.get("name"))
                if call_id is None or name is None:
                    raise Broken("a tool call lacks its id or name")
                tool = _Tool(len(self._tools), mapping(block.get("input")))
                self._tools[index] = tool
                function = {"name": name, "arguments": ""}
                return [self._call(tool, {"id": call_id, "type": "function", "function": function})]
            case "thinking" | "redacted_thinking":
                self._thoughts[index] = _Thought(block)
                return self._words("reasoning_content", string(block.get("thinking")))
            case "text":
                return self._words("content", string(block.get("text")))
        return []

    def _add(self, index: int, delta: JsonObject) -> list[StreamPiece]:
        match delta.get("type"):
            case "text_delta":
                return self._words("content", string(delta.get("text")))
            case "thinking_delta" if index in self._thoughts:
                thought = string(delta.get("thinking"))
                self._thoughts[index].parts.append(thought)
                return self._words("reasoning_content", thought)
            case "signature_delta" if index in self._thoughts:
                self._thoughts[index].signature = delta.get("signature")
            case "input_json_delta" if index in self._tools:
                return self._arguments(self._tools[index], string(delta.get("partial_json")))
        return []

    def _stop(self, index: int) -> list[StreamPiece]:
        """A tool without arguments is sent none at all, where OpenAI's callers expect an object."""
        tool = self._tools.get(index)
        if tool is None or tool.told:
            return []
        return self._arguments(tool, orjson.dumps(tool.input).decode())

    def _close(self, event: JsonObject) -> list[StreamPiece]:
        self._count(event)
        changed = mapping(event.get("delta"))
        stop_reason = text(changed.get("stop_reason"))
        if stop_reason is None:
            return []
        self._finished = True
        delta: JsonObject = thinking_blocks(
            [thought.whole() for thought in self._thoughts.values()]
        )
        if stop_reason == "refusal" and not self._said:
            delta["refusal"] = refusal_of(mapping(changed.get("stop_details")))
        return [self._piece(delta, finish_reason(stop_reason))]

    def _count(self, counted: JsonObject) -> None:
        """Counts are cumulative, and what a later event leaves out still holds."""
        told = mapping(counted.get("usage"))
        self._reported |= {name: value for name, value in told.items() if value is not None}
        self.usage = anthropic_usage({"usage": self._reported})

    def _words(self, field: str, words: str) -> list[StreamPiece]:
        if not words:
            return []
        self._said = self._said or field == "content"
        return [self._piece({field: words})]

    def _arguments(self, tool: _Tool, piece: str) -> list[StreamPiece]:
        if not piece:
            return []
        tool.told = True
        return [self._call(tool, {"function": {"arguments": piece}})]

    def _call(self, tool: _Tool, call: JsonObject) -> StreamPiece:
        return self._piece({"tool_calls": [{"index": tool.place, **call}]})

    def _piece(self, delta: JsonObject, finish: str | None = None) -> StreamPiece:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return StreamPiece(orjson.dumps({**self._frame, "choices": [choice]}))


def _decode(data: bytes) -> JsonObject:
    try:
        return decode_object(data)
    except ValueError:
        raise Broken("an event of the stream is not a JSON object") from None
