"""Customers who submit jobs the careful way: with an idempotency key, again until it is taken."""

import queue
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from tests.acceptance.deployment import Account

PLANTED = "the-heron-lands-at-dusk"
"""Part of every prompt; it must turn up in no log."""

CHAT, EMBEDDINGS = "/v1/chat/completions", "/v1/embeddings"
MODELS = {
    "openai": "openai/gpt-4o-mini",
    "anthropic": "anthropic/claude-haiku-4-5",
    "embeddings": "openai/text-embedding-3-small",
}
DIMENSIONS = 8
THREADS = 16
PATIENCE_SECONDS = 90.0
PAUSE_SECONDS = 0.25
TRY_AGAIN = frozenset({409, 502, 504})
"""In flight under the same key, or something in between away: the same call, a little later."""


@dataclass(frozen=True, slots=True)
class Ask:
    """One call that is to become a job, and the text that its answer must be about."""

    account: Account
    key: str
    path: str
    body: dict[str, Any]
    text: str


@dataclass(frozen=True, slots=True)
class Accepted:
    """A call that was answered with a job."""

    ask: Ask
    job_id: str
    replayed: bool


def asks(
    accounts: Sequence[Account],
    count: int,
    *,
    seed: int,
    webhook_url: str,
    kinds: Sequence[str] = ("openai", "openai", "anthropic", "embeddings"),
) -> list[Ask]:
    """`count` calls, the accounts and kinds taking turns, each with a prompt of its own."""
    rng = random.Random(seed)
    made = []
    for number in range(count):
        kind = kinds[number % len(kinds)]
        words = " ".join(f"w{rng.randrange(10**6)}" for _ in range(rng.randint(1, 12)))
        text = f"{PLANTED} {seed}-{number} {words}"
        body: dict[str, Any] = {"model": MODELS[kind], "prefer_async": True}
        if kind == "embeddings":
            body |= {"input": text, "dimensions": DIMENSIONS}
        else:
            body |= {
                "messages": [{"role": "user", "content": text}],
                "max_tokens": rng.randint(16, 64),
            }
        body |= {
            "webhook": {"url": webhook_url},
            "custom_id": f"{seed}-{number}",
            "metadata": {"number": str(number)},
        }
        path = EMBEDDINGS if kind == "embeddings" else CHAT
        account = accounts[number % len(accounts)]
        made.append(Ask(account, f"acceptance-{seed}-{number}", path, body, text))
    return made


class Load:
    """Submits calls from `THREADS` threads, `per_second` at most, until each is accepted.

    `trouble` counts what was answered or broke on the way and was tried again.
    """

    def __init__(
        self, base_url: str, asked: Sequence[Ask], *, per_second: float | None = None
    ) -> None:
        self.trouble: Counter[str] = Counter()
        self._base_url = base_url
        self._wanted = len(asked)
        self._accepted: list[Accepted] = []
        self._refused: list[str] = []
        self._lock = threading.Lock()
        self._abandoned = threading.Event()
        self._queue: queue.SimpleQueue[tuple[float, Ask]] = queue.SimpleQueue()
        began = time.monotonic()
        for number, ask in enumerate(asked):
            self._queue.put((began + number / per_second if per_second else began, ask))
        self._threads = [
            threading.Thread(target=self._submit_all, name=f"customer-{number}", daemon=True)
            for number in range(THREADS)
        ]

    @property
    def accepted(self) -> list[Accepted]:
        """What has been accepted so far."""
        with self._lock:
            return list(self._accepted)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Submits while the block runs; at its end, waits until all of it is accepted."""
        for thread in self._threads:
            thread.start()
        try:
            yield
        except BaseException:
            self._abandoned.set()
            raise
        finally:
            for thread in self._threads:
                thread.join()
        assert not self._refused, self._refused[:5]
        assert len(self._accepted) == self._wanted, self.trouble

    def _submit_all(self) -> None:
        with httpx.Client(base_url=self._base_url, timeout=30, trust_env=False) as client:
            while not self._abandoned.is_set():
                try:
                    due_at, ask = self._queue.get_nowait()
                except queue.Empty:
                    return
                self._abandoned.wait(max(0.0, due_at - time.monotonic()))
                self._submit(client, ask)

    def _submit(self, client: httpx.Client, ask: Ask) -> None:
        headers = {
            "Authorization": f"Bearer {ask.account.api_key}",
            "Idempotency-Key": ask.key,
        }
        gives_up_at = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < gives_up_at and not self._abandoned.is_set():
            try:
                response = client.post(ask.path, json=ask.body, headers=headers)
            except httpx.TransportError as error:
                self._note(type(error).__name__)
            else:
                if response.status_code == 202:
                    self._take(ask, response)
                    return
                if not _invites_another_try(response):
                    self._refuse(f"{response.status_code}: {response.text[:300]}")
                    return
                self._note(str(response.status_code))
            self._abandoned.wait(PAUSE_SECONDS)
        self._refuse("nobody answered in time")

    def _take(self, ask: Ask, response: httpx.Response) -> None:
        answer = response.json()
        job_id = (answer.get("job") or answer)["id"]
        replayed = response.headers.get("Idempotent-Replayed") == "true"
        with self._lock:
            self._accepted.append(Accepted(ask, job_id, replayed))

    def _note(self, what: str) -> None:
        with self._lock:
            self.trouble[what] += 1

    def _refuse(self, why: str) -> None:
        with self._lock:
            self._refused.append(why)


def _invites_another_try(response: httpx.Response) -> bool:
    """Whether a careful customer comes again; a 503 has to say when."""
    if response.status_code == 503:
        return "Retry-After" in response.headers
    return response.status_code in TRY_AGAIN
