"""How a family of routes words its calls. Inside, everything is in OpenAI's words.

A surface translates on the way in and on the way out, so that there is one way of taking a call,
and answers that are kept (under idempotency keys, for jobs) can be told on any surface.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from gateway.calls.idempotency import Stored
from gateway.providers.dialect import Endpoint

Encoder = Callable[[bytes], bytes]
"""From OpenAI's server-sent events, as they come, to a surface's; it may keep some to itself."""


@dataclass(frozen=True, slots=True)
class Surface:
    """`read` makes OpenAI's body of a request's; raises the 400 for what the surface has not.

    `answer` words an answer, of whatever kind; `encoder` makes what words one stream.
    """

    read: Callable[[Endpoint, dict[str, Any]], dict[str, Any]]
    answer: Callable[[Stored], Stored]
    encoder: Callable[[], Encoder]
    tells_flat_errors: bool


OPENAI = Surface(
    read=lambda _, body: body,
    answer=lambda stored: stored,
    encoder=lambda: lambda event: event,
    tells_flat_errors=False,
)
