"""The customers' webhook receiver: it verifies what comes at once, and answers badly by chance."""

import contextlib
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self

from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from tests.acceptance.deployment import Account
from tests.acceptance.facts import Facts
from tests.acceptance.load import Accepted
from tests.integration.webhook_sink import Received, Script, answer

SLOW_SECONDS = (1.0, 17.0)
HANGING_PATH = "/hook/13"
"""One of the thousand addresses: whatever comes to it for the first time hangs."""
HANG_SECONDS = 17.0
HUGE_BYTES = 3_000_000

Told = dict[tuple[str, str], set[tuple[str, str | None]]]
"""By job and event type: under which ids it was told, and by whose signature."""


def _slow(seconds: float) -> Script:
    def step(handler: BaseHTTPRequestHandler) -> None:
        time.sleep(seconds)
        answer(204)(handler)

    return step


def _hang_up(handler: BaseHTTPRequestHandler) -> None:
    handler.close_connection = True


class Receiver:
    """Answers an event's first arrival badly with probability `badness`; all others well.

    One address hangs at every first arrival as long as there is any badness.

    An event that was answered badly every time would come again after minutes and hours; that
    this is kept to is tested elsewhere, by a virtual clock.
    """

    def __init__(self, seed: int) -> None:
        self.badness = 0.0
        self.struck: Counter[str] = Counter()
        self.wrong: list[str] = []
        self._random = random.Random(seed)
        self._readers: dict[str, Webhook] = {}
        self._seen: set[str] = set()
        self._told: Told = {}
        self._lock = threading.Lock()
        self._server = _Server(self._take, self._answer)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def url(self) -> str:
        """Where events are to be sent."""
        return f"http://127.0.0.1:{self._server.server_port}/hook"

    def know(self, accounts: Sequence[Account]) -> None:
        """Whose signatures there can be."""
        self._readers = {account.id: Webhook(account.webhook_secret) for account in accounts}

    def violations(self, facts: Facts, accepted: Sequence[Accepted]) -> Iterator[str]:
        """Every job's end was told at least once, under one id, signed for its account."""
        with self._lock:
            told = {key: set(values) for key, values in self._told.items()}
            yield from self.wrong
        accounts = {each.job_id: each.ask.account.id for each in accepted}
        for (job_id, kind), tellings in told.items():
            job = facts.jobs.get(job_id)
            if len(tellings) > 1:
                yield f"{job_id} was told as {tellings}"
            if job is None or kind != f"job.{job['status']}":
                yield f"{job_id} was told as {kind}"
            if {signer for _, signer in tellings} != {accounts.get(job_id)}:
                yield f"{job_id} was told with another account's signature"
        known = {job_id for job_id, _ in told}
        yield from (f"nobody was told of {job_id}" for job_id in accounts.keys() - known)

    def _take(self, received: Received) -> None:
        event = json.loads(received.body)
        name = received.headers["webhook-id"]
        with self._lock:
            if name != event["id"]:
                self.wrong.append(f"event {event['id']} was sent under the id {name}")
            key = (event["data"]["id"], event["type"])
            self._told.setdefault(key, set()).add((name, self._signer(received)))

    def _signer(self, received: Received) -> str | None:
        for account_id, reader in self._readers.items():
            try:
                reader.verify(received.body, received.headers)
            except WebhookVerificationError:
                continue
            return account_id
        return None

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        with self._lock:
            is_first = handler.headers["webhook-id"] not in self._seen
            self._seen.add(handler.headers["webhook-id"])
            step = answer(204)
            name = None
            if is_first and self.badness and handler.path == HANGING_PATH:
                name, step = "hung", _slow(HANG_SECONDS)
            elif is_first and self._random.random() < self.badness:
                name, step = self._fault()
            if name is not None:
                self.struck[f"webhook receiver {name}"] += 1
        step(handler)

    def _fault(self) -> tuple[str, Script]:
        faults: list[tuple[int, str, Script]] = [
            (30, "500", answer(500, b"down")),
            (20, "503", answer(503, retry_after="3")),
            (15, "429", answer(429, retry_after="2")),
            (10, "redirect", answer(302, location=f"{self.url}/elsewhere")),
            (10, "hung up", _hang_up),
            (5, "410", answer(410)),
            (5, "huge", answer(500, b"x" * HUGE_BYTES)),
            (5, "slow", _slow(self._random.uniform(*SLOW_SECONDS))),
        ]
        weights = [weight for weight, _, _ in faults]
        (_, name, script) = self._random.choices(faults, weights)[0]
        return name, script


class _Server(ThreadingHTTPServer):
    """Hands on what comes at once, for signatures are valid for minutes only, and keeps none."""

    request_queue_size = 128

    def __init__(self, take: Callable[[Received], None], step: Script) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                headers = {name.lower(): value for name, value in self.headers.items()}
                take(Received(self.path, headers, body))
                with contextlib.suppress(OSError):  # The sender gave up waiting for us.
                    step(self)

            def log_message(self, *_arguments: object) -> None:
                """Quiet: the violations tell what came."""

        super().__init__(("127.0.0.1", 0), Handler)
