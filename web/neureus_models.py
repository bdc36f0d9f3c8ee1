"""`GET /ai/models`: the catalogue in Neureus's words, kept for five minutes."""

import time
from dataclasses import dataclass
from typing import Annotated, Any

import orjson
from flask import Blueprint, Response, current_app, request
from pydantic import Field

from gateway.catalogue.catalogue import Model
from settings import PROVIDER_BASE_URLS
from web.auth import caller
from web.documented import Answer, Parameter, documented
from web.errors import ApiError
from web.neureus_schemas import NeureusModels
from web.neureus_words import number
from web.serialisers import model_json
from web.state import State, state

blueprint = Blueprint("neureus_models", __name__)

EXTENSION = "offpeak.neureus_models"
KEPT_SECONDS = 300
# Neureus's own, which nobody else can configure: it may be asked for, and has no models here.
PROVIDERS = (*PROVIDER_BASE_URLS, "workers-ai")


@dataclass(frozen=True, slots=True)
class _Kept:
    models: dict[str, dict[str, Any]]
    until: float


@blueprint.get("/ai/models")
@documented(
    "AI",
    {200: Answer("All that match.", NeureusModels, headers=("Cache-Control",))},
    parameters=(
        Parameter(
            "provider",
            Annotated[str, Field(pattern=f"^({'|'.join(PROVIDERS)})$")],
            "Only models that this provider is asked for first.",
        ),
        Parameter(
            "type", str, "Only models for such tasks: `chat`, `reasoning`, `coding`, `embedding`."
        ),
    ),
)
def list_neureus_models() -> Response:
    """Every model that is served and the key may call, with its price; up to five minutes old."""
    provider, task = request.args.get("provider"), request.args.get("type")
    providers = dict.fromkeys((*PROVIDERS, *state().house.catalogue.base_urls()))
    if provider is not None and provider not in providers:
        known = ", ".join(providers)
        raise ApiError(400, f"'provider' must be one of {known}.", param="provider")
    shown = [
        model
        for model_id, model in _models(state()).items()
        if caller().may_call(model_id)
        and provider in (None, model["provider"])
        and task in (None, model["type"])
    ]
    response = Response(orjson.dumps({"models": shown}), mimetype="application/json")
    response.headers["Cache-Control"] = f"private, max-age={KEPT_SECONDS}"
    return response


def _models(parts: State) -> dict[str, dict[str, Any]]:
    """By their names in the catalogue."""
    now = time.monotonic()
    house, own = parts.house, parts.own_keys.of_caller()
    # By the providers that the caller has own keys of, for they serve models too.
    lists: dict[frozenset[str], _Kept] = current_app.extensions.setdefault(EXTENSION, {})
    kept = lists.get(frozenset(own))
    if kept is None or now >= kept.until:
        served = house.router.models(own)
        models = {model.id: _shown(model, house.markup_bps) for model in served}
        kept = lists[frozenset(own)] = _Kept(models, now + KEPT_SECONDS)
    return kept.models


def _shown(model: Model, markup_bps: int) -> dict[str, Any]:
    pricing = model_json(model, markup_bps)["pricing"]
    return {
        "id": _bare(model),
        "name": model.name,
        "provider": model.offers[0].provider,
        "type": task_of(model),
        "contextWindow": model.context_length,
        "inputCostPer1k": number(pricing["prompt"]),
        "outputCostPer1k": number(pricing["completion"]),
        "supportedFeatures": list(model.features),
    }


def task_of(model: Model) -> str:
    """What a model is for, by its kind, its name and its abilities."""
    if model.kind == "embedding":
        return "embedding"
    if "code" in _bare(model):
        return "coding"
    return "reasoning" if "reasoning" in model.features else "chat"


def _bare(model: Model) -> str:
    """The id without its maker, which is a name of the model as well."""
    return model.id.partition("/")[2]
