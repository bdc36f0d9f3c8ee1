"""`/ai/providers`, and calls that are made with what was configured there."""

import io
import json
import logging
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any
from uuid import UUID

import gevent
import pytest
import redis
from sqlalchemy import event, text
from werkzeug.test import TestResponse

from gateway.access import credentials, rewrapping
from gateway.access.credentials import DATA_KEY, OwnKey, open_key
from gateway.access.rewrapping import DATA_KEYS, WEBHOOK_SECRETS
from gateway.access.vault import SealBroken, Vault
from gateway.billing.pricing import PriceBook
from gateway.house import build
from gateway.lanes import grouping, ingestion, polling, submission
from gateway.lanes.leases import LeaseKeeper
from gateway.lanes.works import Works
from models.session import transaction
from settings import logs
from tests.contract.simulator_process import SimulatorProcess
from tests.integration.web_world import (
    ASYNC_BODY,
    CHAT,
    CHAT_BODY,
    SAYS_HI,
    Customer,
    Web,
    at_once,
    error_of,
    job_path,
    job_uuid,
    make_web,
)
from web import fresh

PROVIDERS = "/ai/providers"
OWN, NEW = "sk-own-planted-0123456789abcdef", "sk-new-planted-fedcba9876543210"
CLAUDE: Mapping[str, Any] = {"model": "claude-haiku-4-5", "messages": SAYS_HI, "max_tokens": 9}


def put(web: Web, customer: Customer, provider: str = "openai", key: str = OWN) -> TestResponse:
    return web.client(customer).put(f"{PROVIDERS}/{provider}/key", json={"key": key})


def rotate(web: Web, customer: Customer, key: str = NEW, provider: str = "openai") -> TestResponse:
    return web.client(customer).post(f"{PROVIDERS}/{provider}/rotate", json={"key": key})


def delete(web: Web, customer: Customer, provider: str = "openai") -> TestResponse:
    return web.client(customer).delete(f"{PROVIDERS}/{provider}/key")


def listed(web: Web, customer: Customer) -> list[dict[str, Any]]:
    response = web.client(customer).get(PROVIDERS)
    assert response.status_code == 200
    found: list[dict[str, Any]] = response.get_json()["providers"]
    return found


def metered(provider: SimulatorProcess) -> set[str]:
    """The keys that the provider would bill."""
    return {row["key"] for row in provider.meter()}


def own_key(web: Web, customer: Customer) -> OwnKey:
    with transaction(web.engine) as session:
        (key,) = credentials.current(session, customer.account_id)
    return key


@pytest.mark.promise("E6", "E7", "E8", "E9", "E51", "E52")
def test_a_key_is_put_listed_rotated_and_deleted(web: Web, customer: Customer) -> None:
    assert listed(web, customer) == []
    assert put(web, customer).get_json() == {"provider": "openai", "configured": True}
    (shown,) = listed(web, customer)
    assert (shown["provider"], shown["configured"]) == ("openai", True)
    assert (shown["keyPreview"], shown["version"], shown["rotatedAt"]) == ("sk-…cdef", 1, None)
    assert rotate(web, customer).get_json() == {"provider": "openai", "configured": True}
    (shown,) = listed(web, customer)
    assert (shown["keyPreview"], shown["version"]) == ("sk-…3210", 2)
    assert shown["rotatedAt"] >= shown["createdAt"]
    assert delete(web, customer).get_json() == {"provider": "openai", "configured": False}
    assert listed(web, customer) == []
    assert web.column("SELECT count(sealed) FROM provider_keys") == [0]
    actions = web.column("SELECT action FROM audit_log ORDER BY id")
    assert actions == [f"provider_key.{done}" for done in ("configured", "rotated", "removed")]
    for secret in (OWN, NEW):
        assert web.column("SELECT 1 FROM audit_log WHERE changes::text LIKE :s", s=secret) == []


def test_the_same_key_put_again_changes_nothing_and_another_begins_anew(
    web: Web, customer: Customer
) -> None:
    put(web, customer)
    first = own_key(web, customer)
    put(web, customer)
    assert own_key(web, customer) == first
    put(web, customer, key=NEW)
    second = own_key(web, customer)
    assert (second.version, second.reference) == (2, first.reference.replace(":v1", ":v2"))
    rotate(web, customer, key=OWN)
    third = own_key(web, customer)
    assert (third.version, third.reference) == (3, second.reference)


