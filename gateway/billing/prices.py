"""What a call costs and what it may cost at most. Pure integer arithmetic, no I/O.

Rates are pico-USD per token, amounts nano-USD. A call's sum is made in pico-USD, marked up and
then rounded once; Decimal appears only where money enters or leaves as text.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum, auto
from fractions import Fraction
from typing import Any

from gateway.catalogue.rates import ClassRates, Rates
from gateway.catalogue.usage import Usage

NANO_PER_USD = 10**9
PICO_PER_NANO = 1_000
BASIS_POINTS = 10_000
LARGEST_NANOS = 2**63 - 1  # a BIGINT column's

EMBEDDINGS = "/v1/embeddings"
BYTES_PER_TOKEN = 2
TOKENS_PER_ATTACHMENT = 2_000
DEFAULT_OUTPUT_TOKENS = 4_096

TEXT_PARTS = frozenset({"text", "refusal"})
ATTACHMENT_PARTS = frozenset({"image_url", "input_audio", "file"})
CACHE_MARKS = frozenset({"cache_control", "prompt_cache_breakpoint"})
CACHE_FIELDS = frozenset(
    {"cache_control", "prompt_cache_key", "prompt_cache_options", "prompt_cache_retention"}
)
SHORT_LIFETIMES = frozenset({None, "5m", "30m", "in_memory"})
"""What is cached for so long is written at the lower rate. It is what is meant if nothing is said.

Sources: https://platform.claude.com/docs/en/build-with-claude/prompt-caching (`5m`), OpenAI's
`prompt_cache_options` (`30m`) and `prompt_cache_retention` (`in_memory`).
"""

# Top-level fields that are not read as a prompt, or that `measure` counts in a way of their own.
# What is not here counts as prompt text: a field that we don't know must not be a free ride.
NOT_PROMPT_TEXT = frozenset(
    {
        *CACHE_FIELDS,
        "audio",
        "function_call",
        "logit_bias",
        "messages",
        "metadata",
        "modalities",
        "model",
        "moderation",
        "prediction",
        "reasoning_effort",
        "response_format",
        "safety_identifier",
        "service_tier",
        "stop",
        "stream_options",
        "tool_choice",
        "user",
        "verbosity",
    }
)


class Caching(Enum):
    """What a body asks of the provider's cache: nothing, or that it be written, for how long."""

    NONE = auto()
    SHORT = auto()
    LONG = auto()


@dataclass(frozen=True, slots=True)
class Size:
    """The most that a call can plausibly consume, and what of the cache it asks for."""

    input_tokens: int
    output_tokens: int
    caching: Caching = Caching.NONE


def cost_nanos(usage: Usage, rates: Rates, markup_bps: int = 0) -> int:
    """The price of what was used: all classes summed, marked up, rounded once, half up."""
    tier = rates.at(usage.input_total)
    pico = (
        usage.input_uncached * tier.input
        + usage.cache_read * tier.cache_read
        + usage.cache_write_short * tier.cache_write_short
        + usage.cache_write_long * tier.cache_write_long
        + usage.output * tier.output
    )
    numerator = pico * (BASIS_POINTS + markup_bps)
    denominator = PICO_PER_NANO * BASIS_POINTS
    return (2 * numerator + denominator) // (2 * denominator)


