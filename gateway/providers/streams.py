"""From the bytes of a streamed answer to its pieces, whatever dialect translates its events."""

from collections.abc import Iterable, Iterator
from typing import Protocol

import httpx

from gateway.catalogue.usage import Usage
from gateway.providers.dialect import Broken, ProviderError, StreamBroken, StreamPiece
from gateway.providers.errors import Act, ErrorFields, from_fields, from_transport
from gateway.providers.scrub import scrub
from gateway.providers.sse import EventReader

_UNTOLD_STATUS = 500


class ErrorEvent(Exception):
    """The provider told of an error inside a stream, where no HTTP status can."""

    def __init__(self, fields: ErrorFields) -> None:
        super().__init__(fields.code)
        self.fields = fields


class Translation(Protocol):
    """Makes pieces of the events of one stream."""

    usage: Usage | None
    """What the provider has counted so far."""
    over: bool
    """Whether the last event has come; what follows it is not read."""

    def read(self, data: bytes) -> Iterable[StreamPiece]:
        """The pieces that an event makes. Raises ErrorEvent, or Broken if it cannot be read."""
        ...

    def end(self) -> Iterable[StreamPiece]:
        """The pieces still due where the stream ends without its last event; Broken if cut."""
        ...


def pieces(chunks: Iterable[bytes], translation: Translation) -> Iterator[StreamPiece]:
    """The pieces of a stream. Raises what `chunks` and the translation raise."""
    events = EventReader()
    for chunk in chunks:
        for data in events.feed(chunk):
            yield from translation.read(data)
            if translation.over:
                return
    for data in events.rest():
        yield from translation.read(data)
    if not translation.over:
        yield from translation.end()


def unstarted(provider: str, api_key: str, event: ErrorEvent) -> ProviderError:
    """The error that an error event means where nothing came before it."""
    status = event.fields.status or _UNTOLD_STATUS
    return from_fields(provider, Act.CALL, status, event.fields, api_key)


def until_broken(
    started: Iterator[StreamPiece], translation: Translation, provider: str, api_key: str
) -> Iterator[StreamPiece]:
    """The further pieces of a stream that has begun; whatever ends it early is StreamBroken."""
    try:
        yield from started
    except ErrorEvent as event:
        fields = event.fields
        message = scrub(fields.message or f"{provider} reported an error", api_key)
        raise StreamBroken(
            message, status=fields.status, code=fields.code, usage=translation.usage
        ) from None
    except httpx.RequestError as error:
        # Without the cause, as for calls: its message could quote a header.
        told = from_transport(provider, Act.CALL, error)
        raise StreamBroken(told.message, code=told.code, usage=translation.usage) from None
    except Broken as error:
        raise StreamBroken(error.message, code=error.code, usage=translation.usage) from error
