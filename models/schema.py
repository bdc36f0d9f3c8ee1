"""The whole schema in one place: every table, and what DDL cannot derive from the tables."""

from models.accounts import Account, ApiKey
from models.base import TRANSITION_FUNCTION, Base, transition_trigger
from models.batches import Lane, Line, OrphanBatch, ProviderBatch, Tick
from models.jobs import IdempotencyKey, Job, JobBody, JobResult
from models.ledger import Balance, Hold, Price, Settlement, Transfer
from models.states import (
    BATCH_TRANSITIONS,
    DELIVERY_TRANSITIONS,
    HOLD_TRANSITIONS,
    JOB_TRANSITIONS,
    LINE_TRANSITIONS,
)
from models.webhooks import Delivery, DeliveryAttempt, Event

TABLES = (
    Account,
    ApiKey,
    Balance,
    Hold,
    Transfer,
    Price,
    Settlement,
    Lane,
    ProviderBatch,
    Line,
    OrphanBatch,
    Tick,
    Job,
    JobBody,
    JobResult,
    IdempotencyKey,
    Event,
    Delivery,
    DeliveryAttempt,
)

metadata = Base.metadata

TRIGGERS = (
    TRANSITION_FUNCTION,
    transition_trigger("jobs", JOB_TRANSITIONS),
    transition_trigger("provider_batches", BATCH_TRANSITIONS),
    transition_trigger("lines", LINE_TRANSITIONS),
    transition_trigger("holds", HOLD_TRANSITIONS),
    transition_trigger("deliveries", DELIVERY_TRANSITIONS),
)
"""SQL that holds each lifecycle to its transition table."""
