"""Usage as providers report it, sorted into the disjoint classes that are priced.

Every function answers None for a usage that is missing or cannot be true: a zero that nobody
reported would be a gift, and a negative count a refund.
"""

from gateway.catalogue.usage import Usage
from gateway.providers.fields import JsonObject, count, mapping

_CACHED_ELSEWHERE = ("prompt_cache_hit_tokens", "num_cached_tokens", "cached_tokens")


def openai_usage(body: JsonObject) -> Usage | None:
    """The usage of a chat completion or of an embedding answer.

    Cached and written tokens are parts of `prompt_tokens`, reasoning of `completion_tokens`.
    DeepSeek, Mistral and hosts of Kimi tell the cached ones outside the details.
    """
    usage = mapping(body.get("usage"))
    prompt = count(usage.get("prompt_tokens"))
    output = (
        _optional(usage, "completion_tokens")
        if _is_embedding(body)
        else count(usage.get("completion_tokens"))
    )
    details = mapping(usage.get("prompt_tokens_details"))
    cached = _cached(usage, details)
    by_ttl = mapping(details.get("cache_write_tokens_details"))
    writes = _writes(
        details.get("cache_write_tokens"),
        _optional(by_ttl, "ttl_30m_tokens"),
        _optional(by_ttl, "ttl_12h_tokens"),
    )
    reasoning = _optional(mapping(usage.get("completion_tokens_details")), "reasoning_tokens")
    if prompt is None or output is None or cached is None or writes is None or reasoning is None:
        return None
    uncached = prompt - cached - sum(writes)
    if uncached < 0 or reasoning > output:
        return None
    return Usage(uncached, cached, writes[0], writes[1], output, reasoning)


def anthropic_usage(message: JsonObject) -> Usage | None:
    """The usage of a Message: there the classes are disjoint, thinking being inside the output."""
    usage = mapping(message.get("usage"))
    uncached = count(usage.get("input_tokens"))
    output = count(usage.get("output_tokens"))
    cached = _optional(usage, "cache_read_input_tokens")
    by_ttl = mapping(usage.get("cache_creation"))
    writes = _writes(
        usage.get("cache_creation_input_tokens"),
        _optional(by_ttl, "ephemeral_5m_input_tokens"),
        _optional(by_ttl, "ephemeral_1h_input_tokens"),
    )
    thinking = _optional(mapping(usage.get("output_tokens_details")), "thinking_tokens")
    if uncached is None or output is None or cached is None or writes is None or thinking is None:
        return None
    if thinking > output:
        return None
    return Usage(uncached, cached, writes[0], writes[1], output, thinking)


def completion_usage(usage: Usage) -> JsonObject:
    """A usage the way OpenAI's chat completions show it."""
    return {
        "prompt_tokens": usage.input_total,
        "completion_tokens": usage.output,
        "total_tokens": usage.input_total + usage.output,
        "prompt_tokens_details": {
            "cached_tokens": usage.cache_read,
            "cache_write_tokens": usage.cache_write_short + usage.cache_write_long,
        },
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning},
    }


def _cached(usage: JsonObject, details: JsonObject) -> int | None:
    for name in _CACHED_ELSEWHERE:
        if details.get("cached_tokens") is None and usage.get(name) is not None:
            return count(usage[name])
    return _optional(details, "cached_tokens")


def _is_embedding(body: JsonObject) -> bool:
    return "data" in body and "choices" not in body


def _optional(fields: JsonObject, name: str) -> int | None:
    """A count that is 0 when absent or null; None when it is there and is no count."""
    value = fields.get(name)
    return 0 if value is None else count(value)


def _writes(total: object, short: int | None, long: int | None) -> tuple[int, int] | None:
    """Cache writes by time to live; what the details leave out was written for the short one."""
    if short is None or long is None:
        return None
    if total is None:
        return short, long
    whole = count(total)
    if whole is None or short + long > whole:
        return None
    return whole - long, long
