"""From a model's name to the provider that will serve it, and whether it can be batched."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from enum import StrEnum
from types import MappingProxyType
from typing import Any

from gateway.calls.errors import InvalidField, UnknownModel
from gateway.catalogue.catalogue import Catalogue, Model, Offer
from gateway.providers.dialect import HOUSE, Credential, Dialect, Endpoint

NO_OWN_KEYS: Mapping[str, Credential] = MappingProxyType({})
NO_SPARES: Mapping[str, tuple[Credential, ...]] = MappingProxyType({})

ENDPOINT_OF_KIND = {"chat": Endpoint.CHAT_COMPLETIONS, "embedding": Endpoint.EMBEDDINGS}


class Ineligible(StrEnum):
    """Why a call cannot wait in the batch lane; the value of `X-Async-Ineligible`."""

    STREAM = "stream"
    MODEL = "model"
    PRICE = "price"
    KEY = "key"
    DEADLINE = "deadline"
    TOOLS = "tools"


@dataclass(frozen=True, slots=True)
class Route:
    """Who serves a call. `name` is the model as the caller wrote it."""

    name: str
    model: Model
    offer: Offer
    dialect: Dialect
    credential: Credential


class Router:
    """Finds routes among the providers that are configured.

    `own` are the caller's own credentials, by provider. A model that one of them serves is called
    with those and no other: who brings a key is never charged for another provider unasked.
    `spares` are further keys of the house, by provider: what the first cannot do they are asked
    for, before another provider is.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        dialects: Mapping[str, Dialect],
        credentials: Mapping[tuple[str, str], Credential],
        spares: Mapping[str, tuple[Credential, ...]] = NO_SPARES,
    ) -> None:
        self._catalogue = catalogue
        self._dialects = dialects
        self._credentials = credentials
        self._spares = spares
        self._served: dict[frozenset[str], Mapping[str, Model]] = {}

    def route(
        self,
        endpoint: Endpoint,
        name: str,
        body: Mapping[str, Any],
        own: Mapping[str, Credential] = NO_OWN_KEYS,
    ) -> Route:
        """The first of `routes`."""
        return self.routes(endpoint, name, body, own)[0]

    def routes(
        self,
        endpoint: Endpoint,
        name: str,
        body: Mapping[str, Any],
        own: Mapping[str, Credential] = NO_OWN_KEYS,
    ) -> tuple[Route, ...]:
        """Every route that can serve a call, the one to be tried first at the head.

        Raises UnknownModel, or InvalidField for what none of them can serve.
        """
        model = self.find(name, own)
        if model is None:
            raise UnknownModel(f"The model '{name}' does not exist or is not served here.")
        if ENDPOINT_OF_KIND[model.kind] is not endpoint:
            raise InvalidField("model", f"The model '{name}' is not for {endpoint}.")
        routes: list[Route] = []
        refused: list[str] = []
        for offer in model.offers:
            dialect = self._dialects[offer.provider]
            field = dialect.unsupported(endpoint, dict(body))
            if field is None:
                routes += [
                    Route(name, model, offer, dialect, each)
                    for each in self._keys(offer.provider, own)
                ]
            else:
                refused.append(field)
        if not routes:
            field = refused[0]
            raise InvalidField(field, f"'{field}' is not supported with the model '{name}'.")
        return tuple(routes)

    def _keys(self, provider: str, own: Mapping[str, Credential]) -> tuple[Credential, ...]:
        """What a call may be made with at a provider, the one to be tried first at the head."""
        if provider in own:
            return (own[provider],)
        return (self._credentials[provider, HOUSE], *self._spares.get(provider, ()))

    def models(self, own: Mapping[str, Credential] = NO_OWN_KEYS) -> list[Model]:
        """The models that a configured provider serves, with the offers that a call may use."""
        return list(self._served_with(own).values())

    def find(self, name: str, own: Mapping[str, Credential] = NO_OWN_KEYS) -> Model | None:
        """One of `models`, by any of its names."""
        model = self._catalogue.resolve(name)
        return None if model is None else self._served_with(own).get(model.id)

    def _served_with(self, own: Mapping[str, Credential]) -> Mapping[str, Model]:
        """By id. Made once for each set of providers that customers have keys of."""
        providers = frozenset(own)
        served = self._served.get(providers)
        if served is None:
            offered = (
                self._with_open_offers(model, providers) for model in self._catalogue.models()
            )
            served = self._served[providers] = {each.id: each for each in offered if each.offers}
        return served

    def _with_open_offers(self, model: Model, own: frozenset[str]) -> Model:
        spoken = [offer for offer in model.offers if offer.provider in self._dialects]
        of_own = [offer for offer in spoken if offer.provider in own]
        of_house = [offer for offer in spoken if (offer.provider, HOUSE) in self._credentials]
        return replace(model, offers=tuple(of_own or of_house))


def obstacle(
    route: Route, body: Mapping[str, Any], time_left: timedelta, window: timedelta
) -> Ineligible | None:
    """Why a call cannot become a line of a provider batch; None if it can.

    `window` is how long a lane may wait before it is cut: a deadline sooner than that is too near.
    """
    if body.get("stream"):
        return Ineligible.STREAM
    if not route.dialect.batches(ENDPOINT_OF_KIND[route.model.kind]):
        return Ineligible.MODEL
    if route.offer.prices.batch is None:
        return Ineligible.PRICE
    if time_left < window:
        return Ineligible.DEADLINE
    return None
