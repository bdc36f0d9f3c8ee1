"""The one place where every finished synchronous call is told of."""

from gateway.calls.realtime import STANDARD, Call
from gateway.calls.record import CallRecord, Trail
from web.state import State


def tell(
    parts: State, call: Call, trail: Trail, request_id: str, http_status: int, *, streamed: bool
) -> None:
    """Tells the process's observers that a call is over, however it ended."""
    priced = trail.amounts
    route = trail.route
    record = CallRecord(
        request_id=request_id,
        call_id=call.id,
        account_id=call.account_id,
        key_id=call.key_id,
        created_at=trail.created_at,
        endpoint=call.endpoint,
        model=call.route.model.id,
        asked_model=call.route.name,
        provider=None if route is None else route.offer.provider,
        lane=STANDARD,
        streamed=streamed,
        http_status=http_status,
        usage=trail.usage,
        cost_nanos=None if priced is None else priced.cost_nanos,
        charged_nanos=None if priced is None else priced.charged_nanos,
        unpriced=trail.is_settled and priced is None,
        latency_milliseconds=trail.milliseconds(),
        first_token_milliseconds=trail.first_token_milliseconds,
        attempts=tuple(trail.attempts),
        replayed=trail.replayed,
        source=call.source,
    )
    parts.observe(record)
