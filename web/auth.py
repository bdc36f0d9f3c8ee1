"""Who is calling: the key from the request, checked by shape, then by its digest."""

from collections.abc import Collection, Mapping

from flask import Request, g

from gateway.access import keys, widget_keys
from gateway.access.keys import Identity, KeyDigest
from gateway.access.widget_keys import KeyView, WidgetKeyDigest
from web.errors import ApiError
from web.fresh import Fresh
from web.last_uses import LastUses
from web.threads import Readers

OPEN_ROUTES = frozenset({"/health", "/ready", "/metrics", "/openapi.json", "/docs"})
"""What needs no API key; `/metrics` has a token of its own."""
CHALLENGE = {"WWW-Authenticate": "Bearer"}


class KeyRing:
    """Looks secret keys up."""

    def __init__(self, digest: KeyDigest, readers: Readers) -> None:
        self._digest = digest
        self._readers = readers
        self._last_uses = LastUses(readers)
        self._identities = Fresh(self._look_up)

    def identify(self, text: str) -> Identity | None:
        """The caller behind a key's text; None if it opens nothing."""
        return self._identities.get(self._digest(text)) if keys.is_well_formed(text) else None

    def _look_up(self, digests: Collection[bytes]) -> Mapping[bytes, Identity]:
        identities = self._readers.run(keys.identify, digests)
        for identity in identities.values():
            self._last_uses.note(identity.key_id)
        return identities


class WidgetKeyRing:
    """Looks publishable keys up."""

    def __init__(self, digest: WidgetKeyDigest, readers: Readers) -> None:
        self._digest = digest
        self._readers = readers
        self._keys = Fresh(self._look_up)

    def find(self, text: str) -> KeyView | None:
        """The key of a text; None if it opens nothing."""
        return self._keys.get(self._digest(text)) if widget_keys.is_well_formed(text) else None

    def _look_up(self, digests: Collection[bytes]) -> Mapping[bytes, KeyView]:
        return self._readers.run(widget_keys.by_digest, digests)


def authenticate(ring: KeyRing, widget_ring: WidgetKeyRing, request: Request) -> Identity:
    """The caller of a request; raises the 401. Kept for the request in `flask.g`."""
    text = _key_text(request)
    if text is None:
        raise ApiError(401, "No API key was given.", headers=CHALLENGE)
    if text.startswith(widget_keys.PREFIX):
        g.widget_key = widget_ring.find(text)
        identity = None if g.widget_key is None else widget_keys.identity_of(g.widget_key)
    else:
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


def require_model(model_id: str, name: str) -> None:
    """Raises the 403 if the caller's key is not for this model, which was asked for by `name`."""
    if not caller().may_call(model_id):
        raise ApiError(403, f"This API key may not call the model '{name}'.", param="model")


def widget_key() -> KeyView | None:
    """The publishable key that the request being answered came with, if it did."""
    key: KeyView | None = g.get("widget_key")
    return key


def _key_text(request: Request) -> str | None:
    scheme, _, credentials = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer" and credentials.strip():
        return credentials.strip()
    return request.headers.get("X-API-Key") or None
