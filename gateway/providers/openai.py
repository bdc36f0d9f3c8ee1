"""OpenAI's dialect, and that of the services that imitate it: files, batches, calls as they are."""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from datetime import datetime
from pathlib import Path
from urllib.parse import quote, urlencode

from gateway.net.http import HttpClients
from gateway.providers.accents import ACCENTS, Accent
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
from gateway.providers.errors import Act, unreadable
from gateway.providers.fields import JsonObject, items, mapping, text
from gateway.providers.lines import require_answer
from gateway.providers.openai_batches import BATCH_REF_KEY, read_batch, read_line
from gateway.providers.openai_stream import OpenAIPieces
from gateway.providers.usage import openai_usage
from gateway.providers.wire import TRANSFER_TIMEOUT_SECONDS, Wire, encode, multipart_payload

_BATCHES_A_PAGE = 100
_FILES_A_PAGE = 1_000
_PRICED_TOOLS = ("function", "custom")
_UNPRICED = ("service_tier", "web_search_options")
_ABOUT_STREAMS = ("stream", "stream_options")
# Nothing is sent here while a model reasons, which it may do for minutes.
_STREAM_SILENCE_SECONDS = 300.0


class OpenAI(Dialect):
    """Calls and batches at OpenAI; under another `name`, calls at a service with an accent."""

    # 50,000 requests and 200 MB; embeddings at most 50,000 inputs over all lines. Whether a
    # megabyte is 2^20 or 10^6 bytes is not said, so the smaller one counts, with some room.
    limits = BatchLimits(requests=50_000, bytes=195_000_000, embedding_inputs=50_000)
    framing = Framing(opening=b"", separator=b"\n", closing=b"\n")
    keeps_metadata = True

    def __init__(
        self, http: HttpClients, name: str = "openai", accent: Accent | None = None
    ) -> None:
        """KeyError if no accent is given and there is none of that name."""
        self.name = name
        self._accent = ACCENTS[name] if accent is None else accent
        self._wire = Wire(
            http, name, lambda key: {"Authorization": f"Bearer {key}"}, self._accent.path
        )

    def unsupported(self, endpoint: Endpoint, body: JsonObject) -> str | None:
        """Names what would be billed by a price that we do not have."""
        for field in (*_UNPRICED, *self._accent.unpriced):
            if body.get(field) is not None:
                return field
        if endpoint is not Endpoint.CHAT_COMPLETIONS:
            return None
        if "audio" in items(body.get("modalities")):
            return "modalities"
        if body.get("audio") is not None:
            return "audio"
        for index, tool in enumerate(items(body.get("tools"))):
            if mapping(tool).get("type", "function") not in _PRICED_TOOLS:
                return f"tools[{index}].type"
        return _spoken(items(body.get("messages")))

    def batches(self, endpoint: Endpoint) -> bool:
        return endpoint in self._accent.batched

    def call(
        self,
        credential: Credential,
        endpoint: Endpoint,
        model: str,
        body: JsonObject,
        timeout_seconds: float,
    ) -> Answer:
        answer = self._wire.exchange(
            Act.CALL,
            credential,
            "POST",
            endpoint.removeprefix("/v1"),
            encode(self._accent.prepare(_with_model(body, model))),
            timeout_seconds,
        )
        require_answer(answer)
        answer = self._accent.tidy(answer)
        return Answer(answer, openai_usage(answer), text(answer.get("service_tier")))

    def stream(
        self, credential: Credential, model: str, body: JsonObject, timeout_seconds: float
    ) -> AbstractContextManager[Iterator[StreamPiece]]:
        options = {**mapping(body.get("stream_options")), "include_usage": True}
        asked = {**_with_model(body, model), "stream": True, "stream_options": options}
        return self._wire.stream(
            credential,
            Endpoint.CHAT_COMPLETIONS.removeprefix("/v1"),
            encode(self._accent.prepare(asked)),
            OpenAIPieces(self._accent.tidy, self._accent.tidied_if),
            timeout_seconds,
            _STREAM_SILENCE_SECONDS,
        )

    def encode_line(
        self, custom_id: str, endpoint: Endpoint, model: str, body: JsonObject
    ) -> bytes:
        line = {
            "custom_id": custom_id,
            "method": "POST",
            "url": endpoint.value,
            "body": _with_model(body, model),
        }
        return encode(line)

    def upload(self, credential: Credential, spool: Path, file_name: str) -> str | None:
        """Streams the spool as a file named `file_name`, which must be unique and end in .jsonl."""
        file = self._wire.exchange(
            Act.UPLOAD,
            credential,
            "POST",
            "/files",
            multipart_payload(spool, file_name, {"purpose": "batch"}),
            TRANSFER_TIMEOUT_SECONDS,
        )
        file_id = text(file.get("id"))
        if file_id is None:
            raise unreadable(self.name, Act.UPLOAD)
        return file_id

    def find_upload(self, credential: Credential, file_name: str) -> str | None:
        query = {"purpose": "batch", "order": "desc", "limit": str(_FILES_A_PAGE)}
        for file in self._list(credential, "/files", query):
            if file.get("filename") == file_name:
                return text(file.get("id"))
        return None

    def create(
        self,
        credential: Credential,
        endpoint: Endpoint,
        batch_ref: str,
        file_id: str | None,
        spool: Path,  # noqa: ARG002 (the interface's; here the lines are in the file already)
    ) -> BatchReport:
        order = {
            "input_file_id": file_id,
            "endpoint": endpoint.value,
            "completion_window": "24h",
            "metadata": {BATCH_REF_KEY: batch_ref},
        }
        answer = self._wire.exchange(Act.CREATE, credential, "POST", "/batches", encode(order))
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
        batches = self._list(credential, "/batches", {"limit": str(_BATCHES_A_PAGE)})
        return not_older(map(read_batch, batches), since)

    def cancel_batch(self, credential: Credential, external_id: str) -> None:
        path = _batch_path(external_id) + "/cancel"
        cancel_unless_over(
            lambda: self._wire.exchange(Act.SAFE, credential, "POST", path),
            lambda: self.get_batch(credential, external_id),
        )

    def download(self, credential: Credential, file: str, destination: Path) -> None:
        """Rejected with status 404 or 410 once the provider keeps the file no longer."""
        self._wire.download(credential, f"/files/{quote(file, safe='')}/content", destination)

    def delete_file(self, credential: Credential, file_id: str) -> None:
        path = f"/files/{quote(file_id, safe='')}"
        try:
            self._wire.exchange(Act.SAFE, credential, "DELETE", path)
        except Rejected as error:
            if not is_gone(error):
                raise

    def parse_line(self, line: bytes) -> LineResult:
        return read_line(line)

    def _list(
        self, credential: Credential, path: str, query: dict[str, str]
    ) -> Iterator[JsonObject]:
        def page(after: str | None) -> JsonObject:
            following = {**query, "after": after} if after else query
            return self._wire.exchange(
                Act.SAFE, credential, "GET", f"{path}?{urlencode(following)}"
            )

        return every_item(page)


def _spoken(messages: list[object]) -> str | None:
    """The first piece of audio in the conversation: the catalogue prices none."""
    for index, message in enumerate(messages):
        if mapping(message).get("audio") is not None:
            return f"messages[{index}].audio"
        for place, part in enumerate(items(mapping(message).get("content"))):
            if mapping(part).get("type") == "input_audio":
                return f"messages[{index}].content[{place}].input_audio"
    return None


def _with_model(body: JsonObject, model: str) -> JsonObject:
    """The caller's body under the provider's model name, with nothing said about streams."""
    kept = {name: value for name, value in body.items() if name not in _ABOUT_STREAMS}
    return {**kept, "model": model}


def _batch_path(external_id: str) -> str:
    return f"/batches/{quote(external_id, safe='')}"
