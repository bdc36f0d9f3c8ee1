"""From a model's name to the provider that will serve it, and whether it can be batched."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from enum import StrEnum
from typing import Any

from gateway.calls.errors import InvalidField, UnknownModel
from gateway.catalogue.catalogue import Catalogue, Model, Offer
from gateway.providers.dialect import Credential, Dialect, Endpoint

HOUSE = "house"
"""The name of our own credential at each provider."""

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
    """Finds routes among the providers that are configured."""

    def __init__(
        self,
        catalogue: Catalogue,
        dialects: Mapping[str, Dialect],
        credentials: Mapping[tuple[str, str], Credential],
    ) -> None:
        self._catalogue = catalogue
        self._dialects = dialects
        self._credentials = credentials
        served = map(self._with_configured_offers, catalogue.models())
        self._served = {model.id: model for model in served if model.offers}

    def route(self, endpoint: Endpoint, name: str, body: Mapping[str, Any]) -> Route:
        """The first of `routes`."""
        return self.routes(endpoint, name, body)[0]

    def routes(self, endpoint: Endpoint, name: str, body: Mapping[str, Any]) -> tuple[Route, ...]:
        """Every route that can serve a call, the one to be tried first at the head.

        Raises UnknownModel, or InvalidField for what none of them can serve.
        """
        model = self.find(name)
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
                credential = self._credentials[offer.provider, HOUSE]
                routes.append(Route(name, model, offer, dialect, credential))
            else:
                refused.append(field)
        if not routes:
            field = refused[0]
            raise InvalidField(field, f"'{field}' is not supported with the model '{name}'.")
        return tuple(routes)

    def models(self) -> list[Model]:
        """The models that a configured provider serves, with its offers only."""
        return list(self._served.values())

    def find(self, name: str) -> Model | None:
        """One of `models`, by any of its names."""
        model = self._catalogue.resolve(name)
        return None if model is None else self._served.get(model.id)

    def _with_configured_offers(self, model: Model) -> Model:
        return replace(model, offers=tuple(filter(self._is_configured, model.offers)))

    def _is_configured(self, offer: Offer) -> bool:
        return offer.provider in self._dialects and (offer.provider, HOUSE) in self._credentials


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
