"""Who is calling: the key from the request, checked by shape, then by its digest."""

import time
from collections import OrderedDict

from flask import Request, g

from gateway.access import keys
from gateway.access.keys import Identity, KeyDigest
from web.errors import ApiError
from web.threads import Readers

OPEN_ROUTES = frozenset({"/health", "/ready", "/metrics", "/openapi.json", "/docs"})
"""What needs no API key; `/metrics` has a token of its own."""
FRESH_SECONDS = 2.0
"""How long a look-up is believed: a revoked key is refused everywhere within this time."""
REMEMBERED = 10_000
CHALLENGE = {"WWW-Authenticate": "Bearer"}


class KeyRing:
    """Looks keys up, each at most once in `FRESH_SECONDS`."""

    def __init__(self, digest: KeyDigest, readers: Readers) -> None:
        self._digest = digest
        self._readers = readers
        self._seen: OrderedDict[bytes, tuple[float, Identity]] = OrderedDict()

    def identify(self, text: str) -> Identity | None:
        """The caller behind a key's text; None if it opens nothing."""
        if not keys.is_well_formed(text):
            return None
        digest = self._digest(text)
        now = time.monotonic()
        seen = self._seen.get(digest)
        if seen is not None and now - seen[0] < FRESH_SECONDS:
            return seen[1]
        identity = self._readers.run(keys.identify, digest)
        if identity is None:
            self._seen.pop(digest, None)
            return None
        self._seen[digest] = (now, identity)
        self._seen.move_to_end(digest)
        if len(self._seen) > REMEMBERED:
            self._seen.popitem(last=False)
        return identity


def authenticate(ring: KeyRing, request: Request) -> Identity:
    """The caller of a request; raises the 401. Kept for the request in `flask.g`."""
    text = _key_text(request)
    if text is None:
        raise ApiError(401, "No API key was given.", headers=CHALLENGE)
    identity = ring.identify(text)
    if identity is None:
        raise ApiError(
            401, "Invalid API key. Please check your key and try again.", headers=CHALLENGE
        )
    g.identity = identity
    return identity


def caller() -> Identity:
    """The caller of the request that is being answered."""
    identity: Identity = g.identity
    return identity


def _key_text(request: Request) -> str | None:
    scheme, _, credentials = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer" and credentials.strip():
        return credentials.strip()
    return request.headers.get("X-API-Key") or None
