"""Every dialect through the whole life of a batch, and through its faults, over real HTTP.

The simulator shares no code with the dialects: that the two agree on the wire is the test.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import pytest

from gateway.catalogue.usage import Usage
from gateway.net.http import HttpClients
from gateway.providers.dialect import (
    Ambiguous,
    BatchState,
    Broken,
    Credential,
    Endpoint,
    LineOutcome,
    ProviderError,
    Rejected,
    Unauthorized,
    Unavailable,
)
from tests.contract.account import CHAT, MODELS, Account, Json, body
from tests.contract.simulator_process import QUICK, SimulatorProcess, eventually

TOKEN_CLASSES = sorted(asdict(Usage()))


def echo(text: str) -> str:
    return "echo:" + hashlib.sha256(text.encode()).hexdigest()[:12]


def said(completion: Json | None) -> str:
    assert completion is not None
    content: str = completion["choices"][0]["message"]["content"]
    return content


@pytest.fixture(scope="module")
def process() -> Iterator[SimulatorProcess]:
    with SimulatorProcess() as running:
        yield running


@pytest.fixture(params=sorted(MODELS))
def account(
    request: pytest.FixtureRequest, process: SimulatorProcess, tmp_path: Path
) -> Iterator[Account]:
    process.reset(**QUICK)
    http = HttpClients()
    yield Account(request.param, process, http, tmp_path)
    http.close()


@pytest.fixture
def openai(process: SimulatorProcess, tmp_path: Path) -> Iterator[Account]:
    process.reset(**QUICK)
    http = HttpClients()
    yield Account("openai", process, http, tmp_path)
    http.close()


TEXTS = [f"question {number}" for number in range(20)]


def test_a_batch_lives_from_its_spool_to_its_last_line(account: Account) -> None:
    created = account.create(TEXTS)
    assert created.state in (BatchState.VALIDATING, BatchState.RUNNING)
    ended = account.ended(created.external_id)
    assert (ended.state, ended.request_count) == (BatchState.ENDED, len(TEXTS))
    assert ended.batch_ref == ("pbatch_1" if account.dialect.keeps_metadata else None)
    results = account.results(ended)
    for number, text in enumerate(TEXTS):
        line = results[f"job-{number}"]
        assert line.outcome is LineOutcome.SUCCEEDED
        assert said(line.body).startswith(echo(text))
    metered = {
        row["custom_id"]: Usage(**{name: row[name] for name in TOKEN_CLASSES})
        for row in account.simulator.lines()
    }
    assert {custom_id: line.usage for custom_id, line in results.items()} == metered


def test_a_call_answers_and_bills_as_its_line_in_a_batch_would(account: Account) -> None:
    # Long enough for a part of the prompt to come from the cache.
    text = "a long question " * 500
    answer = account.call(body(text))
    assert said(answer.body).startswith(echo(text))
    line = account.results(account.ended(account.create([text]).external_id))["job-0"]
    assert said(line.body) == said(answer.body)
    assert line.body is not None
    assert min(line.body["created"], answer.body["created"]) > 1_700_000_000
    assert line.usage == answer.usage
    (row,) = [row for row in account.simulator.meter() if row["lane"] == "standard"]
    assert asdict(answer.usage) == {name: row[name] for name in TOKEN_CLASSES}


def test_tools_and_schemas_come_through(account: Account) -> None:
    schema = {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
        "additionalProperties": False,
    }
    tool = {"type": "function", "function": {"name": "weather", "parameters": schema}}
    named = {"type": "function", "function": {"name": "weather"}}
    asked = body("weather?", tools=[tool], tool_choice=named)
    choice = account.call(asked).body["choices"][0]
    (tool_call,) = choice["message"]["tool_calls"]
    assert tool_call["function"]["name"] == "weather"
    result = {"role": "tool", "tool_call_id": tool_call["id"], "content": "sunny"}
    again = {**asked, "tool_choice": "auto"}
    again["messages"] = [*asked["messages"], choice["message"], result]
    assert account.call(again).usage is not None
    json_schema = {"name": "where", "schema": schema, "strict": True}
    answer = account.call(
        body("where?", response_format={"type": "json_schema", "json_schema": json_schema})
    )
    assert '"city"' in said(answer.body)


def test_embeddings_of_both_encodings_are_answers(openai: Account) -> None:
    for encoding in ("float", "base64"):
        answer = openai.dialect.call(
            openai.credential,
            Endpoint.EMBEDDINGS,
            "text-embedding-3-small",
            {"input": ["one", "two"], "encoding_format": encoding},
            10,
        )
        assert len(answer.body["data"]) == 2
        assert answer.usage is not None
        assert answer.usage.output == 0


def test_an_interrupted_upload_is_found_and_can_be_removed(openai: Account) -> None:
    openai.fill_spool(TEXTS)
    dialect, credential = openai.dialect, openai.credential
    uploaded = dialect.upload(credential, openai.spool, "pbatch_7.jsonl")
    assert uploaded is not None
    assert dialect.find_upload(credential, "pbatch_7.jsonl") == uploaded
    dialect.delete_file(credential, uploaded)
    dialect.delete_file(credential, uploaded)
    assert dialect.find_upload(credential, "pbatch_7.jsonl") is None


def test_many_batches_are_listed_newest_first_over_several_pages(account: Account) -> None:
    created = [account.create(["q"], f"pbatch_{number}").external_id for number in range(103)]
    assert [report.external_id for report in account.listed()] == created[::-1]


# Creations that go wrong.


@pytest.mark.parametrize(
    ("knob", "exists"),
    [("create_drop_before", False), ("create_drop_after", True), ("create_500_after", True)],
)
def test_a_creation_in_doubt_is_ambiguous_and_the_list_tells(
    account: Account, knob: str, exists: bool
) -> None:
    account.create(["before"], "pbatch_0")
    account.simulator.turn(**{knob: {"count": 1}})
    with pytest.raises(Ambiguous):
        account.create(TEXTS, "pbatch_1")
    assert len(account.listed()) == len(account.simulator.batches()) == 1 + exists
    if account.dialect.keeps_metadata:
        assert ("pbatch_1" in [report.batch_ref for report in account.listed()]) is exists


def test_a_file_that_is_not_visible_yet_makes_the_creation_unavailable(openai: Account) -> None:
    openai.simulator.turn(file_visibility_seconds=30)
    with pytest.raises(Unavailable):
        openai.create(TEXTS)
    assert openai.simulator.batches() == []


@pytest.mark.parametrize("retry_after", [7, None])
def test_a_full_queue_says_when_to_come_back(account: Account, retry_after: int | None) -> None:
    account.simulator.turn(rate_limit=1, rate_limit_create=1, retry_after=retry_after)
    for attempt in (lambda: account.create(TEXTS), lambda: account.call(body("hi"))):
        with pytest.raises(Unavailable) as caught:
            attempt()
        assert (caught.value.status, caught.value.retry_after_seconds) == (429, retry_after)


def test_an_empty_account_needs_an_operator(account: Account) -> None:
    account.simulator.turn(rate_limit=1, rate_limit_code="insufficient_quota")
    with pytest.raises(Unauthorized):
        account.call(body("hi"))


def test_a_revoked_key_is_unauthorized_and_not_quoted(account: Account) -> None:
    key = account.credential.api_key
    account.simulator.turn(revoked_keys=[key])
    for attempt in (lambda: account.create(TEXTS), lambda: account.call(body("hi"))):
        with pytest.raises(Unauthorized) as caught:
            attempt()
        assert key[:6] not in caught.value.message
        assert key[-4:] not in caught.value.message


# Calls that go wrong.


def test_an_unknown_model_is_rejected(account: Account) -> None:
    with pytest.raises(Rejected) as caught:
        account.dialect.call(account.credential, CHAT, "no-such-model", body("hi"), 10)
    assert caught.value.status == 404


@pytest.mark.parametrize("status", [500, 503, 529])
def test_a_server_error_may_be_tried_again(account: Account, status: int) -> None:
    account.simulator.turn(server_error={"count": 1}, server_error_status=status)
    with pytest.raises(Unavailable):
        account.call(body("hi"))
    assert account.call(body("hi")).usage is not None


@pytest.mark.parametrize(
    ("knobs", "code"),
    [
        ({"hang_seconds": 30}, "timeout"),
        ({"drip": 1, "drip_seconds": 0.05}, "timeout"),
        ({"half_response": {"count": 1}}, "connection"),
    ],
)
def test_an_answer_that_does_not_arrive_is_given_up(
    account: Account, knobs: Json, code: str
) -> None:
    account.simulator.turn(**knobs)
    with pytest.raises(Unavailable) as caught:
        account.call(body("hi"), timeout_seconds=0.5)
    assert caught.value.code == code


@pytest.mark.parametrize("knob", ["missing_usage", "negative_usage"])
def test_a_usage_that_was_not_told_is_none(account: Account, knob: str) -> None:
    account.simulator.turn(**{knob: 1})
    assert account.call(body("hi")).usage is None
    results = account.results(account.ended(account.create(["hi"]).external_id))
    assert results["job-0"].outcome is LineOutcome.SUCCEEDED
    assert results["job-0"].usage is None


# Batches that go wrong.


@pytest.mark.parametrize(
    ("status", "outcome"),
    [(400, LineOutcome.REJECTED), (429, LineOutcome.RETRYABLE), (500, LineOutcome.RETRYABLE)],
)
def test_lines_that_failed_are_told_apart(
    account: Account, status: int, outcome: LineOutcome
) -> None:
    account.simulator.turn(line_error={"count": 3}, line_error_status=status)
    ended = account.ended(account.create(TEXTS).external_id)
    failed = [line for line in account.results(ended).values() if line.body is None]
    assert [line.outcome for line in failed] == [outcome] * 3
    assert all(line.error and ended.external_id not in line.error for line in failed)


def test_a_batch_whose_every_line_failed_has_results_too(account: Account) -> None:
    account.simulator.turn(error_only=1)
    results = account.results(account.ended(account.create(TEXTS).external_id))
    assert len(results) == len(TEXTS)
    assert not any(line.outcome is LineOutcome.SUCCEEDED for line in results.values())


def test_an_ended_batch_may_not_name_its_files_yet(account: Account) -> None:
    account.simulator.turn(null_file_ids_moment_seconds=0.3, empty_string_error_file_id=1)
    external_id = account.create(TEXTS).external_id
    ended = account.ended(external_id)
    assert ended.result_files == ()
    files = eventually(lambda: account.get(external_id).result_files)
    assert len(files) == 1


def test_an_expired_batch_delivers_what_it_finished(account: Account) -> None:
    account.simulator.turn(expire_after_fraction=0.25)
    results = account.results(account.ended(account.create(TEXTS).external_id))
    outcomes = [line.outcome for line in results.values()]
    assert outcomes.count(LineOutcome.SUCCEEDED) == 5
    assert outcomes.count(LineOutcome.EXPIRED) == 15


def test_a_cancelled_batch_ends_and_cancelling_it_again_is_no_error(account: Account) -> None:
    account.simulator.turn(batch_seconds=30, batch_cancelling_seconds=0.2)
    external_id = account.create(TEXTS).external_id
    account.dialect.cancel_batch(account.credential, external_id)
    account.dialect.cancel_batch(account.credential, external_id)
    assert account.get(external_id).state is BatchState.CANCELLING
    ended = account.ended(external_id)
    account.dialect.cancel_batch(account.credential, external_id)
    outcomes = {line.outcome for line in account.results(ended).values()}
    assert outcomes <= {LineOutcome.CANCELLED, LineOutcome.SUCCEEDED}
    assert LineOutcome.CANCELLED in outcomes


def test_a_batch_that_failed_as_a_whole_names_its_lines(openai: Account) -> None:
    openai.simulator.turn(validation_failure={"count": 1, "lines": [2, 4]})
    failed = openai.ended(openai.create(TEXTS).external_id)
    assert (failed.state, failed.result_files) == (BatchState.FAILED, ())
    assert [fault.line for fault in failed.faults] == [2, 4]
    assert not failed.over_enqueued_tokens


def test_too_many_enqueued_tokens_are_told_apart(openai: Account) -> None:
    openai.simulator.turn(token_limit=5)
    failed = openai.ended(openai.create(TEXTS).external_id)
    assert (failed.state, failed.over_enqueued_tokens) == (BatchState.FAILED, True)


# Downloads that go wrong.


def test_a_download_cut_short_is_broken_and_can_be_repeated(account: Account) -> None:
    ended = account.ended(account.create(TEXTS).external_id)
    account.simulator.turn(truncate_download={"count": 1})
    with pytest.raises(Broken):
        account.lines(ended)
    assert len(account.results(ended)) == len(TEXTS)


def test_results_that_are_kept_no_longer_are_rejected_as_not_found(account: Account) -> None:
    ended = account.ended(account.create(TEXTS).external_id)
    account.simulator.turn(retention_expired=1)
    with pytest.raises(Rejected) as caught:
        account.lines(ended)
    assert caught.value.status == 404


def test_garbage_between_the_lines_costs_only_itself(account: Account) -> None:
    account.simulator.turn(garbage_lines=1)
    read: set[str] = set()
    broken = 0
    for line in account.lines(account.ended(account.create(TEXTS).external_id)):
        try:
            read.add(account.dialect.parse_line(line).custom_id)
        except Broken:
            broken += 1
    assert broken > 0
    assert read <= {f"job-{number}" for number in range(len(TEXTS))}


def test_a_provider_that_is_away_is_unavailable_to_everything(account: Account) -> None:
    credential = Credential("x", "house", "sk-1", "http://127.0.0.1:9")
    account.fill_spool(TEXTS)
    for attempt in (
        lambda: account.dialect.get_batch(credential, "b"),
        lambda: list(account.dialect.list_batches(credential, datetime.now(UTC))),
        lambda: account.dialect.create(credential, CHAT, "p", "f", account.spool),
        lambda: account.dialect.download(credential, "f", account.folder / "out"),
        lambda: account.dialect.cancel_batch(credential, "b"),
    ):
        with pytest.raises(ProviderError) as caught:
            attempt()
        assert type(caught.value) is Unavailable
