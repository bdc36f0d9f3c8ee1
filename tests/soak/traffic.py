"""Customers who submit jobs at a steady rate, for as long as the soak lasts."""

import random
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import httpx

from tests.acceptance.deployment import Account
from tests.acceptance.load import Accepted, Ask, asks

THREADS = 24
SLICE = 500
TIMEOUT_SECONDS = 15.0
PAUSE_SECONDS = (0.2, 2.0)
PATIENCE_SECONDS = 300.0
URLS = 1_000
"""Webhook addresses, which the jobs take turns with."""
CANCELLED = 0.05
"""The share of jobs that are cancelled, sooner or later."""
CANCELLED_AFTER_SECONDS = (0.0, 12.0)
REPEATED = 0.02
"""The share of customers who never heard the answer that was sent, and ask once more."""
TRY_AGAIN = frozenset({409, 500, 502, 503, 504})


@dataclass(frozen=True, slots=True)
class _Turn:
    ask: Ask
    due_at: float
    repeats: bool
    cancels: bool


class Traffic:
    """`per_second` calls a second to any of several addresses, each again until it is accepted.

    `trouble` counts what was tried again, `struck` what customers did for a fault; `wrong` says in
    sentences what must not happen.
    """

    def __init__(
        self,
        urls: Sequence[str],
        accounts: Sequence[Account],
        *,
        webhook_url: str,
        seed: int,
        per_second: float,
    ) -> None:
        self.trouble: Counter[str] = Counter()
        self.struck: Counter[str] = Counter()
        self.wrong: list[str] = []
        self._urls = list(urls)
        self._accepted: list[Accepted] = []
        self._cancellations: dict[str, bool] = {}
        self._per_second = per_second
        self._random = random.Random(seed)
        self._asks = self._endless(accounts, webhook_url, seed)
        self._next_at = 0.0
        self._busy = 0
        self._state = threading.Condition()
        self._open = False
        self._ended = False
        self._threads = [
            threading.Thread(target=self._work, name=f"customer-{number}", daemon=True)
            for number in range(THREADS)
        ]

    @contextmanager
    def running(self) -> Iterator[None]:
        """Submits while the block runs, unless paused."""
        for thread in self._threads:
            thread.start()
        self.resume()
        try:
            yield
        finally:
            with self._state:
                self._ended = True
                self._open = False
                self._state.notify_all()
            for thread in self._threads:
                thread.join()

    @property
    def accepted(self) -> list[Accepted]:
        """What has been accepted so far."""
        with self._state:
            return list(self._accepted)

    @property
    def cancellations(self) -> dict[str, bool]:
        """The jobs whose cancellation was asked for, and whether it was told to be done at once."""
        with self._state:
            return dict(self._cancellations)

    def resume(self) -> None:
        """Submit from now on."""
        with self._state:
            self._next_at = time.monotonic()
            self._open = True
            self._state.notify_all()

    def pause(self) -> None:
        """Begin nothing more, and wait until everything begun has been accepted or given up."""
        with self._state:
            self._open = False
            self._state.wait_for(lambda: self._busy == 0)

    def _endless(self, accounts: Sequence[Account], webhook_url: str, seed: int) -> Iterator[Ask]:
        number = 0
        while True:
            number += 1
            slice_seed = seed * 1_000_000 + number
            for each in asks(accounts, SLICE, seed=slice_seed, webhook_url=webhook_url):
                url = f"{webhook_url}/{self._random.randrange(URLS)}"
                yield replace(each, body=each.body | {"webhook": {"url": url}})

    def _work(self) -> None:
        with httpx.Client(timeout=TIMEOUT_SECONDS, trust_env=False) as client:
            while turn := self._take():
                time.sleep(max(0.0, turn.due_at - time.monotonic()))
                try:
                    self._submit(client, turn)
                finally:
                    with self._state:
                        self._busy -= 1
                        self._state.notify_all()

    def _take(self) -> _Turn | None:
        with self._state:
            self._state.wait_for(lambda: self._open or self._ended)
            if self._ended:
                return None
            self._busy += 1
            turn = _Turn(
                next(self._asks),
                self._next_at,
                repeats=self._random.random() < REPEATED,
                cancels=self._random.random() < CANCELLED,
            )
            self._next_at = max(self._next_at, time.monotonic() - 1) + 1 / self._per_second
            return turn

    def _submit(self, client: httpx.Client, turn: _Turn) -> None:
        first = self._until_accepted(client, turn.ask)
        if first is None:
            return
        with self._state:
            self._accepted.append(first)
        if turn.repeats:
            again = self._until_accepted(client, turn.ask)
            if again is not None and (again.job_id != first.job_id or not again.replayed):
                self._object(f"{first.job_id} was asked for again and answered as {again}")
        if turn.cancels:
            time.sleep(self._random.uniform(*CANCELLED_AFTER_SECONDS))
            self._cancel(client, first)

    def _cancel(self, client: httpx.Client, job: Accepted) -> None:
        """Asks until somebody hears it; 409 is heard too, and says that the job has ended."""
        headers = {"Authorization": f"Bearer {job.ask.account.api_key}"}
        gives_up_at = time.monotonic() + PATIENCE_SECONDS
        with self._state:
            self._cancellations[job.job_id] = False
            self.struck["customer cancelled"] += 1
        while time.monotonic() < gives_up_at:
            url = f"{self._random.choice(self._urls)}/v1/jobs/{job.job_id}/cancel"
            try:
                response = client.post(url, headers=headers)
            except httpx.TransportError as error:
                self._note(f"cancelling: {type(error).__name__}")
            else:
                if response.status_code == 409:
                    return
                if response.is_success:
                    with self._state:
                        is_done = response.json()["status"] == "cancelled"
                        self._cancellations[job.job_id] = is_done
                    return
                self._note(f"cancelling: {response.status_code}")
                self._judge(response)
            time.sleep(self._random.uniform(*PAUSE_SECONDS))
        self._object(f"nobody heard that {job.job_id} is to be cancelled")

    def _until_accepted(self, client: httpx.Client, ask: Ask) -> Accepted | None:
        headers = {"Authorization": f"Bearer {ask.account.api_key}", "Idempotency-Key": ask.key}
        gives_up_at = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < gives_up_at:
            url = self._random.choice(self._urls)
            try:
                response = client.post(url + ask.path, json=ask.body, headers=headers)
            except httpx.TransportError as error:
                self._note(type(error).__name__)
            else:
                if response.status_code == 202:
                    answer = response.json()
                    job_id = (answer.get("job") or answer)["id"]
                    replayed = response.headers.get("Idempotent-Replayed") == "true"
                    return Accepted(ask, job_id, replayed)
                self._note(str(response.status_code))
                self._judge(response)
                if response.status_code not in TRY_AGAIN:
                    return None
            time.sleep(self._random.uniform(*PAUSE_SECONDS))
        self._object(f"nobody took {ask.key} within {PATIENCE_SECONDS:.0f} s")
        return None

    def _judge(self, response: httpx.Response) -> None:
        """A refusal has to be one that such a call may get while something is away."""
        status = response.status_code
        if status not in TRY_AGAIN or status == 500:
            self._object(f"a call was answered {status}: {response.text[:300]}")
        elif status == 503 and "Retry-After" not in response.headers:
            self._object("a 503 did not say when to come again")

    def _note(self, what: str) -> None:
        with self._state:
            self.trouble[what] += 1

    def _object(self, what: str) -> None:
        with self._state:
            self.wrong.append(what)
