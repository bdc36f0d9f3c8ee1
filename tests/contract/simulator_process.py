"""A provider simulator in a process of its own, as tests and people start it."""

import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Self

import httpx
import pytest

STOP_SECONDS = 10

# Batches that are over at once, for tests that are not about time.
QUICK = {
    "batch_validating_seconds": 0,
    "batch_seconds": 0,
    "batch_finalizing_seconds": 0,
    "batch_cancelling_seconds": 0,
}


class SimulatorProcess:
    """A running simulator. Use as a context manager; `stop` is a SIGTERM that must suffice."""

    def __init__(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "local.simulator", "--port", "0", *arguments]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE)
        self.url = f"http://127.0.0.1:{self._port()}"
        self.openai_url = f"{self.url}/v1"
        # Without TLS there is nothing to verify, and loading the certificates takes its time.
        self._control = httpx.Client(base_url=self.url, timeout=10, verify=False)

    def _port(self) -> int:
        if self._process.stdout is None:
            raise RuntimeError("the simulator has no output to read")
        line = json.loads(self._process.stdout.readline() or "{}")
        if line.get("event") != "simulator.listening":
            self._process.kill()
            raise RuntimeError(f"the simulator did not start: {line}")
        port: int = line["port"]
        return port

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.stop()

    def stop(self) -> int:
        """End it, and return its exit code."""
        self._control.close()
        self._process.terminate()
        try:
            return self._process.wait(STOP_SECONDS)
        finally:
            self._process.kill()
            if self._process.stdout is not None:
                self._process.stdout.close()

    def kill(self) -> None:
        """End it without a warning."""
        self._process.kill()
        self._process.wait(STOP_SECONDS)

    @property
    def process_id(self) -> int:
        return self._process.pid

    def reset(self, **knobs: object) -> None:
        """Forget everything, then turn these knobs."""
        self._control.post("/_sim/reset").raise_for_status()
        self.turn(**knobs)

    def turn(self, **knobs: object) -> None:
        self._control.post("/_sim/knobs", json=knobs).raise_for_status()

    def meter(self) -> list[dict[str, Any]]:
        return self._rows("/_sim/meter")

    def batches(self) -> list[dict[str, Any]]:
        return self._rows("/_sim/batches")

    def lines(self) -> list[dict[str, Any]]:
        return self._rows("/_sim/lines")

    def _rows(self, path: str) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self._control.get(path).raise_for_status().json()["rows"]
        return rows


def eventually(condition: Callable[[], Any], timeout_seconds: float = 10) -> Any:
    """The first true value of `condition`. Raises TimeoutError."""
    end = time.monotonic() + timeout_seconds
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(0.02)
    raise TimeoutError("it did not come to pass")


def chat_lines(texts: Sequence[str], model: str = "gpt-4o-mini") -> bytes:
    """An OpenAI batch input with one chat call for each text, `line-1` being the first."""
    lines = (
        {
            "custom_id": f"line-{number}",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {"model": model, "messages": [{"role": "user", "content": text}]},
        }
        for number, text in enumerate(texts, start=1)
    )
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


def echo(text: str) -> str:
    """The mark by which an answer names the last user text."""
    return "echo:" + hashlib.sha256(text.encode()).hexdigest()[:12]


def says(text: str) -> Any:
    """Messages with one user turn."""
    return [{"role": "user", "content": text}]


@pytest.fixture(scope="module")
def process() -> Iterator[SimulatorProcess]:
    with SimulatorProcess() as running:
        yield running


@pytest.fixture
def simulator(process: SimulatorProcess) -> SimulatorProcess:
    """A simulator that remembers nothing, with batches that are over at once."""
    process.reset(**QUICK)
    return process
