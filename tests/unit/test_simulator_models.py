"""The simulator serves whatever the gateway lists while it stands in for the providers."""

import pytest

from gateway.catalogue.catalogue import load
from local.simulator import models

# Which of the simulator's wire formats a provider is reached by; see `local.environment`.
WIRES = {"openai": models.OPENAI, "groq": models.OPENAI, "anthropic": models.ANTHROPIC}
OFFERS = [
    pytest.param(offer.model, WIRES[offer.provider], model.max_output_tokens, id=model.id)
    for model in load().models()
    for offer in model.offers
    if offer.provider in WIRES
]


@pytest.mark.parametrize(("name", "wire", "max_output_tokens"), OFFERS)
def test_a_listed_model_is_served(name: str, wire: str, max_output_tokens: int | None) -> None:
    found = models.find(name, wire)
    assert found is not None
    assert found.max_output_tokens >= (max_output_tokens or 0)
