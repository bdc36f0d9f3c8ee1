"""The providers: one dialect a file. Nothing here knows a database.

To add one: a class that speaks `dialect.Dialect`, its translation pure and beside it, a name in
`dialects`, and its failures told by `errors`. The tests run every dialect through a whole batch.
A service that speaks like OpenAI is a line in `accents`.
"""

from collections.abc import Mapping

from gateway.net.http import HttpClients
from gateway.providers.accents import ACCENTS
from gateway.providers.anthropic import Anthropic
from gateway.providers.dialect import Dialect
from gateway.providers.openai import OpenAI


def dialects(http: HttpClients) -> Mapping[str, Dialect]:
    """Every dialect by its provider's name, all over the same clients."""
    imitators = [OpenAI(http, name) for name in ACCENTS]
    return {dialect.name: dialect for dialect in (*imitators, Anthropic(http))}