def test_keys_put_at_the_same_time_leave_one_and_no_version_twice(
    web: Web, customer: Customer
) -> None:
    keys = [f"{OWN}{number}" for number in range(8)]
    answers = at_once([partial(put, web, customer, key=key) for key in keys])
    assert {answer.status_code for answer in answers} == {200}
    versions = web.column("SELECT version FROM provider_keys ORDER BY version")
    assert versions == list(range(1, 9))
    vault = web.state.house.data_key_vault
    assert open_key(vault, own_key(web, customer)) in keys
    assert web.column("SELECT version FROM provider_keys WHERE replaced_at IS NULL") == [8]


@pytest.mark.promise("E50")
@pytest.mark.parametrize("provider", ["openai", "anthropic", "gemini", "groq", "deepseek"])
def test_every_provider_takes_a_key(web: Web, customer: Customer, provider: str) -> None:
    assert put(web, customer, provider).status_code == 200
    assert [each["provider"] for each in listed(web, customer)] == [provider]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"key": None},
        {"key": ""},
        {"key": "short"},
        {"key": f"{OWN}\n"},
        {"key": "sk-ünicode-0123456789"},
        {"key": OWN, "other": 1},
        {"key": "k" * 513},
        {"key": f"{OWN} {OWN}"},
    ],
)
def test_what_is_no_key_is_refused_without_being_repeated(
    web: Web, customer: Customer, body: dict[str, Any]
) -> None:
    response = web.client(customer).put(f"{PROVIDERS}/openai/key", json=body)
    assert response.status_code == 400
    assert response.get_json()["error"] == "BAD_REQUEST"
    assert OWN not in response.text
    assert listed(web, customer) == []


def test_what_is_not_there_is_not_found(web: Web, customer: Customer) -> None:
    for response in (
        put(web, customer, "nobody"),
        rotate(web, customer),
        delete(web, customer),
        delete(web, customer, "nobody"),
    ):
        assert response.status_code == 404
        assert response.get_json()["error"] == "NOT_FOUND"


def test_a_key_is_its_accounts_own(
    web: Web, customer: Customer, provider: SimulatorProcess
) -> None:
    stranger = web.customer()
    put(web, customer)
    assert listed(web, stranger) == []
    assert delete(web, stranger).status_code == 404
    assert web.client(stranger).post(CHAT, json=CHAT_BODY).status_code == 200
    assert metered(provider) == {"sim-openai"}
    assert len(listed(web, customer)) == 1


def test_calls_are_made_with_ones_own_key_and_cost_nothing_here(
    web: Web, customer: Customer, provider: SimulatorProcess
) -> None:
    before = web.available_nanos(customer)
    put(web, customer)
    answer = web.client(customer).post(CHAT, json=CHAT_BODY)
    assert (answer.status_code, answer.headers["X-Cost-Usd"]) == (200, "0")
    streamed = web.client(customer).post(CHAT, json={**CHAT_BODY, "stream": True})
    assert streamed.data.endswith(b"data: [DONE]\n\n")
    assert metered(provider) == {OWN}
    web.settled()
    assert web.available_nanos(customer) == before
    settled = web.column(
        "SELECT (cost_nanos, charged_nanos, markup_bps, output > 0)::text FROM settlements"
    )
    assert settled == ["(0,0,-10000,t)"] * 2
    assert web.column("SELECT max(amount_nanos) FROM holds") == [0]
    web.assert_books_are_clean()


def test_an_account_without_money_may_call_with_its_own_key(web: Web) -> None:
    poor = web.customer(credit_usd=0)
    assert web.client(poor).post(CHAT, json=CHAT_BODY).status_code == 402
    put(web, poor)
    assert web.client(poor).post(CHAT, json=CHAT_BODY).status_code == 200


def test_a_key_that_another_process_changed_is_used_in_a_moment(
    web: Web, customer: Customer, provider: SimulatorProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fresh, "FRESH_SECONDS", 0.3)
    web.client(customer).post(CHAT, json=CHAT_BODY)
    with transaction(web.engine) as session:
        vault = web.state.house.data_key_vault
        credentials.put(session, vault, customer.account_id, "openai", OWN)
    gevent.sleep(0.31)
    web.client(customer).post(CHAT, json=CHAT_BODY)
    assert metered(provider) == {"sim-openai", OWN}


