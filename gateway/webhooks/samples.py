"""A sample event, sent at its owner's word to see whether the endpoint takes it."""

from collections.abc import Sequence
from datetime import UTC, datetime

import httpx

from gateway.net.guard import check_url
from gateway.webhooks.bodies import body_of, sample_data
from gateway.webhooks.endpoints import EndpointView
from gateway.webhooks.events import EventType
from gateway.webhooks.signing import signed_headers
from gateway.webhooks.transport import post
from models import ids


def send_sample(
    transport: httpx.BaseTransport,
    endpoint: EndpointView,
    secrets: Sequence[str],
    event_type: EventType,
    *,
    allow_private: bool,
) -> int:
    """The HTTP status that the endpoint answers, whatever it is; nothing is recorded.

    Raises RefusedAddress before anything is dialled, httpx.TransportError when no answer came.
    """
    check_url(endpoint.url, allow_private=allow_private)
    event_id, now = ids.new(), datetime.now(UTC)
    data = sample_data(event_type, endpoint.id, endpoint.name, endpoint.url)
    body = body_of(event_id, event_type, now, data)
    message_id = ids.show(ids.Prefix.EVENT, event_id)
    headers = signed_headers(secrets, message_id, int(now.timestamp()), body)
    return post(transport, endpoint.url, headers, body).status
