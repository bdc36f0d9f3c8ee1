"""What the result lines and answers of all providers must have to be of use."""

from typing import Any

from gateway.providers.dialect import Broken
from gateway.providers.fields import JsonObject, items, mapping


def usable_custom_id(fields: JsonObject) -> str:
    """The line's id. One with a NUL in it is none of ours, and no database could look for it."""
    custom_id = fields.get("custom_id")
    if not isinstance(custom_id, str) or not custom_id or "\0" in custom_id:
        raise Broken("a result line has no usable custom_id")
    return custom_id


def require_answer(body: JsonObject) -> None:
    """Raises Broken unless the body has a completion's choices or an embedding answer's vectors."""
    choices, vectors = items(body.get("choices")), items(body.get("data"))
    if choices and all(_has(choice, "message", dict) for choice in choices):
        return
    if vectors and all(_has(vector, "embedding", (list, str)) for vector in vectors):
        return
    raise Broken("an answer holds neither choices nor embeddings")


def _has(value: Any, name: str, kind: type | tuple[type, ...]) -> bool:
    return isinstance(mapping(value).get(name), kind)