def ceiling_nanos(size: Size, rates: Rates, markup_bps: int = 0) -> int:
    """The most that a call of this size can cost, rounded up: what is held and shown for it.

    A request may turn out shorter than its size and land in a lower tier, so every tier up to the
    size competes, and no price list has to be monotonic for this to be an upper bound.
    """
    pico = max(
        size.input_tokens * _dearest_input(tier, size.caching) + size.output_tokens * tier.output
        for tier in rates.up_to(size.input_tokens)
    )
    return -(-pico * (BASIS_POINTS + markup_bps) // (PICO_PER_NANO * BASIS_POINTS))


def _dearest_input(tier: ClassRates, caching: Caching) -> int:
    # Providers read their caches unasked, and a batch variant that omits the cached class leaves
    # it at its standard rate, which nothing keeps below the batch rate of plain input.
    unasked = max(tier.input, tier.cache_read)
    match caching:
        case Caching.NONE:
            return unasked
        case Caching.SHORT:
            return max(unasked, tier.cache_write_short)
        case Caching.LONG:
            return max(unasked, tier.cache_write_short, tier.cache_write_long)


def measure(endpoint: str, body: Mapping[str, Any], max_output_tokens: int | None) -> Size:
    """The size that a call's ceiling is made of, from its body as the provider will see it.

    Half the UTF-8 bytes of the prompt, 2,000 tokens a picture or file, and as output `n` times the
    caller's limit, else the model's (`max_output_tokens`), else 4,096. An embedding's input is
    measured text by text, or counted if it is tokens already.
    """
    if endpoint == EMBEDDINGS:
        return Size(_embedding_tokens(body.get("input")), output_tokens=0)
    text_bytes, attachments = _prompt_size(body)
    limits = [_whole(body.get("max_completion_tokens")), _whole(body.get("max_tokens"))]
    limit = max(limits) or max_output_tokens or DEFAULT_OUTPUT_TOKENS
    # What the answer does not take over of a predicted output is billed as output, beside it.
    predicted = _tokens(_text_bytes(_get(body.get("prediction"), "content")))
    return Size(
        input_tokens=_tokens(text_bytes) + attachments * TOKENS_PER_ATTACHMENT,
        output_tokens=max(1, _whole(body.get("n"))) * (limit + predicted),
        caching=_caching(body),
    )


def _prompt_size(body: Mapping[str, Any]) -> tuple[int, int]:
    """Bytes of text and number of attachments in all that a provider reads as prompt."""
    # A schema is written into the prompt like the definition of a tool; its `type` is not.
    schema = _get(body.get("response_format"), "json_schema")
    text_bytes = _text_bytes(schema)
    attachments = 0
    for name, value in body.items():
        if name not in NOT_PROMPT_TEXT:
            text_bytes += _text_bytes(value)
    messages = body.get("messages")
    for message in messages if isinstance(messages, list) else []:
        message_bytes, message_attachments = _message_size(message)
        text_bytes += message_bytes
        attachments += message_attachments
    return text_bytes, attachments


def _message_size(message: Any) -> tuple[int, int]:
    """Everything but the role counts as text: names, tool calls with their arguments, refusals.

    The model reads them all, so the provider bills them all as prompt.
    """
    if not isinstance(message, dict):
        return _text_bytes(message), 0
    text_bytes = sum(
        _text_bytes(value) for name, value in message.items() if name not in ("role", "content")
    )
    content = message.get("content")
    if not isinstance(content, list):
        return text_bytes + _text_bytes(content), 0
    parts = [_part_size(part) for part in content]
    return text_bytes + sum(size for size, _ in parts), sum(count for _, count in parts)


def _part_size(part: Any) -> tuple[int, int]:
    """A part of a kind we don't know counts as text and as an attachment, as it may be either."""
    kind = _get(part, "type")
    if kind in ATTACHMENT_PARTS:
        return 0, 1
    if not isinstance(part, dict):
        return _text_bytes(part), 0
    text_bytes = sum(
        _text_bytes(value)
        for name, value in part.items()
        if name != "type" and name not in CACHE_MARKS
    )
    return text_bytes, 0 if kind in TEXT_PARTS else 1


def _embedding_tokens(texts: Any) -> int:
    if isinstance(texts, str):
        return _tokens(_text_bytes(texts))
    if not isinstance(texts, list):
        return 0
    # A list of numbers is one text's tokens; each text is rounded up, as none costs less than one.
    return sum(1 if isinstance(item, int) else _embedding_tokens(item) for item in texts)


def _caching(body: Mapping[str, Any]) -> Caching:
    asked = [_lifetime(body[name]) for name in CACHE_FIELDS if body.get(name) is not None]
    retention = body.get("prompt_cache_retention")
    if isinstance(retention, str):
        asked.append(retention)
    for name in ("messages", "tools"):
        asked += _lifetimes(body.get(name))
    if not asked:
        return Caching.NONE
    return Caching.SHORT if SHORT_LIFETIMES.issuperset(asked) else Caching.LONG


def _lifetimes(value: Any) -> Iterator[str | None]:
    """Of each prefix whose end is marked in there."""
    if isinstance(value, dict):
        for name, item in value.items():
            if name in CACHE_MARKS:
                yield _lifetime(item)
            else:
                yield from _lifetimes(item)
    elif isinstance(value, list):
        for item in value:
            yield from _lifetimes(item)


def _lifetime(mark: Any) -> str | None:
    """How long something is to be kept; None if that is not said."""
    ttl = _get(mark, "ttl")
    return ttl if isinstance(ttl, str) else None


def _text_bytes(value: Any) -> int:
    """UTF-8 bytes of a text, or of the JSON of a structure; 0 for numbers, booleans and null."""
    if isinstance(value, str):
        # Lone surrogates can arrive by JSON escapes and are no valid UTF-8.
        return len(value.encode(errors="surrogatepass"))
    if isinstance(value, dict | list):
        return _text_bytes(json.dumps(value, ensure_ascii=False, separators=(",", ":")))
    return 0


def _tokens(text_bytes: int) -> int:
    return -(-text_bytes // BYTES_PER_TOKEN)


def _get(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, dict) else None


def _whole(value: Any) -> int:
    """A positive whole number, else 0: what is wrong with it, validation tells the caller."""
    return value if type(value) is int and value > 0 else 0


def format_usd(nanos: int) -> str:
    """Dollars as the shortest plain decimal string: "0", "25", "0.0021", "-1.5"."""
    whole, fraction = divmod(abs(nanos), NANO_PER_USD)
    digits = f"{whole}.{fraction:09d}".rstrip("0").rstrip(".")
    return f"-{digits}" if nanos < 0 else digits


def parse_usd(amount: str | int | Decimal) -> int:
    """Nano-USD of an amount of dollars.

    ValueError if it is negative, not a plain decimal number, has more than nine decimals, or is
    more than the ledger can hold.
    """
    if isinstance(amount, bool) or not isinstance(amount, str | int | Decimal):
        raise ValueError("an amount is a decimal number of dollars")
    if isinstance(amount, str) and not re.fullmatch(r"\d{1,20}(\.\d{1,20})?", amount, re.ASCII):
        raise ValueError("an amount is a plain decimal number of dollars")
    nanos = _scaled(Decimal(amount), NANO_PER_USD)
    if nanos is None:
        raise ValueError("an amount has at most nine decimals, and is neither negative nor huge")
    return nanos


def markup_bps(percent: Decimal) -> int:
    """Basis points of a markup in percent; ValueError if it is negative or finer than those."""
    points = _scaled(percent, 100)
    if points is None:
        raise ValueError("a markup is a non-negative percentage with at most two decimals")
    return points


def _scaled(value: Decimal, factor: int) -> int | None:
    """The product, if it is a whole number from 0 to the largest that a column holds."""
    if not value.is_finite() or value < 0:
        return None
    if value == 0:
        return 0
    # The exponent is looked at before the number is made: 1E+999999 has a million digits.
    if abs(value.adjusted()) > 20:
        return None
    product = Fraction(value) * factor
    if product.denominator != 1 or product > LARGEST_NANOS:
        return None
    return product.numerator
