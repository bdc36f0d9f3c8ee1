"""A provider played by a handler function that keeps what it was sent."""

from collections.abc import Callable
from typing import Any

import httpx
import orjson

from gateway.net.http import HttpClients
from gateway.providers import dialects
from gateway.providers.dialect import (
    Credential,
    Dialect,
    Endpoint,
)

Json = dict[str, Any]
Handler = Callable[[httpx.Request], httpx.Response]
CHAT = Endpoint.CHAT_COMPLETIONS
BODY: Json = {"model": "asked/for", "messages": [{"role": "user", "content": "hi"}]}
CREDENTIALS = {
    "openai": Credential("openai", "house", "sk-house-1234", "http://openai.test/v1/"),
    "anthropic": Credential("anthropic", "house", "sk-ant-1234", "http://anthropic.test"),
}
BOTH = sorted(CREDENTIALS)


def credential_of(name: str) -> Credential:
    """The key at one of the two, or at a service that speaks like OpenAI."""
    imitator = Credential(name, "house", f"sk-{name}-1234", f"http://{name}.test/v1")
    return CREDENTIALS.get(name, imitator)


def speaking(name: str, handler: Handler) -> Dialect:
    return dialects(HttpClients(transport=httpx.MockTransport(handler)))[name]


class Recorder:
    """Answers every request with the next of the given answers, and keeps the requests."""

    def __init__(self, *answers: httpx.Response | Exception) -> None:
        self._answers = list(answers)
        self.requests: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        answer = self._answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    @property
    def routes(self) -> list[str]:
        return [f"{request.method} {request.url.raw_path.decode()}" for request in self.requests]

    def body(self, index: int = 0) -> Any:
        return orjson.loads(self.requests[index].content)


def ok(body: Any) -> httpx.Response:
    return httpx.Response(200, json=body)


def no(status: int, message: str = "no") -> httpx.Response:
    return httpx.Response(status, json={"error": {"message": message, "type": "x"}})
