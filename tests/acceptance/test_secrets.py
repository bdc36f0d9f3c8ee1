"""Secrets and prompts stay where they belong, and a key that is revoked is refused everywhere."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import redis
from psycopg import sql

from tests.acceptance.deployment import METRICS_TOKEN, Account, Deployment
from tests.acceptance.load import CHAT, MODELS
from tests.integration.webhook_sink import Sink

PLANTED = "the-badger-digs-at-dawn"
PROVIDER_KEY = "sk-planted-key-of-the-customers-own-0123"
BELIEVED_SECONDS = 2.0
CALLS = 48
SETTLE_SECONDS = 60.0
_TABLES = """
    SELECT relname FROM pg_class
    WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace
"""
_HOLDS = """
    SELECT 1 FROM {} AS held
    WHERE position(%s IN held::text) > 0 OR position(%s IN held::text) > 0 LIMIT 1
"""
_TEXTS = {"job_bodies", "job_results", "idempotency_keys"}
"""Where prompts and completions are kept, and nothing else is."""


class _Overheard:
    """Every command that anybody sends to Redis."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._listening = threading.Event()
        self.commands: list[str] = []

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Listens while the block runs."""
        with redis.Redis.from_url(self._url) as client, client.monitor() as monitor:
            thread = threading.Thread(target=self._listen, args=(monitor,))
            thread.start()
            assert self._listening.wait(10)
            try:
                yield
            finally:
                with redis.Redis.from_url(self._url) as last:
                    last.echo("over")
                thread.join()

    def _listen(self, monitor: Any) -> None:
        self._listening.set()
        for each in monitor.listen():
            if each["command"] == "ECHO over":
                return
            self.commands.append(each["command"])


@pytest.fixture
def account(deployment: Deployment) -> Account:
    return deployment.accounts[0]


def made_secrets(client: httpx.Client, sink: Sink) -> list[str]:
    """Secrets of every kind, as an account's owner makes them."""
    key = client.post("/v1/keys", json={"name": "planted"}).raise_for_status().json()
    rotated = client.post(f"/v1/keys/{key['id']}/rotate").raise_for_status().json()
    endpoint = {
        "name": "planted",
        "url": sink.url("/hook"),
        "event_types": ["job.completed", "job.failed"],
    }
    hook = client.post("/v1/webhook_endpoints", json=endpoint).raise_for_status().json()
    widget = client.post("/ai/widget/key", json={}).raise_for_status().json()
    own = client.put("/ai/providers/groq/key", json={"key": PROVIDER_KEY})
    own.raise_for_status()
    client.delete(f"/v1/webhook_endpoints/{hook['id']}").raise_for_status()
    return [key["api_key"], rotated["api_key"], hook["signing_secret"], widget["key"], PROVIDER_KEY]


def calls(client: httpx.Client, sink: Sink) -> list[str]:
    """Calls of every kind with a planted prompt; the errors among the answers."""
    chat = {"model": MODELS["openai"], "messages": [{"role": "user", "content": PLANTED}]}
    for more in (
        {},
        {"stream": True},
        {"prefer_async": True, "webhook": {"url": sink.url("/hook")}},
        {"prefer_async": True, "model": MODELS["anthropic"]},
    ):
        client.post(CHAT, json={**chat, **more}).raise_for_status()
    refused = [
        client.post(CHAT, json={**chat, "temperature": 9}),
        client.post(CHAT, json={**chat, "max_cost_usd": PLANTED}),
        client.post(CHAT, json={**chat, "messages": PLANTED}),
        client.post(CHAT, json={**chat, "tools": [PLANTED]}),
        client.post(CHAT, content=f'{{"messages": "{PLANTED}'.encode()),
        client.post("/ai/chat", json={"messages": [{"role": PLANTED}]}),
        client.get("/v1/nothing", params={"prompt": PLANTED}),
        client.get("/v1/jobs", params={"after": PLANTED}),
        client.get("/v1/models", headers={"Authorization": f"Bearer {PLANTED}"}),
    ]
    assert all(400 <= each.status_code < 500 for each in refused)
    return [each.text for each in refused]


def test_what_was_planted_is_in_no_log_message_metric_error_or_table(
    deployment: Deployment, account: Account, sink: Sink
) -> None:
    overheard = _Overheard(deployment.redis.url())
    with overheard.listening(), deployment.client(account.api_key) as client:
        secrets = made_secrets(client, sink)
        errors = calls(client, sink)
        deployment.wait_settled(SETTLE_SECONDS)
        token = {"Authorization": f"Bearer {METRICS_TOKEN}"}
        metrics = client.get("/metrics", headers=token).raise_for_status().text
        audit_log = client.get("/v1/audit_log").raise_for_status().text
        client.delete("/ai/providers/groq/key").raise_for_status()
    assert len(overheard.commands) > 20
    assert "offpeak_" in metrics
    assert "api_key.rotated" in audit_log
    told = {
        "Redis": "\n".join(overheard.commands),
        "the metrics": metrics,
        "the audit log": audit_log,
        "an error": "\n".join(errors),
        **{
            f"the log of {path.stem}": path.read_text()
            for path in deployment.logs.glob("*.log")
            # The provider is nobody of ours.
            if path.stem != "simulator"
        },
    }
    assert len(told) >= 7
    unsaid = [*secrets, account.api_key, account.webhook_secret, PLANTED]
    assert [(place, each) for place, text in told.items() for each in unsaid if each in text] == []
    found = set(in_the_clear(deployment, unsaid))
    assert ("job_bodies", PLANTED) in found
    assert found <= {(table, PLANTED) for table in _TEXTS}


def in_the_clear(deployment: Deployment, secrets: list[str]) -> Iterator[tuple[str, str]]:
    """Which table holds which of them as it is."""
    with deployment.database() as connection:
        for (table,) in connection.execute(_TABLES).fetchall():
            for secret in secrets:
                # As text, and as the bytes that a text is in a column of bytes.
                wanted = (secret, secret.encode().hex())
                query = sql.SQL(_HOLDS).format(sql.Identifier(table))
                if connection.execute(query, wanted).fetchone() is not None:
                    yield table, secret


def test_a_revoked_key_is_refused_by_every_process_within_two_seconds(
    deployment: Deployment, account: Account
) -> None:
    # Three rounds of calls within a minute: the limit may not answer before the key does.
    exit_status, made = deployment.command(
        "keys", "create", account.id, "--requests-per-minute", str(4 * CALLS)
    )
    assert exit_status == 0

    def status(_: int) -> int:
        connection = HTTPConnection(urlsplit(deployment.base_url).netloc, timeout=30)
        with closing(connection):
            connection.request("GET", "/v1/models", headers={"X-API-Key": made["api_key"]})
            return connection.getresponse().status

    with ThreadPoolExecutor(16) as pool:
        # So many connections at once that both workers remember the key.
        assert set(pool.map(status, range(CALLS))) == {200}
        exit_status, answer = deployment.command("keys", "revoke", made["key_id"])
        revoked_at = time.monotonic()
        assert (exit_status, answer["revoked"]) == (0, True)
        assert set(pool.map(status, range(CALLS))) <= {200, 401}
        time.sleep(max(0.0, revoked_at + BELIEVED_SECONDS - time.monotonic()))
        assert set(pool.map(status, range(CALLS))) == {401}
