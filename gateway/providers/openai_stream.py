"""OpenAI's chunks, let through as they are but for the usage, which is kept for the end. Pure.

A chunk is parsed only if its bytes hold a word that may matter: `"usage"` without null behind it,
or `"error"`. Quotation marks within JSON's strings are escaped, so that what looks like a key is
one, or is a whole string of that word; parsing then tells.
"""

from collections.abc import Callable

import orjson

from gateway.catalogue.usage import Usage
from gateway.providers.dialect import Broken, StreamPiece
from gateway.providers.errors import error_fields
from gateway.providers.fields import JsonObject, decode_object, items, mapping, text
from gateway.providers.streams import ErrorEvent
from gateway.providers.usage import openai_usage

_DONE = b"[DONE]"

Tidy = Callable[[JsonObject], JsonObject]


class OpenAIPieces:
    """One stream. `tidy` puts a parsed chunk into OpenAI's shape, where a service strays from it.

    `parsed_if` are further bytes that make a chunk worth parsing.
    """

    def __init__(self, tidy: Tidy, parsed_if: tuple[bytes, ...] = ()) -> None:
        self.usage: Usage | None = None
        self.over = False
        self._tidy = tidy
        self._parsed_if = parsed_if
        self._closing: StreamPiece | None = None
        self._has_total = False
        self._last = b""

    def read(self, data: bytes) -> list[StreamPiece]:
        """See `streams.Translation`."""
        if data == _DONE:
            self.over = True
            return [self._closing] if self._closing else []
        if self._is_plain(data):
            self._last = data
            return [StreamPiece(data)]
        return self._inspect(data)

    def end(self) -> list[StreamPiece]:
        """See `streams.Translation`. Some services leave out the `[DONE]`."""
        if not self._has_total and not (self._last and _is_finished(self._last)):
            raise Broken("the answer was cut short")
        return [self._closing] if self._closing else []

    def _is_plain(self, data: bytes) -> bool:
        return (
            b'"error"' not in data
            and data.count(b'"usage"') == data.count(b'"usage":null')
            and data.startswith(b"{")
            and data.endswith(b"}")
            and not (self._parsed_if and any(mark in data for mark in self._parsed_if))
        )

    def _inspect(self, data: bytes) -> list[StreamPiece]:
        chunk = _decode(data)
        groqs = mapping(chunk.get("x_groq"))
        failure = chunk.get("error") or groqs.get("error")
        if failure:
            raise ErrorEvent(error_fields({"error": failure}))
        reported = chunk.get("usage") or groqs.get("usage")
        tidied = self._tidy({**chunk, "usage": reported} if reported else chunk)
        if not reported and tidied is chunk:
            self._last = data
            return [StreamPiece(data)]
        if reported:
            self._keep(tidied)
        if reported and not items(chunk.get("choices")):
            self._has_total = True
            return []
        shown = {name: value for name, value in tidied.items() if name != "usage"}
        self._last = orjson.dumps(shown)
        return [StreamPiece(self._last)]

    def _keep(self, chunk: JsonObject) -> None:
        """Some services count in every chunk, others in the last one that says something."""
        self.usage = openai_usage(chunk)
        shown = {name: value for name, value in chunk.items() if name != "x_groq"}
        self._closing = StreamPiece(
            orjson.dumps({**shown, "choices": []}),
            self.usage,
            usage_only=True,
            service_tier=text(chunk.get("service_tier")),
        )


def _decode(data: bytes) -> JsonObject:
    try:
        return decode_object(data)
    except ValueError:
        raise Broken("a chunk of the stream is not a JSON object") from None


def _is_finished(data: bytes) -> bool:
    choices = items(_decode(data).get("choices"))
    return any(mapping(choice).get("finish_reason") for choice in choices)
