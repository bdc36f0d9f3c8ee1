"""The models this provider serves."""

import re
from dataclasses import dataclass
from typing import Final

OPENAI: Final = "openai"
ANTHROPIC: Final = "anthropic"
CREATED_AT: Final = 1_767_225_600

_DATED = re.compile(r"^(?P<name>.+)-(?:\d{4}-\d{2}-\d{2}|\d{8})$")


@dataclass(frozen=True, slots=True)
class Model:
    """One model. Limits are tokens; `dimensions` is zero for a chat model.

    `snapshot` is what an answer calls the model when it was asked for by its bare name.
    """

    name: str
    provider: str
    owned_by: str
    snapshot: str
    context_tokens: int
    max_output_tokens: int
    dimensions: int = 0
    shortenable: bool = False
    writes_cache: bool = False

    @property
    def embeds(self) -> bool:
        return self.dimensions > 0


def _chat(
    name: str, date: str, context: int, output: int, owner: str = "system", *, caches: bool = False
) -> Model:
    snapshot = f"{name}-{date}" if date else name
    return Model(name, OPENAI, owner, snapshot, context, output, writes_cache=caches)


def _embedding(name: str, dimensions: int, owner: str, *, shortenable: bool) -> Model:
    return Model(name, OPENAI, owner, name, 8192, 0, dimensions, shortenable=shortenable)


def _claude(name: str, date: str, context: int, output: int) -> Model:
    snapshot = f"{name}-{date}" if date else name
    return Model(name, ANTHROPIC, "anthropic", snapshot, context, output, writes_cache=True)


MODELS: Final[dict[str, Model]] = {
    model.name: model
    for model in (
        _chat("gpt-4o-mini", "2024-07-18", 128_000, 16_384),
        _chat("gpt-4o", "2024-08-06", 128_000, 16_384),
        _chat("gpt-4-turbo", "2024-04-09", 128_000, 4_096),
        _chat("gpt-4.1", "2025-04-14", 1_047_576, 32_768),
        _chat("gpt-4.1-mini", "2025-04-14", 1_047_576, 32_768),
        _chat("o3", "2025-04-16", 200_000, 100_000),
        _chat("gpt-5", "2025-08-07", 400_000, 128_000),
        _chat("gpt-5-mini", "2025-08-07", 400_000, 128_000),
        _chat("gpt-5-nano", "2025-08-07", 400_000, 128_000),
        _chat("gpt-5.1", "2025-11-13", 400_000, 128_000),
        _chat("gpt-5.2", "2025-12-11", 400_000, 128_000),
        _chat("gpt-5.4", "2026-03-05", 1_050_000, 128_000),
        _chat("gpt-5.4-mini", "", 400_000, 128_000),
        _chat("gpt-5.4-nano", "", 400_000, 128_000),
        _chat("gpt-5.5", "", 1_050_000, 128_000),
        _chat("gpt-5.6-luna", "", 1_050_000, 128_000, caches=True),
        _chat("gpt-5.6-terra", "", 1_050_000, 128_000, caches=True),
        _chat("gpt-5.6-sol", "", 1_050_000, 128_000, caches=True),
        _chat("gpt-6-luna", "", 1_050_000, 128_000, caches=True),
        _chat("gpt-6-sol", "", 1_050_000, 128_000, caches=True),
        _chat("gpt-6-astra", "", 1_050_000, 128_000, caches=True),
        _chat("gpt-6.1-terra", "", 1_050_000, 128_000, caches=True),
        _chat("gpt-6.1-sol", "", 1_050_000, 128_000, caches=True),
        # Open weights, which several hosts serve under this name.
        _chat("openai/gpt-oss-120b", "", 131_072, 131_072, "openai"),
        _chat("openai/gpt-oss-20b", "", 131_072, 65_536, "openai"),
        _chat("llama-3.1-8b-instant", "", 131_072, 131_072, "Meta"),
        _chat("llama-3.3-70b-versatile", "", 131_072, 32_768, "Meta"),
        _chat("qwen/qwen3.8-27b", "", 131_072, 16_384, "Alibaba Cloud"),
        _embedding("text-embedding-3-small", 1536, "system", shortenable=True),
        _embedding("text-embedding-3-large", 3072, "system", shortenable=True),
        _embedding("text-embedding-ada-002", 1536, "openai-internal", shortenable=False),
        _claude("claude-haiku-4-5", "20251001", 200_000, 64_000),
        _claude("claude-haiku-5-5", "", 1_000_000, 64_000),
        _claude("claude-sonnet-4-5", "20250929", 200_000, 64_000),
        _claude("claude-sonnet-4-6", "", 1_000_000, 64_000),
        _claude("claude-sonnet-5", "", 1_000_000, 128_000),
        _claude("claude-sonnet-5-5", "", 1_000_000, 128_000),
        _claude("claude-opus-4-5", "20251101", 200_000, 64_000),
        _claude("claude-opus-4-6", "", 1_000_000, 128_000),
        _claude("claude-opus-4-7", "", 1_000_000, 128_000),
        _claude("claude-opus-4-8", "", 1_000_000, 128_000),
        _claude("claude-opus-5", "", 1_000_000, 128_000),
        _claude("claude-opus-5-5", "", 1_000_000, 128_000),
        _claude("claude-fable-5", "", 1_000_000, 128_000),
        _claude("claude-fable-5-1", "", 1_000_000, 128_000),
        _claude("claude-fable-5-2", "", 1_000_000, 128_000),
        _claude("claude-mythos-5-2", "", 1_000_000, 128_000),
    )
}


def find(name: str, provider: str) -> Model | None:
    """The model of that name, or of that name with a date behind it, if this provider has it."""
    model = MODELS.get(name)
    if model is None:
        dated = _DATED.match(name)
        model = MODELS.get(dated["name"]) if dated else None
    return model if model is not None and model.provider == provider else None


def answering_name(model: Model, asked: str) -> str:
    """What the answer calls the model: the snapshot, unless the caller already named one."""
    return model.snapshot if asked == model.name else asked


def of(provider: str) -> list[Model]:
    """All models of one provider, in the table's order."""
    return [model for model in MODELS.values() if model.provider == provider]
