"""OpenAI's pictures and files as Anthropic's blocks. Pure."""

import re

from gateway.providers.dialect import Rejected
from gateway.providers.fields import JsonObject, mapping, text

_DATA_URI = re.compile(r"data:(?P<type>[\w.+-]+/[\w.+-]+)(?:;[\w.=+-]+)*;base64,", re.IGNORECASE)
_PICTURES = frozenset({"image/jpeg", "image/png", "image/gif", "image/webp"})
_SPELT_OTHERWISE = {"image/jpg": "image/jpeg"}
_PDF = "application/pdf"


class Untranslatable(Rejected):
    """`param` names the field that Anthropic has no counterpart for, or that cannot be read."""

    def __init__(self, field: str) -> None:
        super().__init__(
            f"{field} is not supported for this model", status=400, code="unsupported", param=field
        )
        self.field = field


def image_block(part: JsonObject, path: str) -> JsonObject:
    """An `image_url` part: a data URI of a picture, or an https URL. `detail` is a hint that goes.

    Raises Untranslatable.
    """
    url = mapping(part.get("image_url")).get("url")
    path = f"{path}.image_url.url"
    if not isinstance(url, str):
        raise Untranslatable(path)
    if url[:8].lower() == "https://":
        return {"type": "image", "source": {"type": "url", "url": url}}
    return {"type": "image", "source": _base64(url, _PICTURES, path)}


def document_block(part: JsonObject, path: str) -> JsonObject:
    """A `file` part with the data of a PDF. Ids of files name them at OpenAI only.

    Raises Untranslatable.
    """
    file = mapping(part.get("file"))
    if file.get("file_id") is not None:
        raise Untranslatable(f"{path}.file.file_id")
    path = f"{path}.file.file_data"
    data = file.get("file_data")
    if not isinstance(data, str):
        raise Untranslatable(path)
    block = {"type": "document", "source": _base64(data, frozenset({_PDF}), path)}
    title = text(file.get("filename"))
    return {**block, "title": title} if title else block


def _base64(uri: str, media_types: frozenset[str], path: str) -> JsonObject:
    start = _DATA_URI.match(uri)
    if start is None or start.end() == len(uri):
        raise Untranslatable(path)
    told = start["type"].lower()
    media_type = _SPELT_OTHERWISE.get(told, told)
    if media_type not in media_types:
        raise Untranslatable(path)
    return {"type": "base64", "media_type": media_type, "data": uri[start.end() :]}
