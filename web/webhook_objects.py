"""The objects that the webhook routes answer; see `web.objects`."""

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from gateway.webhooks.events import EventType
from models.states import DeliveryStatus
from web.objects import UnixSeconds

EndpointId = Annotated[str, Field(pattern="^whe_[0-9a-f]{32}$")]
DeliveryId = Annotated[str, Field(pattern="^dlv_[0-9a-f]{32}$")]


class WebhookSecret(BaseModel):
    """What the webhooks of the account's own jobs are signed with."""

    object: Literal["webhook_secret"]
    secret: Annotated[str, Field(pattern="^whsec_")]


class WebhookEndpoint(BaseModel):
    """A URL that is told of every event of some types."""

    id: EndpointId
    object: Literal["webhook_endpoint"]
    name: str
    url: str
    event_types: list[EventType]
    include_result: bool
    enabled: bool
    disabled_at: UnixSeconds | None
    disabled_reason: str | None
    failing_since: UnixSeconds | None
    signing_secret_hint: str
    created_at: UnixSeconds
    updated_at: UnixSeconds


class WebhookEndpointWithSecret(WebhookEndpoint):
    """The endpoint and its signing secret, which is not shown again."""

    signing_secret: Annotated[str, Field(pattern="^whsec_")]


class WebhookEndpointPage(BaseModel):
    """A page of endpoints, newest first."""

    object: Literal["list"]
    data: list[WebhookEndpoint]
    first_id: EndpointId | None
    last_id: EndpointId | None
    has_more: bool


class DeletedWebhookEndpoint(BaseModel):
    """An endpoint that is no more."""

    id: EndpointId
    object: Literal["webhook_endpoint.deleted"]
    deleted: Literal[True]


class WebhookEventTypes(BaseModel):
    """Everything that an endpoint can be told of."""

    object: Literal["list"]
    data: list[EventType]


class WebhookTestResult(BaseModel):
    """What the endpoint answered to a sample."""

    object: Literal["webhook_endpoint.test"]
    webhook_endpoint_id: EndpointId
    event_type: EventType
    status_code: int
    success: bool


class WebhookAttempt(BaseModel):
    """One request to the endpoint."""

    number: int
    started_at: UnixSeconds
    finished_at: UnixSeconds | None
    status_code: int | None
    error: str | None
    response_excerpt: str | None


class WebhookDelivery(BaseModel):
    """One event's way to one URL."""

    id: DeliveryId
    object: Literal["webhook_delivery"]
    webhook_endpoint_id: EndpointId | None
    event_id: Annotated[str, Field(pattern="^evt_[0-9a-f]{32}$")]
    event_type: EventType
    url: str
    status: DeliveryStatus
    next_attempt_at: UnixSeconds | None
    created_at: UnixSeconds
    finished_at: UnixSeconds | None
    attempts: list[WebhookAttempt]


class WebhookDeliveryPage(BaseModel):
    """A page of deliveries, newest first."""

    object: Literal["list"]
    data: list[WebhookDelivery]
    first_id: DeliveryId | None
    last_id: DeliveryId | None
    has_more: bool


class WebhookRecovered(BaseModel):
    """How many deliveries are sent again; with `has_more`, ask once more."""

    object: Literal["webhook_endpoint.recovery"]
    webhook_endpoint_id: EndpointId
    recovered: int
    has_more: bool
