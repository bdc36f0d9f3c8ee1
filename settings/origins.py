"""Origins of web pages, as browsers name them in `Origin`. Source: RFC 6454, section 7.

An allowed origin is an exact one, or has `*` for the first label of its host: then it stands for
every origin with exactly one label in that place.
"""

import re
from collections.abc import Iterable

_HOST = r"(?:(?:\*\.)?[a-z0-9_-]+(?:\.[a-z0-9_-]+)*|\[[0-9a-f:]+\])"
PATTERN = rf"^[a-z][a-z0-9+.-]*://{_HOST}(?::[0-9]{{1,5}})?$"
"""An allowed origin. Nothing but what a browser would send: no path, no capitals."""
LONGEST = 300
_USUAL_PORTS = {"http": ":80", "https": ":443"}


def check_origin(text: str) -> str:
    """An allowed origin, in lower case; ValueError if it is none."""
    origin = text.lower()
    if len(origin) > LONGEST or not re.fullmatch(PATTERN, origin, re.ASCII):
        raise ValueError("must be an origin such as https://app.example.com, without a path")
    scheme = origin.partition("://")[0]
    if scheme in _USUAL_PORTS and origin.endswith(_USUAL_PORTS[scheme]):
        raise ValueError("must leave out the port that its scheme implies, as browsers do")
    if "://*." in origin and origin.count(".") < 2:
        raise ValueError("must not stand for every site of a top-level domain")
    return origin


def is_allowed(origin: str, allowed: Iterable[str]) -> bool:
    """Whether an `Origin` header is among those."""
    return any(_matches(origin, each) for each in allowed)


def _matches(origin: str, allowed: str) -> bool:
    if "://*." not in allowed:
        return origin == allowed
    scheme, _, host = origin.partition("://")
    label, _, rest = host.partition(".")
    return label != "" and f"{scheme}://*.{rest}" == allowed
