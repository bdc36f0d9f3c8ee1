"""Calls to a simulator on the bare wire."""

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from tests.contract.simulator_process import SimulatorProcess, chat_lines, eventually, says

ANTHROPIC = {"anthropic-version": "2026-10-21"}
CHAT: Any = {"model": "gpt-4o-mini", "messages": says("Hi")}
MESSAGE: Any = {"model": "claude-haiku-4-5", "max_tokens": 50, "messages": says("Hi")}
ENDED = ("completed", "failed", "expired", "cancelled")


class Caller:
    """A key's calls to a simulator."""

    def __init__(self, url: str, key: str = "sk-sim") -> None:
        headers = {"authorization": f"Bearer {key}"}
        self.http = httpx.Client(base_url=url, headers=headers, timeout=10, verify=False)

    def chat(self, **more: object) -> httpx.Response:
        return self.http.post("/v1/chat/completions", json=CHAT | more)

    def upload(self, lines: bytes) -> httpx.Response:
        files = {"file": ("in.jsonl", lines)}
        return self.http.post("/v1/files", data={"purpose": "batch"}, files=files)

    def create(self, file_id: str, **more: object) -> httpx.Response:
        body = {"input_file_id": file_id, "endpoint": "/v1/chat/completions"}
        return self.http.post("/v1/batches", json=body | {"completion_window": "24h"} | more)

    def start(self, *texts: str) -> str:
        file_id = self.upload(chat_lines(texts)).raise_for_status().json()["id"]
        batch_id: str = self.create(file_id).raise_for_status().json()["id"]
        return batch_id

    def batch(self, batch_id: str) -> Any:
        return self.http.get(f"/v1/batches/{batch_id}").raise_for_status().json()

    def ended(self, batch_id: str) -> Any:
        def final() -> Any:
            seen = self.batch(batch_id)
            return seen if seen["status"] in ENDED else None

        return eventually(final)

    def content(self, file_id: str) -> bytes:
        return self.http.get(f"/v1/files/{file_id}/content").raise_for_status().content

    def records(self, file_id: str) -> list[Any]:
        return [json.loads(line) for line in self.content(file_id).splitlines()]

    def message_batch(self, *texts: str) -> Any:
        """A message batch that has ended."""
        requests = [
            {"custom_id": f"line-{number}", "params": MESSAGE | {"messages": says(text)}}
            for number, text in enumerate(texts, start=1)
        ]
        made = self.http.post(
            "/v1/messages/batches", json={"requests": requests}, headers=ANTHROPIC
        )
        url = f"/v1/messages/batches/{made.raise_for_status().json()['id']}"

        def final() -> Any:
            seen = self.http.get(url, headers=ANTHROPIC).json()
            return seen if seen["processing_status"] == "ended" else None

        return eventually(final)

    def results(self, batch: Any) -> list[Any]:
        answer = self.http.get(batch["results_url"], headers=ANTHROPIC).raise_for_status()
        return [json.loads(line) for line in answer.content.splitlines()]


@pytest.fixture
def caller(simulator: SimulatorProcess) -> Iterator[Caller]:
    caller = Caller(simulator.url)
    yield caller
    caller.http.close()


def seconds_of(action: Callable[[], object]) -> float:
    """How long it takes."""
    started = time.monotonic()
    action()
    return time.monotonic() - started
