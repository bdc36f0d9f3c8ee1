"""An instance for a JSON schema: roughly valid, the same every time, with a recognisable text."""

from collections.abc import Mapping
from typing import Any, Final

_DEEPEST: Final = 12
_LONGEST: Final = 256
_FORMATS: Final = {
    "date-time": "2026-01-01T00:00:00Z",
    "date": "2026-01-01",
    "time": "00:00:00Z",
    "duration": "PT1H",
    "email": "someone@example.com",
    "hostname": "example.com",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "uri": "https://example.com/",
    "uuid": "00000000-0000-4000-8000-000000000000",
}


def example(schema: object, text: str) -> Any:
    """A value for `schema` whose free strings are `text`."""
    root = schema if isinstance(schema, Mapping) else {}
    return _value(root, root, text, 0)


def _value(schema: object, root: Mapping[str, Any], text: str, depth: int) -> Any:
    if not isinstance(schema, Mapping) or depth > _DEEPEST:
        return None
    if "const" in schema:
        return schema["const"]
    if isinstance(schema.get("enum"), list) and schema["enum"]:
        return schema["enum"][0]
    if isinstance(schema.get("$ref"), str):
        return _value(_resolve(schema["$ref"], root), root, text, depth + 1)
    for choice in ("anyOf", "oneOf"):
        if isinstance(schema.get(choice), list) and schema[choice]:
            return _value(schema[choice][0], root, text, depth + 1)
    if isinstance(schema.get("allOf"), list) and schema["allOf"]:
        return _merged([_value(part, root, text, depth + 1) for part in schema["allOf"]])
    return _typed(schema, root, text, depth)


def _typed(schema: Mapping[str, Any], root: Mapping[str, Any], text: str, depth: int) -> Any:
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = next((name for name in kind if name != "null"), "null")
    if kind == "object" or (kind is None and "properties" in schema):
        return {
            name: _value(part, root, text, depth + 1)
            for name, part in _mapping(schema.get("properties")).items()
        }
    if kind == "array" or (kind is None and "items" in schema):
        count = max(1, _length(schema, "minItems", 1))
        return [_value(schema.get("items", {}), root, text, depth + 1) for _ in range(count)]
    if kind in ("integer", "number"):
        return _number(schema)
    if kind == "boolean":
        return True
    return None if kind == "null" else _string(schema, text)


def _number(schema: Mapping[str, Any]) -> int | float:
    for bound, step in (("minimum", 0), ("exclusiveMinimum", 1)):
        if isinstance(schema.get(bound), int | float):
            return int(schema[bound] + step)
    for bound, step in (("maximum", 0), ("exclusiveMaximum", -1)):
        if isinstance(schema.get(bound), int | float):
            return min(1, int(schema[bound] + step))
    return 1


def _string(schema: Mapping[str, Any], text: str) -> str:
    if isinstance(schema.get("format"), str) and schema["format"] in _FORMATS:
        return _FORMATS[schema["format"]]
    padded = text.ljust(_length(schema, "minLength", 0), ".")
    return padded[: _length(schema, "maxLength", len(padded))]


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _length(schema: Mapping[str, Any], name: str, default: int) -> int:
    """A length the schema asks for, within what is sensible to make up."""
    value = schema.get(name)
    return min(value, _LONGEST) if isinstance(value, int) and value >= 0 else default


def _resolve(reference: str, root: Mapping[str, Any]) -> object:
    """The part of `root` that a local reference (`#/$defs/Name`) points at."""
    part: object = root
    for name in reference.removeprefix("#").strip("/").split("/"):
        if name:
            part = part.get(name) if isinstance(part, Mapping) else None
    return part


def _merged(parts: list[Any]) -> Any:
    if all(isinstance(part, dict) for part in parts):
        return {name: value for part in parts for name, value in part.items()}
    return parts[0]
