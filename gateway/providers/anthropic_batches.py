"""Anthropic's message batches and result lines, read into the words of `dialect`. Pure."""

from gateway.providers.anthropic_completion import to_completion
from gateway.providers.dialect import BatchReport, BatchState, Broken, LineOutcome, LineResult
from gateway.providers.errors import error_fields
from gateway.providers.fields import JsonObject, count, decode_object, mapping, moment, text
from gateway.providers.lines import usable_custom_id
from gateway.providers.scrub import scrub
from gateway.providers.usage import anthropic_usage

_STATES = {
    "in_progress": BatchState.RUNNING,
    "canceling": BatchState.CANCELLING,
    "ended": BatchState.ENDED,
}
_COUNTS = ("processing", "succeeded", "errored", "canceled", "expired")
_REJECTED_STATUSES = frozenset({400, 403, 404, 413})


def read_batch(batch: JsonObject) -> BatchReport:
    """A message batch; Broken without id, status and time. Unknown statuses count as running."""
    external_id = text(batch.get("id"))
    status = text(batch.get("processing_status"))
    created_at = moment(batch.get("created_at"))
    if external_id is None or status is None or created_at is None:
        raise Broken("a batch object lacks its id, status or time")
    counts = mapping(batch.get("request_counts"))
    retention_over = batch.get("archived_at") is not None
    # The address itself is not followed: the key would go wherever it points.
    has_results = text(batch.get("results_url")) is not None and not retention_over
    return BatchReport(
        external_id=external_id,
        state=_STATES.get(status, BatchState.RUNNING),
        status=status,
        created_at=created_at,
        request_count=sum(count(counts.get(name)) or 0 for name in _COUNTS) or None,
        batch_ref=None,
        result_files=(external_id,) if has_results else (),
        retention_over=retention_over,
        answered_count=count(counts.get("succeeded")),
    )


def read_line(line: bytes, created: int) -> LineResult:
    """One line of a results file; its completion gets `created`, in Unix seconds."""
    try:
        fields = decode_object(line)
    except ValueError:
        raise Broken("a result line is not a JSON object") from None
    custom_id = usable_custom_id(fields)
    result = mapping(fields.get("result"))
    match result.get("type"):
        case "succeeded":
            message = mapping(result.get("message"))
            return LineResult(
                custom_id,
                LineOutcome.SUCCEEDED,
                body=to_completion(message, created),
                usage=anthropic_usage(message),
                service_tier=text(mapping(message.get("usage")).get("service_tier")),
                status=200,
            )
        case "errored":
            return _errored(custom_id, mapping(result.get("error")))
        case "canceled":
            return LineResult(custom_id, LineOutcome.CANCELLED, error="the batch was cancelled")
        case "expired":
            error = "the batch expired before this request was executed"
            return LineResult(custom_id, LineOutcome.EXPIRED, error=error)
        case _:
            raise Broken("a result line has a result of no known type")


def _errored(custom_id: str, answer: JsonObject) -> LineResult:
    """`answer` is a whole error answer, the error proper inside it."""
    error = error_fields(answer if "error" in answer else {"error": answer})
    rejected = error.status in _REJECTED_STATUSES and not error.is_money
    return LineResult(
        custom_id,
        LineOutcome.REJECTED if rejected else LineOutcome.RETRYABLE,
        error=scrub(error.message or "the provider gave no reason"),
        status=error.status,
    )
