"""What a call consumed, in the disjoint token classes that are priced."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one call. The classes are disjoint but for `reasoning`, which is inside `output`.

    OpenAI reports cached and written tokens inside `prompt_tokens`, Anthropic beside
    `input_tokens`; both end up here the same way.
    """

    input_uncached: int = 0
    cache_read: int = 0
    cache_write_short: int = 0
    cache_write_long: int = 0
    output: int = 0
    reasoning: int = 0

    def __post_init__(self) -> None:
        least = min(
            self.input_uncached,
            self.cache_read,
            self.cache_write_short,
            self.cache_write_long,
            self.output,
            self.reasoning,
        )
        if least < 0:
            raise ValueError("token counts are never negative")

    @property
    def input_total(self) -> int:
        """All input tokens, which is what long-context tiers look at."""
        return (
            self.input_uncached + self.cache_read + self.cache_write_short + self.cache_write_long
        )
