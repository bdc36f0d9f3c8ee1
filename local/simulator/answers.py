"""What a model says and what it costs: the same for the same request, whichever way it came."""

import hashlib
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson

from local.simulator.meter import Tokens
from local.simulator.schemas import example

BYTES_PER_TOKEN: Final = 4
IMAGE_TOKENS: Final = 765
OVERHEAD_TOKENS: Final = 3
CACHEABLE_TOKENS: Final = 1024

# How an answer travels does not change what it says.
_TRANSPORT: Final = frozenset({"stream", "stream_options"})
_REASONING: Final = {"low": 16, "medium": 64, "high": 256, "xhigh": 512, "max": 1024}
_PROSE: Final = (
    "the batch line waits quietly while another model reads a longer question and answers it "
    "with care because every token has its price and a patient caller pays half of what a hurried "
    "one would so plans grow from small notes into clear steps that people can follow in order "
    "from first light until evening when results return together sorted counted and complete"
)
_CORPUS: Final = tuple(random.Random(20_261_122).choices(_PROSE.split(), k=4096))


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool the model is made to call. `schema` None: its input is plain text."""

    name: str
    schema: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class Ask:
    """A request, whichever provider's words it came in."""

    digest: bytes
    user_text: str
    prompt_tokens: int
    max_tokens: int | None = None
    stops: Sequence[str] = ()
    tool: Tool | None = None
    schema: Mapping[str, Any] | None = None
    reasoning_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer. `finish` is stop, stop_sequence, length or tool; reasoning counts as output."""

    text: str
    arguments: Any
    finish: str
    stop_sequence: str | None
    output_tokens: int


def digest_of(body: Mapping[str, Any]) -> bytes:
    """A hash of the request without regard to the order of its keys or to how it is answered."""
    said = {name: value for name, value in body.items() if name not in _TRANSPORT}
    return hashlib.sha256(orjson.dumps(said, option=orjson.OPT_SORT_KEYS)).digest()


def echo(text: str) -> str:
    """The mark by which a caller can tell that an answer is to its own question."""
    return "echo:" + hashlib.sha256(text.encode()).hexdigest()[:12]


def tokens_in(text: str) -> int:
    """Tokens of a text of which there is at least one."""
    return max(1, -(-len(text.encode()) // BYTES_PER_TOKEN))


def text_of(content: object) -> str:
    """The text of a message's content: a string, or parts whose texts are joined."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    return "".join(
        part["text"]
        for part in content
        if isinstance(part, dict)
        and part.get("type") == "text"
        and isinstance(part.get("text"), str)
    )


def last_user_text(messages: Sequence[Mapping[str, Any]]) -> str:
    """The text of the last user turn that has one."""
    for message in reversed(messages):
        if message.get("role") == "user" and (text := text_of(message.get("content"))):
            return text
    return ""


def reasoning_tokens(effort: object, digest: bytes) -> int:
    """Tokens thought before answering, by effort; none for none and minimal."""
    base = _REASONING.get(effort, 0) if isinstance(effort, str) else 0
    return base + digest[3] % 16 if base else 0


def reply(ask: Ask, choice: int = 0) -> Reply:
    """The answer; another one for each `choice`."""
    reasoning = ask.reasoning_tokens
    if ask.max_tokens is not None:
        # Half the room is left to the visible answer.
        reasoning = min(reasoning, ask.max_tokens // 2)
    room = None if ask.max_tokens is None else ask.max_tokens - reasoning
    if ask.tool is not None:
        return _call(ask.tool, echo(ask.user_text), room, reasoning)
    if ask.schema is not None:
        text = orjson.dumps(example(ask.schema, echo(ask.user_text))).decode()
    else:
        text = f"{echo(ask.user_text)} {_prose(ask.digest, choice)}"
    finish, stop_sequence = "stop", None
    found = [(text.find(stop), stop) for stop in ask.stops if stop in text]
    if found:
        position, stop_sequence = min(found)
        text, finish = text[:position], "stop_sequence"
    if room is not None and tokens_in(text) > room:
        text, finish, stop_sequence = text[: room * BYTES_PER_TOKEN], "length", None
    visible = tokens_in(text) if text else 0
    if room is not None:
        visible = min(visible, room)
    return Reply(text, None, finish, stop_sequence, visible + reasoning)


def _call(tool: Tool, mark: str, room: int | None, reasoning: int) -> Reply:
    arguments = mark if tool.schema is None else example(tool.schema, mark)
    wanted = tokens_in(tool.name) + tokens_in(orjson.dumps(arguments).decode())
    cut = room is not None and wanted > room
    spent = room if cut and room is not None else wanted
    return Reply("", arguments, "length" if cut else "tool", None, spent + reasoning)


def _prose(digest: bytes, choice: int) -> str:
    start = (int.from_bytes(digest[:2], "big") + 97 * choice) % (len(_CORPUS) - 64)
    return " ".join(_CORPUS[start : start + 8 + digest[2] % 48]) + "."


def input_classes(
    ask: Ask, *, caching: bool, writes: bool, long_lived: bool = False, block: int = 128
) -> Tokens:
    """How the prompt's tokens fall into classes: some requests read a cache, some write it.

    Which one is decided by the request's hash, so that the same request is billed the same.
    """
    if not caching:
        return Tokens(input_uncached=ask.prompt_tokens)
    kind = ask.digest[4] % 3
    part = ask.prompt_tokens // 2
    if part >= block:
        part -= part % block
    read = part if kind == 0 else 0
    written = part if kind == 1 and writes else 0
    return Tokens(
        input_uncached=ask.prompt_tokens - read - written,
        cache_read=read,
        cache_write_short=0 if long_lived else written,
        cache_write_long=written if long_lived else 0,
    )
