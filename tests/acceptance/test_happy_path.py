"""Two thousand jobs of three customers over both dialects, with nothing in their way."""

import hashlib
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from openai import OpenAI
from openai.types.chat import ChatCompletion

from tests.acceptance.audit import audit
from tests.acceptance.deployment import Deployment
from tests.acceptance.load import Accepted, Ask, Load, asks
from tests.integration.webhook_sink import Sink

SEED = 20261122
JOBS = 2000
BY_SDK = 4
SETTLE_SECONDS = 60.0
CONNECTIONS_MOST = 18
LOOK_SECONDS = 0.05
_CONNECTIONS = """
    SELECT application_name FROM pg_stat_activity
    WHERE backend_type = 'client backend' AND application_name <> 'auditor'
"""


@dataclass(frozen=True, slots=True)
class Run:
    """What came of the two thousand. `connections` is how many there were at once, at most."""

    accepted: list[Accepted]
    placeholders: dict[str, ChatCompletion]
    connections: Counter[str]


class _Watch:
    """Looks again and again at who is connected to PostgreSQL; keeps the fullest moment."""

    def __init__(self, deployment: Deployment) -> None:
        self.fullest: Counter[str] = Counter()
        self._deployment = deployment
        self._ended = threading.Event()

    @contextmanager
    def looking(self) -> Iterator[None]:
        """Looks while the block runs."""
        thread = threading.Thread(target=self._look)
        thread.start()
        try:
            yield
        finally:
            self._ended.set()
            thread.join()

    def _look(self) -> None:
        with self._deployment.database() as connection:
            while not self._ended.wait(LOOK_SECONDS):
                now = Counter(name for (name,) in connection.execute(_CONNECTIONS))
                self.fullest = max(self.fullest, now, key=Counter.total)


@pytest.fixture(scope="module")
def run(standing_deployment: Deployment, sink: Sink) -> Run:
    """All jobs submitted, a few of them by the official SDK and waited for, and all settled."""
    deployment = standing_deployment
    deployment.reset()
    asked = asks(deployment.accounts, JOBS, seed=SEED, webhook_url=sink.url("/hook"))
    by_sdk = [ask for ask in asked if ask.body["model"].startswith("openai/gpt")][:BY_SDK]
    load = Load(deployment.base_url, [ask for ask in asked if ask not in by_sdk])
    watch = _Watch(deployment)
    placeholders = {}
    with watch.looking(), ThreadPoolExecutor(BY_SDK) as pool:
        with load.running():
            for ask in by_sdk:
                placeholders[ask.key] = _create(deployment, ask)
            waits = [pool.submit(_wait, deployment, ask, placeholders[ask.key]) for ask in by_sdk]
        deployment.wait_settled(SETTLE_SECONDS)
    accepted = [*load.accepted, *(wait.result() for wait in waits)]
    return Run(accepted, placeholders, watch.fullest)


def _sdk(deployment: Deployment, ask: Ask) -> OpenAI:
    return OpenAI(base_url=f"{deployment.base_url}/v1", api_key=ask.account.api_key, max_retries=0)


def _create(deployment: Deployment, ask: Ask) -> ChatCompletion:
    """An ordinary call by the official SDK, with our fields beside it."""
    ours: dict[str, Any] = {
        name: value for name, value in ask.body.items() if name not in ("model", "messages")
    }
    with _sdk(deployment, ask) as client:
        completion: ChatCompletion = client.chat.completions.create(
            model=ask.body["model"],
            messages=ask.body["messages"],
            extra_body=ours,
            extra_headers={"Idempotency-Key": ask.key},
        )
    return completion


def _wait(deployment: Deployment, ask: Ask, placeholder: ChatCompletion) -> Accepted:
    """Waits for the job on the server's side."""
    job_id = placeholder.id.replace("chatcmpl-", "job_")
    with deployment.client(ask.account.api_key) as client:
        job = client.get(f"/v1/jobs/{job_id}", params={"wait": 25}).raise_for_status().json()
    return Accepted(ask, job["id"], replayed=False)


def test_two_thousand_jobs_are_each_answered_billed_and_told_exactly_once(
    run: Run, standing_deployment: Deployment, sink: Sink
) -> None:
    facts = audit(standing_deployment, run.accepted, sink)
    assert len(facts.jobs) == JOBS
    assert not any(each.replayed for each in run.accepted)
    assert {row["provider"] for row in facts.served} == {"openai", "anthropic"}


def test_the_official_sdk_parses_the_202_and_retrieves_the_completion(
    run: Run, standing_deployment: Deployment
) -> None:
    asked = {each.ask.key: each.ask for each in run.accepted}
    for key, placeholder in run.placeholders.items():
        assert placeholder.choices[0].message.content is None
        assert placeholder.usage is None
        with _sdk(standing_deployment, asked[key]) as client:
            completion = client.chat.completions.retrieve(placeholder.id)
        mark = "echo:" + hashlib.sha256(asked[key].text.encode()).hexdigest()[:12]
        assert mark in (completion.choices[0].message.content or "")
        assert completion.id == placeholder.id
        assert completion.usage is not None


def test_the_default_formation_needs_18_database_connections_at_most(run: Run) -> None:
    print("connections", dict(run.connections))
    assert {"offpeak-web", "offpeak-worker", "offpeak-scheduler"} <= run.connections.keys()
    assert run.connections.total() <= CONNECTIONS_MOST
