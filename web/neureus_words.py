"""Between OpenAI's words and Neureus's: the bodies of calls, their answers, their events. Pure."""

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import orjson

from gateway.calls.errors import InvalidField
from gateway.calls.idempotency import Stored
from gateway.calls.streaming import EVENT_STREAM
from gateway.providers.dialect import Endpoint
from gateway.providers.fields import count, items, mapping, string
from models.ids import Prefix
from web.errors import flat_error
from web.neureus_schemas import NeureusChat, NeureusEmbeddings
from web.schemas import check
from web.surfaces import Surface

ROUTING_MODEL = "auto"
NOTHING_USED = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
NOTHING: Mapping[str, Any] = MappingProxyType({})
DONE = b"[DONE]"


def read(endpoint: Endpoint, body: dict[str, Any]) -> dict[str, Any]:
    """OpenAI's body. Raises ApiError or InvalidField, in the words of the one that came."""
    if body.get("model") == ROUTING_MODEL:
        raise InvalidField("model", "Routing by task ('auto') is not available: name a model.")
    if endpoint is Endpoint.EMBEDDINGS:
        return {**body, "model": check(NeureusEmbeddings, body).model}
    return _read_chat(body, check(NeureusChat, body))


def _read_chat(body: dict[str, Any], asked: NeureusChat) -> dict[str, Any]:
    ours = ("maxTokens", "systemPrompt")
    read_body = {name: value for name, value in body.items() if name not in ours}
    read_body["model"] = asked.model
    if asked.max_tokens_in_camel is not None:
        if asked.max_tokens not in (None, asked.max_tokens_in_camel):
            raise InvalidField("maxTokens", "'maxTokens' and 'max_tokens' differ: give one.")
        read_body["max_tokens"] = asked.max_tokens_in_camel
    if asked.system_prompt:
        prompt = {"role": "system", "content": asked.system_prompt}
        read_body["messages"] = [prompt, *body["messages"]]
    if asked.stream:
        # The last event tells the usage, so it has to be heard.
        options = {**mapping(body.get("stream_options")), "include_usage": True}
        read_body["stream_options"] = options
    return read_body


def answer(stored: Stored, more: Mapping[str, Any] = NOTHING) -> Stored:
    """An answer, an accepted job or a whole stream; `more` is told besides."""
    if stored.headers.get("Content-Type") == EVENT_STREAM:
        return replace(stored, body=Events()(stored.body))
    body = orjson.loads(stored.body)
    if stored.http_status == 202:
        return _accepted(stored, body)
    worded = body
    cost_usd = stored.headers.get("X-Cost-Usd")
    if "choices" in body:
        worded = _chat(body, cost_usd)
    elif "data" in body:
        worded = {**body, **_counted(body.get("usage"), cost_usd)}
    return replace(stored, body=orjson.dumps({**worded, **more}))


def job_path(job_id: str) -> str:
    """Where a job is polled."""
    return f"/ai/batch/{job_id}"


def job_names(job_id: str) -> dict[str, str]:
    """What a job is called."""
    return {"jobId": job_id, "logId": _log_id(job_id)}


def number(decimal: str | None) -> orjson.Fragment | None:
    """A decimal string as a JSON number, with every digit that it has."""
    return None if decimal is None else orjson.Fragment(decimal.encode())


def _log_id(outside_id: str) -> str:
    """The id under which a call or job is in the request log: the digits are the same."""
    return Prefix.LOG + outside_id.removeprefix(Prefix.JOB).removeprefix(Prefix.COMPLETION)


def _accepted(stored: Stored, body: dict[str, Any]) -> Stored:
    """What is polled is shaped as it will be answered: nothing said, nothing used so far."""
    is_chat = "choices" in body
    job = body["job"] if is_chat else body
    cost = {"estimatedCostUsd": number(job["cost"]["estimated_usd"])}
    told = {"text": "", "content": ""} if is_chat else {"object": "list"}
    said = "choices" if is_chat else "data"
    worded = {
        **told,
        "status": body["status"],
        **job_names(job["id"]),
        "model": body["model"],
        said: body[said],
        **_counted(NOTHING_USED, "0"),
        **cost,
    }
    headers = dict(stored.headers)
    if "Location" in headers:
        headers["Location"] = job_path(job["id"])
    return replace(stored, headers=headers, body=orjson.dumps(worded))


def _chat(body: dict[str, Any], cost_usd: str | None) -> dict[str, Any]:
    choices = items(body["choices"])
    said = mapping(mapping(choices[0]).get("message")) if choices else {}
    text = string(said.get("content"))
    return {
        "text": text,
        "content": text,
        "choices": choices,
        **_besides(said),
        "model": body.get("model"),
        "logId": _log_id(string(body.get("id"))),
        **_counted(body.get("usage"), cost_usd),
    }


def _besides(said: Mapping[str, Any]) -> dict[str, Any]:
    """What a message or a delta holds besides its text."""
    told = {
        "toolCalls": said.get("tool_calls"),
        "reasoning": said.get("reasoning_content") or said.get("reasoning"),
    }
    return {name: value for name, value in told.items() if value}


def _tokens(usage: object) -> dict[str, int | None]:
    """Null where the provider did not count them, or where there is no such thing."""
    counts = mapping(usage)
    return {
        "inputTokens": count(counts.get("prompt_tokens")),
        "outputTokens": count(counts.get("completion_tokens")),
    }


def _counted(usage: object, cost_usd: str | None) -> dict[str, Any]:
    return {**_tokens(usage), "usage": usage, "cached": False, "costUsd": number(cost_usd)}


class Events:
    """Words the events of one stream. What has no text in it is kept for the last event."""

    def __init__(self) -> None:
        self._id = ""
        self._usage: dict[str, Any] = {}
        self._finish_reason: str | None = None

    def __call__(self, events: bytes) -> bytes:
        """The events' wording, which may be empty; several may come at once."""
        return b"".join(
            b"data: " + orjson.dumps(each) + b"\n\n"
            for event in events.split(b"\n\n")
            if event.startswith(b"data: ")
            for each in self._worded(event.removeprefix(b"data: "))
        )

    def _worded(self, data: bytes) -> list[dict[str, Any]]:
        if data == DONE:
            return [self._end()]
        chunk = orjson.loads(data)
        if "error" in chunk:
            return [{**flat_error(chunk["error"]), "done": True}]
        self._id = string(chunk.get("id")) or self._id
        self._usage = mapping(chunk.get("usage")) or self._usage
        return [
            {**({"index": place} if place else {}), "delta": delta, "done": False}
            for place, delta in map(self._delta, map(mapping, items(chunk.get("choices"))))
            if delta["content"] or len(delta) > 1
        ]

    def _delta(self, choice: dict[str, Any]) -> tuple[object, dict[str, Any]]:
        """Which of the choices it is of, and what it says."""
        said = mapping(choice.get("delta"))
        self._finish_reason = choice.get("finish_reason") or self._finish_reason
        return choice.get("index"), {"content": string(said.get("content")), **_besides(said)}

    def _end(self) -> dict[str, Any]:
        usage = self._usage
        return {
            "done": True,
            "logId": _log_id(self._id),
            **_tokens(usage),
            "costUsd": number(usage.get("cost_usd")),
            "finishReason": self._finish_reason,
        }


NEUREUS = Surface(read=read, answer=answer, encoder=Events, tells_flat_errors=True)
