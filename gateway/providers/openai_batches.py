"""OpenAI's batch objects and result lines, read into the words of `dialect`. Pure."""

from gateway.providers.dialect import (
    BatchReport,
    BatchState,
    BatchTotals,
    Broken,
    LineFault,
    LineOutcome,
    LineResult,
)
from gateway.providers.errors import error_fields
from gateway.providers.fields import (
    JsonObject,
    count,
    decode_object,
    items,
    mapping,
    moment,
    text,
    total,
)
from gateway.providers.lines import require_answer, usable_custom_id
from gateway.providers.scrub import scrub
from gateway.providers.usage import openai_usage

BATCH_REF_KEY = "offpeak_batch"
_STATES = {
    "validating": BatchState.VALIDATING,
    "in_progress": BatchState.RUNNING,
    "finalizing": BatchState.RUNNING,
    "cancelling": BatchState.CANCELLING,
    "completed": BatchState.ENDED,
    "expired": BatchState.ENDED,
    "cancelled": BatchState.ENDED,
    "failed": BatchState.FAILED,
}
_LINE_CODES = {
    "batch_expired": LineOutcome.EXPIRED,
    "batch_cancelled": LineOutcome.CANCELLED,
}
_NOT_THE_BODYS_FAULT = frozenset({401, 402, 408, 409, 425, 429})


def read_batch(batch: JsonObject) -> BatchReport:
    """A batch object; Broken without id, status and time. Unknown statuses count as running."""
    external_id = text(batch.get("id"))
    status = text(batch.get("status"))
    created_at = moment(batch.get("created_at"))
    if external_id is None or status is None or created_at is None:
        raise Broken("a batch object lacks its id, status or time")
    errors = items(mapping(batch.get("errors")).get("data"))
    # Either file may be null, absent or "", and either may be there whatever the status.
    files = (text(batch.get("output_file_id")), text(batch.get("error_file_id")))
    counts = mapping(batch.get("request_counts"))
    return BatchReport(
        external_id=external_id,
        state=_STATES.get(status.lower(), BatchState.RUNNING),
        status=status,
        created_at=created_at,
        # The counter shows 0 until the lines have been read.
        request_count=count(counts.get("total")) or None,
        batch_ref=text(mapping(batch.get("metadata")).get(BATCH_REF_KEY)),
        input_file_id=text(batch.get("input_file_id")),
        result_files=tuple(file for file in files if file),
        faults=tuple(_fault(mapping(error)) for error in errors),
        over_enqueued_tokens=any(
            mapping(error).get("code") == "token_limit_exceeded" for error in errors
        ),
        model=text(batch.get("model")),
        answered_count=count(counts.get("completed")),
        totals=_totals(mapping(batch.get("usage"))),
    )


def _totals(usage: JsonObject) -> BatchTotals | None:
    """The batch's own sums: cached tokens are inside the input, and no written ones are told."""
    given, output = total(usage.get("input_tokens")), total(usage.get("output_tokens"))
    cached = total(mapping(usage.get("input_tokens_details")).get("cached_tokens", 0))
    if given is None or output is None or cached is None or cached > given:
        return None
    return BatchTotals(given - cached, cached, output)


def _fault(error: JsonObject) -> LineFault:
    message = scrub(text(error.get("message")) or "the provider gave no reason")
    return LineFault(text(error.get("code")), message, count(error.get("line")) or None)


def read_line(line: bytes) -> LineResult:
    """One line of an output or error file.

    An HTTP rejection leaves the line's own `error` null: it is in the response's body.
    """
    try:
        fields = decode_object(line)
    except ValueError:
        raise Broken("a result line is not a JSON object") from None
    custom_id = usable_custom_id(fields)
    response = mapping(fields.get("response"))
    body = mapping(response.get("body"))
    status = count(response.get("status_code"))
    if status is not None and 200 <= status < 300 and not body.get("error"):
        require_answer(body)
        return LineResult(
            custom_id,
            LineOutcome.SUCCEEDED,
            body=body,
            usage=openai_usage(body),
            service_tier=text(body.get("service_tier")),
            status=status,
        )
    if status is None and not fields.get("error"):
        raise Broken("a result line has neither a response nor an error")
    error = error_fields(body if body.get("error") else fields)
    return LineResult(
        custom_id,
        _outcome(status, error.codes),
        error=scrub(error.message or f"the provider answered with status {status}"),
        status=status,
    )


def _outcome(status: int | None, codes: tuple[str, ...]) -> LineOutcome:
    for code in codes:
        if code in _LINE_CODES:
            return _LINE_CODES[code]
    if status is None or status >= 500 or status in _NOT_THE_BODYS_FAULT:
        return LineOutcome.RETRYABLE
    if status >= 400 or "invalid_request_error" in codes:
        return LineOutcome.REJECTED
    return LineOutcome.RETRYABLE
