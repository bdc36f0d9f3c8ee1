"""What goes wrong around our processes all the time: at the provider, on the wires, at receivers.

Some faults strike single lines, answers and pieces of data throughout. On top of that a front of
heavier ones moves in and out again every few seconds.
"""

import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress

import httpx

from tests.acceptance.simulator import Simulator
from tests.soak.deployment import SoakDeployment
from tests.soak.proxy import SMOOTH, Rough
from tests.soak.receiver import Receiver
from tests.soak.slowloris import dripping

FRONT_SECONDS = (4.0, 12.0)
EXTERNAL_CANCELS = 0.3
"""How likely somebody cancels one of our batches at the provider, for each front."""
SLOW_CALLERS = 0.2
"""How likely slow callers hold the web door's sockets, for each front."""
WEBHOOK_BADNESS = 0.3

# How single lines come back, whatever else there is.
DRIZZLE: Mapping[str, object] = {
    "shuffle": 0.3,
    "duplicate_lines": 0.08,
    "unknown_lines": 0.08,
    "missing_lines": 0.02,
    "garbage_lines": 0.04,
    "missing_usage": 0.02,
    "negative_usage": 0.01,
    "line_error": 0.03,
    "empty_string_error_file_id": 0.2,
    "batch_seconds": 3,
}
FRONTS: tuple[Mapping[str, object], ...] = (
    {"rate_limit_create": 0.7, "rate_limit_upload": 0.3, "retry_after": 2},
    {"rate_limit_poll": 0.7},
    {"server_error": {"probability": 0.6, "operation": "file_upload"}},
    {"server_error": {"probability": 0.6, "operation": "batch_get"}},
    {"server_error": {"probability": 0.6, "operation": "batch_list"}},
    {"server_error": {"probability": 0.6, "operation": "file_content"}},
    {"server_error": {"probability": 0.6, "operation": "batch_results"}},
    {"server_error": {"probability": 0.6, "operation": "batch_create"}, "server_error_status": 503},
    {"hang": 0.3, "hang_seconds": 8},
    {"hang": {"probability": 0.6, "operation": "batch_create"}, "hang_seconds": 5},
    {"drip": {"probability": 0.5, "operation": "batch_get"}, "drip_seconds": 0.005},
    {"create_drop_before": 0.5},
    {"create_drop_after": 0.5},
    {"create_500_after": 0.5, "list_lag_seconds": 6},
    {"create_drop_after": 0.5, "list_lag_seconds": 6},
    {"truncate_download": 0.5},
    {"half_response": 0.2},
    {"expire_after_fraction": 0.5},
    {"validation_failure": {"probability": 0.3, "lines": [1, 2]}},
    {"error_only": 0.3, "line_error_status": 429},
    {"status_regress": 0.6},
    {"null_file_ids_moment_seconds": 3},
    {"stuck_validating": 0.5},
    {"token_limit": 1},
)
WIRES: Mapping[str, Rough] = {
    "postgresql": Rough(cut=0.0004, muted=0.01, delayed=0.001, dripped=0.001, words=b"COMMIT"),
    "redis": Rough(cut=0.01, muted=0.01, delayed=0.01, dripped=0.01),
    "provider": Rough(cut=0.03, muted=0.03, delayed=0.05, dripped=0.05),
}
# Faults that a batch shows, rather than being counted as they strike.
OVER_LIMIT = "token_limit_exceeded"


class Weather:
    """Turns the knobs from a thread of its own, while the block of `blowing` runs."""

    def __init__(
        self,
        deployment: SoakDeployment,
        receiver: Receiver,
        seed: int,
        say: Callable[[str], None],
    ) -> None:
        self.struck: Counter[str] = Counter()
        self._deployment = deployment
        self._receiver = receiver
        self._say = say
        self._random = random.Random(seed)
        self._over = threading.Event()

    @contextmanager
    def blowing(self) -> Iterator[None]:
        """Faults while the block runs; none afterwards. Raises what ended them before that."""
        self._over.clear()
        with ThreadPoolExecutor(1, thread_name_prefix="weather") as thread:
            blowing = thread.submit(self._blow)
            try:
                yield
            finally:
                self._over.set()
            blowing.result()

    def count(self) -> Counter[str]:
        """Every fault so far, by kind."""
        batches = self._deployment.simulator.batches()
        expired = sum(row["unfinished"] for row in batches if row["status"] == "expired")
        over = sum(any(error["code"] == OVER_LIMIT for error in row["errors"]) for row in batches)
        at_provider = {f"provider {k}": n for k, n in self._deployment.simulator.faults().items()}
        seen = {"provider expired line": expired, "provider over token limit": over}
        return self.struck + Counter(at_provider) + Counter(seen) + self._receiver.struck

    def _blow(self) -> None:
        # A connection of its own: the one of the auditor is used by another thread.
        simulator = Simulator(self._deployment.simulator.url)
        try:
            simulator.turn(**DRIZZLE)
            self._receiver.badness = WEBHOOK_BADNESS
            while not self._over.is_set():
                self._front(simulator)
        finally:
            self._receiver.badness = 0.0
            simulator.turn(**dict.fromkeys(DRIZZLE))
            simulator.close()

    def _front(self, simulator: Simulator) -> None:
        """One front moves in and out again."""
        front = self._random.choice(FRONTS)
        wire = self._random.choice([*WIRES, None])
        self._say(f"front {dict(front)}, rough: {wire}")
        simulator.turn(**front)
        if "list_lag_seconds" in front:
            self.struck["provider list lags"] += 1
        if wire is not None:
            self._proxy(wire, WIRES[wire])
        if self._random.random() < EXTERNAL_CANCELS:
            self._cancel_one(simulator)
        with ExitStack() as front_lasts:
            if self._random.random() < SLOW_CALLERS:
                held = front_lasts.enter_context(dripping([*self._deployment.web_urls.values()]))
                self._say(f"{held} slow callers")
                self.struck["web slow caller"] += held
            self._over.wait(self._random.uniform(*FRONT_SECONDS))
        simulator.turn(**{name: DRIZZLE.get(name) for name in front})
        if wire is not None:
            self._proxy(wire, SMOOTH)

    def _proxy(self, wire: str, rough: Rough) -> None:
        proxies = {
            "postgresql": self._deployment.postgres_proxy,
            "redis": self._deployment.redis_proxy,
            "provider": self._deployment.provider_proxy,
        }
        proxies[wire].rough = rough

    def _cancel_one(self, simulator: Simulator) -> None:
        """Somebody with our key cancels one of our batches in the provider's console."""
        running = [
            row for row in simulator.batches() if not row["ended"] and row["provider"] == "openai"
        ]
        if running:
            chosen = self._random.choice(running)
            url = f"{simulator.url}/v1/batches/{chosen['id']}/cancel"
            headers = {"Authorization": f"Bearer {chosen['key']}"}
            # The simulator's faults strike whoever calls: an answer that was lost is none.
            with httpx.Client(timeout=30, trust_env=False) as client, suppress(httpx.HTTPError):
                answer = client.post(url, headers=headers)
                self.struck["provider batch cancelled by somebody"] += answer.is_success
