"""One call at one provider, as the standard lane makes them: no other provider, no try besides.

The job's price and its provider were settled at intake, and its tries are the lane's to count.
"""

from typing import Any

from gateway.providers.breaker import Breakers
from gateway.providers.dialect import (
    Answer,
    Credential,
    Dialect,
    Endpoint,
    ProviderError,
)


def call_once(
    breakers: Breakers,
    dialect: Dialect,
    credential: Credential,
    endpoint: Endpoint,
    model: str,
    body: dict[str, Any],
    timeout_seconds: float,
) -> Answer:
    """The provider's answer.

    Raises ProviderError, Unavailable if the provider keeps failing and is not to be called now.
    """
    breaker = breakers.of(credential)
    if not breaker.allows():
        raise breaker.refusal(credential.provider)
    try:
        answer = dialect.call(credential, endpoint, model, body, timeout_seconds)
    except ProviderError as error:
        breaker.record(error)
        raise
    breaker.record(None)
    return answer
