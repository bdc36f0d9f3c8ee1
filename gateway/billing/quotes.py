"""What a call will probably cost, from what its like have cost so far. Pure.

The ceiling is what a call may cost at most, and most cost far less. What an account's recent calls
of the same model were charged, as a share of what was held for them, is taken as the share that
the next one will be charged of its own ceiling. Where nothing was measured that is a half: prompts
are counted at two bytes a token, and plain English has four.
"""

from dataclasses import dataclass

UNMEASURED = (1, 2)
"""The share where nothing is known, as a numerator and a denominator."""


@dataclass(frozen=True, slots=True)
class Experience:
    """The calls of a model that an account was charged for lately, and what they held."""

    calls: int
    paid_nanos: int
    held_nanos: int


def expected_nanos(ceiling_nanos: int, experience: Experience) -> int:
    """What a call of that ceiling will probably cost, rounded up; never more than the ceiling."""
    paid, held = experience.paid_nanos, experience.held_nanos
    if not experience.calls or not held:
        paid, held = UNMEASURED
    return min(ceiling_nanos, -(-ceiling_nanos * paid // held))


def discount_percent(standard_nanos: int, batch_nanos: int) -> int:
    """How much less the batch lane costs, in whole percent, rounded half up."""
    if not standard_nanos:
        return 0
    return (200 * (standard_nanos - batch_nanos) + standard_nanos) // (2 * standard_nanos)
