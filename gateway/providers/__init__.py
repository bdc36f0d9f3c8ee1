"""The providers: one dialect a file. Nothing here knows a database.

To add one: a class that speaks `dialect.Dialect`, its translation pure and beside it, a name in
`dialects`, and its failures told by `errors`. The tests run every dialect through a whole batch.
A service that speaks like OpenAI is a line in `accents`; one that speaks without any accent needs
no more than its name and address in the catalogue.
"""

from collections.abc import Iterable, Mapping

from gateway.net.http import HttpClients
from gateway.providers.accents import ACCENTS, Accent
from gateway.providers.anthropic import NO_LIMITS, Anthropic
from gateway.providers.dialect import Dialect
from gateway.providers.openai import OpenAI


def dialects(
    http: HttpClients,
    further: Iterable[str] = (),
    output_limits: Mapping[str, int] = NO_LIMITS,
) -> Mapping[str, Dialect]:
    """Every dialect by its provider's name, all over the same clients.

    `further` are the names of services that speak just like OpenAI. `output_limits` are those of
    Anthropic's models, in tokens: it alone wants to be told one with every call.
    """
    imitators = [OpenAI(http, name) for name in ACCENTS]
    plain = [OpenAI(http, name, Accent()) for name in further]
    return {
        dialect.name: dialect for dialect in (*plain, *imitators, Anthropic(http, output_limits))
    }