def test_keys_are_looked_up_once_in_a_moment_and_not_with_each_call(
    web: Web, customer: Customer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fresh, "FRESH_SECONDS", 60.0)
    asked: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if "provider_keys" in statement:
            asked.append(statement)

    engine = web.state.house.engine
    event.listen(engine, "before_cursor_execute", note)
    try:
        for _ in range(5):
            assert web.client(customer).post(CHAT, json=CHAT_BODY).status_code == 200
    finally:
        event.remove(engine, "before_cursor_execute", note)
    assert len(asked) == 1


def test_a_refused_key_is_a_403_for_who_waits_for_an_answer_too(
    web: Web, customer: Customer, provider: SimulatorProcess
) -> None:
    put(web, customer)
    provider.turn(revoked_keys=[OWN])
    headers = {"Prefer": "respond-async, wait=20"}
    response = web.client(customer).post(CHAT, json=CHAT_BODY, headers=headers)
    assert error_of(response)["type"] == "forbidden"
    flat = web.client(customer).post("/ai/chat", json=dict(CHAT_BODY))
    assert (flat.status_code, flat.get_json()["error"]) == (403, "FORBIDDEN")
    web.assert_books_are_clean()


@pytest.mark.parametrize("stream", [False, True])
def test_a_key_that_the_provider_refuses_is_a_403_and_trips_nobodys_circuit(
    web: Web, customer: Customer, provider: SimulatorProcess, stream: bool
) -> None:
    put(web, customer)
    provider.turn(revoked_keys=[OWN])
    body = {**CHAT_BODY, "stream": stream}
    for _ in range(6):
        response = web.client(customer).post(CHAT, json=body)
        error = error_of(response)
        assert (response.status_code, error["type"]) == (403, "forbidden")
        assert error["message"].startswith("openai did not accept your own key: ")
        assert OWN not in response.text
    assert web.client(web.customer()).post(CHAT, json=CHAT_BODY).status_code == 200
    web.settled()
    assert web.column("SELECT count(*) FROM holds WHERE status = 'open'") == [0]
    web.assert_books_are_clean()


@pytest.fixture(scope="module")
def lonely_web(
    worker_services: Any, worker_database_url: str, provider_process: SimulatorProcess
) -> Iterator[Web]:
    """A web process whose house has a key for OpenAI only, and takes five percent."""
    with make_web(
        worker_database_url,
        worker_services.url("redis"),
        None,
        openai_api_key="sim-openai",
        openai_base_url=provider_process.openai_url,
        anthropic_base_url=provider_process.url,
        byok_fee_percent="5",
    ) as made:
        yield made


@pytest.fixture
def lonely(lonely_web: Web, web: Web) -> Iterator[Web]:  # noqa: ARG001 (empties the database)
    lonely_web.renew()
    yield lonely_web
    lonely_web.close()


def test_ones_own_key_opens_a_provider_that_the_house_has_none_for(
    lonely: Web, provider: SimulatorProcess
) -> None:
    customer = lonely.customer()
    client = lonely.client(customer)
    assert client.post(CHAT, json=CLAUDE).status_code == 404
    before = {model["id"] for model in client.get("/v1/models").get_json()["data"]}
    named = {model["id"] for model in client.get("/ai/models").get_json()["models"]}
    put(lonely, customer, "anthropic")
    answer = client.post(CHAT, json=CLAUDE)
    assert answer.status_code == 200
    assert metered(provider) == {OWN}
    after = {model["id"] for model in client.get("/v1/models").get_json()["data"]}
    assert "anthropic/claude-haiku-4-5" in after - before
    assert named < {model["id"] for model in client.get("/ai/models").get_json()["models"]}
    stranger = lonely.client(lonely.customer())
    assert {model["id"] for model in stranger.get("/v1/models").get_json()["data"]} == before


