"""The models routes."""

import orjson
from flask import Blueprint, Response

from web.auth import caller
from web.documented import Answer, documented
from web.errors import ApiError
from web.objects import Model, ModelList
from web.serialisers import model_json
from web.state import state

blueprint = Blueprint("models", __name__)

TO_MODEL = {"get_model": ("name", "$response.body#/data/0/id")}


@blueprint.get("/v1/models")
@documented("Models", {200: Answer("All of them.", ModelList, links=TO_MODEL)})
def list_models() -> Response:
    """Every model that a configured provider serves and the key may call."""
    house, own = state().house, state().own_keys.of_caller()
    models = [model for model in house.router.models(own) if caller().may_call(model.id)]
    data = [model_json(model, house.markup_bps) for model in models]
    body = orjson.dumps({"object": "list", "data": data})
    return Response(body, mimetype="application/json")


@blueprint.get("/v1/models/<path:name>")
@documented("Models", {200: Answer("The model.", Model)})
def get_model(name: str) -> Response:
    """One model, by any of its names; it answers under its own."""
    house, own = state().house, state().own_keys.of_caller()
    model = house.router.find(name, own)
    if model is None or not caller().may_call(model.id):
        raise ApiError(
            404, f"The model '{name}' does not exist or is not served here.", param="model"
        )
    return Response(orjson.dumps(model_json(model, house.markup_bps)), mimetype="application/json")
