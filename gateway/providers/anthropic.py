"""Anthropic's dialect: the Messages API and its batches, which carry their lines in `create`."""

import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from urllib.parse import quote, urlencode

from gateway.net.http import HttpClients
from gateway.providers.anthropic_batches import read_batch, read_line
from gateway.providers.anthropic_completion import to_completion
from gateway.providers.anthropic_media import Untranslatable
from gateway.providers.anthropic_messages import to_messages
from gateway.providers.anthropic_stream import AnthropicPieces
from gateway.providers.batches import (
    cancel_unless_over,
    every_item,
    is_gone,
    not_older,
    read_created,
)
from gateway.providers.dialect import (
    Answer,
    BatchLimits,
    BatchReport,
    Credential,
    Dialect,
    Endpoint,
    Framing,
    LineResult,
    Rejected,
    StreamPiece,
)
from gateway.providers.errors import Act
from gateway.providers.fields import JsonObject, mapping, text
from gateway.providers.usage import anthropic_usage
from gateway.providers.wire import TRANSFER_TIMEOUT_SECONDS, Wire, encode, file_payload

NO_LIMITS: Mapping[str, int] = MappingProxyType({})
_BATCHES_A_PAGE = 100
_MESSAGES = "/v1/messages"
_BATCHES = "/v1/messages/batches"
# Pings come every few seconds while there is nothing to say.
_STREAM_SILENCE_SECONDS = 60.0
# The version of 2026-10-21 answers 400 to temperature and top_p, which OpenAI's callers send;
# this one still takes them.
_VERSION = "2023-06-01"


class Anthropic(Dialect):
    """Chat at Anthropic. `output_limits` are the models' own, for calls that come without one."""

    name = "anthropic"
    # 100,000 requests or 256 MB; the smaller reading of a megabyte, with some room.
    limits = BatchLimits(requests=100_000, bytes=250_000_000)
    framing = Framing(opening=b'{"requests":[', separator=b",", closing=b"]}")
    keeps_metadata = False

    def __init__(self, http: HttpClients, output_limits: Mapping[str, int] = NO_LIMITS) -> None:
        self._output_limits = output_limits
        self._wire = Wire(
            http, self.name, lambda key: {"x-api-key": key, "anthropic-version": _VERSION}
        )

    def unsupported(self, endpoint: Endpoint, body: JsonObject) -> str | None:
        try:
            self._translate(endpoint, "", body)
        except Untranslatable as error:
            return error.field
        return None

    def batches(self, endpoint: Endpoint) -> bool:
        return endpoint is Endpoint.CHAT_COMPLETIONS

    def call(
        self,
        credential: Credential,
        endpoint: Endpoint,
        model: str,
        body: JsonObject,
        timeout_seconds: float,
    ) -> Answer:
        message = self._wire.exchange(
            Act.CALL,
            credential,
            "POST",
            _MESSAGES,
            encode(self._translate(endpoint, model, body)),
            timeout_seconds,
        )
        return Answer(
            to_completion(message, created=int(time.time())),
            anthropic_usage(message),
            text(mapping(message.get("usage")).get("service_tier")),
        )

    def stream(
        self, credential: Credential, model: str, body: JsonObject, timeout_seconds: float
    ) -> AbstractContextManager[Iterator[StreamPiece]]:
        asked = {**self._translate(Endpoint.CHAT_COMPLETIONS, model, body), "stream": True}
        return self._wire.stream(
            credential,
            _MESSAGES,
            encode(asked),
            AnthropicPieces(created=int(time.time())),
            timeout_seconds,
            _STREAM_SILENCE_SECONDS,
        )

    def encode_line(
        self, custom_id: str, endpoint: Endpoint, model: str, body: JsonObject
    ) -> bytes:
        params = self._translate(endpoint, model, body)
        return encode({"custom_id": custom_id, "params": params})

    def upload(self, credential: Credential, spool: Path, file_name: str) -> str | None:  # noqa: ARG002 (the interface's; nothing is uploaded here)
        return None

    def find_upload(self, credential: Credential, file_name: str) -> str | None:  # noqa: ARG002 (the interface's; nothing is uploaded here)
        return None

    def create(
        self,
        credential: Credential,
        endpoint: Endpoint,  # noqa: ARG002 (the interface's; there is one endpoint)
        batch_ref: str,  # noqa: ARG002 (the interface's; there is no metadata to put it in)
        file_id: str | None,  # noqa: ARG002 (the interface's; the lines are in the body)
        spool: Path,
    ) -> BatchReport:
        payload = file_payload(spool)
        answer = self._wire.exchange(
            Act.CREATE, credential, "POST", _BATCHES, payload, TRANSFER_TIMEOUT_SECONDS
        )
        return read_created(read_batch, answer)

    def get_batch(self, credential: Credential, external_id: str) -> BatchReport | None:
        try:
            answer = self._wire.exchange(Act.SAFE, credential, "GET", _batch_path(external_id))
        except Rejected as error:
            if is_gone(error):
                return None
            raise
        return read_batch(answer)

    def list_batches(self, credential: Credential, since: datetime) -> Iterator[BatchReport]:
        def page(after: str | None) -> JsonObject:
            query = {"limit": str(_BATCHES_A_PAGE), **({"after_id": after} if after else {})}
            path = f"{_BATCHES}?{urlencode(query)}"
            return self._wire.exchange(Act.SAFE, credential, "GET", path)

        return not_older(map(read_batch, every_item(page)), since)

    def cancel_batch(self, credential: Credential, external_id: str) -> None:
        path = _batch_path(external_id) + "/cancel"
        cancel_unless_over(
            lambda: self._wire.exchange(Act.SAFE, credential, "POST", path),
            lambda: self.get_batch(credential, external_id),
        )

    def download(self, credential: Credential, file: str, destination: Path) -> None:
        """Rejected with status 404 or 410 once the provider keeps the results no longer."""
        self._wire.download(credential, f"{_batch_path(file)}/results", destination)

    def delete_file(self, credential: Credential, file_id: str) -> None:
        """There are no uploaded files here, so every one of them is gone already."""

    def parse_line(self, line: bytes) -> LineResult:
        # A line does not say when its answer was made; this is when we came to know of it.
        return read_line(line, created=int(time.time()))

    def _translate(self, endpoint: Endpoint, model: str, body: JsonObject) -> JsonObject:
        if endpoint is not Endpoint.CHAT_COMPLETIONS:
            raise Untranslatable("model")
        return to_messages(model, body, self._output_limits.get(model))


def _batch_path(external_id: str) -> str:
    return f"{_BATCHES}/{quote(external_id, safe='')}"
