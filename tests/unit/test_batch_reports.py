"""Batch objects of both providers, from hand-written wire text."""

from datetime import UTC, datetime
from typing import Any

import pytest

from gateway.providers import anthropic_batches, openai_batches
from gateway.providers.dialect import BatchState, BatchTotals, Broken, LineFault

Json = dict[str, Any]
OPENAI_BATCH: Json = {
    "id": "batch_6a66",
    "object": "batch",
    "input_file_id": "file-In1",
    "status": "completed",
    "output_file_id": "file-Out1",
    "error_file_id": "file-Err1",
    "created_at": 1_795_305_600,
    "request_counts": {"total": 100, "completed": 95, "failed": 5},
    "metadata": {"offpeak_batch": "pbatch_1", "other": "x"},
    "errors": None,
}


def test_an_openai_batch_is_read() -> None:
    report = openai_batches.read_batch(OPENAI_BATCH)
    assert (report.external_id, report.state) == ("batch_6a66", BatchState.ENDED)
    assert report.created_at == datetime(2026, 11, 22, tzinfo=UTC)
    assert (report.request_count, report.batch_ref) == (100, "pbatch_1")
    assert report.input_file_id == "file-In1"
    assert report.result_files == ("file-Out1", "file-Err1")


@pytest.mark.parametrize(
    ("status", "state"),
    [
        ("validating", BatchState.VALIDATING),
        ("Validating", BatchState.VALIDATING),
        ("in_progress", BatchState.RUNNING),
        ("finalizing", BatchState.RUNNING),
        ("cancelling", BatchState.CANCELLING),
        ("completed", BatchState.ENDED),
        ("expired", BatchState.ENDED),
        ("cancelled", BatchState.ENDED),
        ("failed", BatchState.FAILED),
        ("something_new", BatchState.RUNNING),
    ],
)
def test_openai_statuses_are_normalized(status: str, state: BatchState) -> None:
    report = openai_batches.read_batch({**OPENAI_BATCH, "status": status})
    assert (report.state, report.status) == (state, status)


@pytest.mark.parametrize(
    ("output", "errors", "files"),
    [
        ("file-Out1", "", ("file-Out1",)),
        (None, "file-Err1", ("file-Err1",)),
        (None, None, ()),
        ("", "", ()),
    ],
)
def test_absent_files_are_null_or_empty(
    output: str | None, errors: str | None, files: tuple[str, ...]
) -> None:
    batch = {**OPENAI_BATCH, "output_file_id": output, "error_file_id": errors}
    assert openai_batches.read_batch(batch).result_files == files


def test_a_batch_of_the_bare_required_fields_is_read() -> None:
    report = openai_batches.read_batch(
        {"id": "batch_1", "status": "validating", "created_at": "2026-11-22T01:00:00+01:00"}
    )
    assert report.created_at == datetime(2026, 11, 22, tzinfo=UTC)
    assert (report.request_count, report.batch_ref, report.faults) == (None, None, ())


def test_the_lines_that_made_a_batch_fail_are_named() -> None:
    data = [
        {"code": "invalid_json_line", "message": "bad line of org-Ab12Cd34", "line": 3},
        {"code": "token_limit_exceeded", "message": None, "line": None},
    ]
    batch = {**OPENAI_BATCH, "status": "failed", "errors": {"object": "list", "data": data}}
    report = openai_batches.read_batch(batch)
    assert report.faults == (
        LineFault("invalid_json_line", "bad line of [id]", 3),
        LineFault("token_limit_exceeded", "the provider gave no reason", None),
    )
    assert report.over_enqueued_tokens
    assert not openai_batches.read_batch(OPENAI_BATCH).over_enqueued_tokens


ANTHROPIC_BATCH: Json = {
    "id": "msgbatch_01",
    "processing_status": "ended",
    "request_counts": {"processing": 0, "succeeded": 2, "errored": 1, "canceled": 0, "expired": 4},
    "created_at": "2026-11-22T00:00:00.123456789Z",
    "archived_at": None,
    "results_url": "https://elsewhere.test/steal",
}


def test_an_anthropic_batch_is_read_and_its_results_address_not_followed() -> None:
    report = anthropic_batches.read_batch(ANTHROPIC_BATCH)
    assert (report.state, report.request_count, report.batch_ref) == (BatchState.ENDED, 7, None)
    assert report.created_at == datetime(2026, 11, 22, 0, 0, 0, 123456, tzinfo=UTC)
    assert report.result_files == ("msgbatch_01",)
    assert not report.retention_over


@pytest.mark.parametrize(
    ("status", "state"),
    [
        ("in_progress", BatchState.RUNNING),
        ("canceling", BatchState.CANCELLING),
        ("something_new", BatchState.RUNNING),
    ],
)
def test_anthropic_statuses_are_normalized(status: str, state: BatchState) -> None:
    batch = {**ANTHROPIC_BATCH, "processing_status": status, "results_url": None}
    report = anthropic_batches.read_batch(batch)
    assert (report.state, report.result_files) == (state, ())


def test_an_archived_batch_has_no_results_any_more() -> None:
    report = anthropic_batches.read_batch(
        {**ANTHROPIC_BATCH, "archived_at": "2026-12-21T00:00:00Z"}
    )
    assert report.retention_over
    assert report.result_files == ()


@pytest.mark.parametrize("field", ["id", "status", "processing_status", "created_at"])
@pytest.mark.parametrize("value", [None, [], "", 10**30])
def test_a_batch_without_what_matters_is_broken(field: str, value: Any) -> None:
    for read, batch in (
        (openai_batches.read_batch, OPENAI_BATCH),
        (anthropic_batches.read_batch, ANTHROPIC_BATCH),
    ):
        if field in batch:
            with pytest.raises(Broken):
                read({**batch, field: value})


USAGE: Json = {
    "input_tokens": 1500,
    "input_tokens_details": {"cached_tokens": 1024},
    "output_tokens": 500,
    "output_tokens_details": {"reasoning_tokens": 300},
    "total_tokens": 2000,
}


def test_an_openai_batch_tells_what_all_its_answers_used() -> None:
    batch = {**OPENAI_BATCH, "model": "gpt-6-luna-2026-08-01", "usage": USAGE}
    report = openai_batches.read_batch(batch)
    assert (report.model, report.answered_count) == ("gpt-6-luna-2026-08-01", 95)
    assert report.totals == BatchTotals(input_uncached=476, cache_read=1024, output=500)


def test_totals_may_be_larger_than_any_one_call() -> None:
    usage = {"input_tokens": 2**40, "output_tokens": 2**35}
    report = openai_batches.read_batch({**OPENAI_BATCH, "usage": usage})
    assert report.totals == BatchTotals(2**40, 0, 2**35)


@pytest.mark.parametrize(
    "usage",
    [
        None,
        {},
        {**USAGE, "input_tokens": None},
        {**USAGE, "output_tokens": -1},
        {**USAGE, "input_tokens": 1023},
        {**USAGE, "output_tokens": True},
        {**USAGE, "output_tokens": 2**60},
        {**USAGE, "input_tokens_details": {"cached_tokens": "many"}},
    ],
)
def test_totals_that_are_missing_or_cannot_be_true_are_none(usage: Json | None) -> None:
    assert openai_batches.read_batch({**OPENAI_BATCH, "usage": usage}).totals is None


def test_an_anthropic_batch_only_counts_its_answers() -> None:
    report = anthropic_batches.read_batch(ANTHROPIC_BATCH)
    counted = ANTHROPIC_BATCH["request_counts"]["succeeded"]
    assert (report.answered_count, report.totals) == (counted, None)