def test_the_fee_is_a_part_of_the_price_held_and_charged(
    lonely: Web, provider: SimulatorProcess
) -> None:
    paying, bringing = lonely.customer(), lonely.customer()
    body = {**CHAT_BODY, "max_tokens": 1000, "messages": [{"role": "user", "content": "x" * 900}]}
    lonely.client(paying).post(CHAT, json=body)
    put(lonely, bringing)
    lonely.client(bringing).post(CHAT, json=body)
    lonely.settled()
    assert metered(provider) == {"sim-openai", OWN}
    rows = lonely.column(
        "SELECT jsonb_build_array(cost_nanos, charged_nanos, amount_nanos) FROM settlements "
        "JOIN holds USING (id) ORDER BY id"
    )
    (cost, charged, held), (own_cost, fee, own_held) = rows
    assert (cost, own_cost) == (charged, 0)
    assert fee == round(charged * 0.05)
    assert 0 < own_held <= held * 0.05 + 1
    lonely.assert_books_are_clean()


def run_lanes(web: Web, spool: Any) -> None:
    """What the worker would do until every provider batch is done."""
    house = build(web.settings, name="lanes", pool_size=3)
    works = Works(
        house.engine,
        house.dialects,
        house.lane_credentials(),
        house.policy,
        LeaseKeeper(house.engine),
        house.catalogue.tier_prices,
        spool,
    )
    prices = PriceBook()
    with transaction(house.engine) as session:
        session.execute(text("UPDATE jobs SET created_at = now() - interval '1 hour'"))
        lanes = grouping.lane_ids(session)
    for batch_id in [each for lane_id in lanes for each in grouping.cut_lane(works, lane_id)]:
        submission.submit(works, batch_id)
    for _ in range(100):
        with transaction(house.engine) as session:
            session.execute(text("UPDATE provider_batches SET due_at = now()"))
        for batch_id in polling.poll_due(works):
            ingestion.ingest(works, prices, batch_id)
        if set(web.column("SELECT status FROM provider_batches")) <= {"done"}:
            break
    house.close()


def test_jobs_go_to_a_batch_of_ones_own_account_at_the_provider(
    web: Web, customer: Customer, provider: SimulatorProcess, tmp_path: Any
) -> None:
    put(web, customer)
    job_id, others = web.submit(customer), web.submit(web.customer())
    assert web.column("SELECT credential FROM lanes ORDER BY id") == [
        f"acct_{customer.account_id.hex}:v1",
        "house",
    ]
    run_lanes(web, tmp_path)
    assert {batch["key"] for batch in provider.batches()} == {OWN, "sim-openai"}
    shown = web.client(customer).get(job_path(job_id)).get_json()
    assert (shown["status"], shown["cost"]["billed_usd"]) == ("completed", "0")
    assert web.column("SELECT count(*) FROM jobs WHERE status = 'completed'") == [2]
    assert web.column("SELECT id FROM settlements WHERE cost_nanos > 0") == [others]
    web.assert_books_are_clean()


def test_a_key_that_is_revoked_before_its_job_is_submitted_fails_the_job_with_a_403(
    web: Web, customer: Customer, provider: SimulatorProcess, tmp_path: Any
) -> None:
    put(web, customer)
    job_id, others = web.submit(customer), web.submit(web.customer())
    provider.turn(revoked_keys=[OWN])
    run_lanes(web, tmp_path)
    result = web.client(customer).get(job_path(job_id, "/result"))
    assert result.status_code == 403
    assert error_of(result)["message"].startswith("openai did not accept your own key: ")
    assert result.headers["x-should-retry"] == "false"
    assert web.column("SELECT id FROM jobs WHERE status = 'completed'") == [others]
    web.assert_books_are_clean()


