"""The whole schema in one place: every table, and what DDL cannot derive from the tables."""

from models.accounts import Account, ApiKey, KeySpending
from models.audit import AUDIT_FUNCTION, AUDIT_TRIGGER, AuditEntry
from models.base import TRANSITION_FUNCTION, Base, transition_trigger
from models.batches import BatchCancellation, Lane, Line, OrphanBatch, ProviderBatch, Tick
from models.credentials import DataKey, ProviderKey
from models.holding import HOLD_FUNCTION
from models.jobs import IdempotencyKey, Job, JobBody, JobResult, StandardRun
from models.ledger import (
    SETTLEMENT_FUNCTION,
    SETTLEMENT_TRIGGER,
    Balance,
    Hold,
    Price,
    Settlement,
    Transfer,
)
from models.reconciliation import Reconciliation
from models.requests import REQUEST_LOG_DEFAULT, RequestLog
from models.states import (
    BATCH_TRANSITIONS,
    DELIVERY_TRANSITIONS,
    HOLD_TRANSITIONS,
    JOB_TRANSITIONS,
    LINE_TRANSITIONS,
)
from models.usage import BalanceThreshold, DailyUsage
from models.webhooks import Delivery, DeliveryAttempt, Event, WebhookEndpoint
from models.widgets import WidgetKey

TABLES = (
    Account,
    ApiKey,
    WidgetKey,
    KeySpending,
    DataKey,
    ProviderKey,
    AuditEntry,
    Balance,
    Hold,
    Transfer,
    Price,
    Settlement,
    DailyUsage,
    BalanceThreshold,
    Lane,
    ProviderBatch,
    Line,
    BatchCancellation,
    OrphanBatch,
    Tick,
    Job,
    JobBody,
    JobResult,
    StandardRun,
    IdempotencyKey,
    WebhookEndpoint,
    Event,
    Delivery,
    DeliveryAttempt,
    RequestLog,
    Reconciliation,
)

metadata = Base.metadata

TRIGGERS = (
    REQUEST_LOG_DEFAULT,
    TRANSITION_FUNCTION,
    transition_trigger("jobs", JOB_TRANSITIONS),
    transition_trigger("provider_batches", BATCH_TRANSITIONS),
    transition_trigger("lines", LINE_TRANSITIONS),
    transition_trigger("holds", HOLD_TRANSITIONS),
    transition_trigger("deliveries", DELIVERY_TRANSITIONS),
    SETTLEMENT_FUNCTION,
    HOLD_FUNCTION,
    SETTLEMENT_TRIGGER,
    AUDIT_FUNCTION,
    AUDIT_TRIGGER,
)
"""SQL that holds each lifecycle to its transition table, and settlements to their holds; and what
takes its decisions where the rows are."""