def everything_stored(web: Web) -> str:
    """All rows of all tables; bytes in hexadecimal."""
    tables = web.column("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    rows = [web.column(f"SELECT {table}::text FROM {table}") for table in tables]
    return "\n".join(row for found in rows for row in found)


@pytest.mark.promise("E49")
def test_a_planted_key_is_found_nowhere(
    web: Web, customer: Customer, provider: SimulatorProcess, redis_url: str, tmp_path: Any
) -> None:
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    handler.setFormatter(logs.JsonFormatter())
    root = logging.getLogger()
    root.addHandler(handler)
    level = root.level
    root.setLevel(logging.DEBUG)
    told = []
    try:
        client = web.client(customer)
        told += [put(web, customer), client.get(PROVIDERS), client.post(CHAT, json=CHAT_BODY)]
        told.append(client.post(CHAT, json={**CHAT_BODY, "stream": True}))
        jobs = [client.post(CHAT, json=ASYNC_BODY)]
        run_lanes(web, tmp_path)
        told.append(rotate(web, customer))
        provider.turn(revoked_keys=[OWN, NEW])
        told.append(client.post(CHAT, json=CHAT_BODY))
        told.append(client.put(f"{PROVIDERS}/openai/key", json=[NEW]))
        jobs.append(client.post(CHAT, json=ASYNC_BODY))
        run_lanes(web, tmp_path)
        told += [client.get(job_path(job_uuid(job), "/result")) for job in jobs]
        told += [*jobs, delete(web, customer)]
        told += [client.get(path) for path in ("/v1/audit_log", "/openapi.json", "/metrics")]
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
    web.settled()
    with redis.Redis.from_url(redis_url) as store:
        kept = repr([(key, store.dump(key)) for key in store.scan_iter()])
    places = [written.getvalue(), kept, everything_stored(web)]
    places += [f"{each.headers}{each.text}" for each in told]
    assert metered(provider) == {OWN}
    assert "batch.submission_failed" in written.getvalue()
    assert f"acct_{customer.account_id.hex}:v1" in places[2]
    for secret in (OWN, NEW):
        for part in (secret, secret[3:-4], secret[3:-4].encode().hex()):
            assert not [place for place in places if part in place]


def test_a_new_encryption_key_takes_over_without_a_moment_of_absence(
    web: Web, customer: Customer
) -> None:
    put(web, customer)
    endpoint = {"name": "e", "url": "http://127.0.0.1:9/", "event_types": ["job.completed"]}
    web.client(customer).post("/v1/webhook_endpoints", json=endpoint)
    key, old, new = own_key(web, customer), "e" * 32, "n" * 32
    changing = {
        **dict.fromkeys(DATA_KEYS, Vault(new, DATA_KEY, old)),
        **dict.fromkeys(WEBHOOK_SECRETS, Vault(new, "webhook-secret", old)),
    }
    assert open_key(changing[DATA_KEYS[0]], key) == OWN
    done = rewrapping.rewrap(web.engine, changing)
    assert (done.count, done.broken) == (3, [])
    assert rewrapping.rewrap(web.engine, changing).count == 0
    fresh = own_key(web, customer)
    assert fresh.sealed == key.sealed
    assert open_key(Vault(new, DATA_KEY), fresh) == OWN
    with pytest.raises(SealBroken):
        open_key(Vault(old, DATA_KEY), fresh)


def test_what_neither_key_opens_is_told_and_left_alone(web: Web, customer: Customer) -> None:
    put(web, customer)
    before = own_key(web, customer)
    strange = {place: Vault("x" * 32, DATA_KEY, "y" * 32) for place in DATA_KEYS}
    done = rewrapping.rewrap(web.engine, strange)
    assert (done.count, done.broken) == (0, [f"data_keys.sealed of {customer.account_id}"])
    assert own_key(web, customer) == before


def test_the_command_seals_anew_and_says_how_much(web: Web, customer: Customer) -> None:
    put(web, customer)
    urls = [web.settings.postgres_url, web.settings.redis_url.get_secret_value()]
    keys = {"encryption_key": "n" * 32, "encryption_key_previous": "e" * 32}
    with make_web(urls[0], urls[1], None, **keys) as renewed:
        result = renewed.app.test_cli_runner().invoke(args=["vault", "rewrap", "--json"])
        assert (result.exit_code, json.loads(result.output)) == (0, {"rewrapped": 2, "broken": []})
        again = renewed.app.test_cli_runner().invoke(args=["vault", "rewrap", "--json"])
        assert json.loads(again.output)["rewrapped"] == 0


def test_a_strangers_account_has_no_reference(web: Web, customer: Customer) -> None:
    put(web, customer)
    with transaction(web.engine) as session:
        assert credentials.current(session, UUID(int=1)) == []
        assert credentials.find(session, "anthropic", own_key(web, customer).reference) is None
