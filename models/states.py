"""The lifecycles: one StrEnum and one transition table each.

The tables below are enforced twice: by conditional updates in the gateway, and by a trigger in
the database (`check_transition`) that refuses any change of state they do not list.
"""

from collections.abc import Mapping
from enum import StrEnum


class JobStatus(StrEnum):
    """One accepted call, from acceptance to its one end."""

    QUEUED = "queued"
    SUBMITTED = "submitted"
    IN_PROGRESS = "in_progress"
    CANCELLING = "cancelling"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


FINAL_JOB_STATUSES = frozenset(
    {JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED, JobStatus.EXPIRED}
)
LIVE_JOB_STATUSES = frozenset(JobStatus) - FINAL_JOB_STATUSES

JOB_TRANSITIONS: Mapping[JobStatus, frozenset[JobStatus]] = {
    JobStatus.QUEUED: frozenset(
        {JobStatus.SUBMITTED, JobStatus.IN_PROGRESS, JobStatus.CANCELLING} | FINAL_JOB_STATUSES
    ),
    # A line that expired, or a batch that failed as a whole, sends its jobs back to the queue.
    JobStatus.SUBMITTED: frozenset(
        {JobStatus.QUEUED, JobStatus.IN_PROGRESS, JobStatus.CANCELLING}
        | FINAL_JOB_STATUSES - {JobStatus.CANCELLED}
    ),
    # Cancelled at once in the standard lane, where it may wait for its next call.
    JobStatus.IN_PROGRESS: frozenset({JobStatus.QUEUED, JobStatus.CANCELLING} | FINAL_JOB_STATUSES),
    JobStatus.CANCELLING: FINAL_JOB_STATUSES,
    JobStatus.COMPLETED: frozenset(),
    JobStatus.FAILED: frozenset(),
    JobStatus.CANCELLED: frozenset(),
    JobStatus.EXPIRED: frozenset(),
}


class RunReason(StrEnum):
    """Why a job is in the standard lane."""

    DEADLINE = "deadline"  # it was in the batch lane, and its deadline came too near
    WAIT = "wait"  # its caller waited for an answer, and then no longer


class BatchStatus(StrEnum):
    """One provider batch, from the decision to make it until its last line is settled."""

    FORMED = "formed"
    UPLOADING = "uploading"
    SUBMITTING = "submitting"
    IN_DOUBT = "in_doubt"
    SUBMITTED = "submitted"
    IN_PROGRESS = "in_progress"
    INGESTING = "ingesting"
    DONE = "done"


BATCH_TRANSITIONS: Mapping[BatchStatus, frozenset[BatchStatus]] = {
    # Done straight away when every job was cancelled before anything was sent.
    BatchStatus.FORMED: frozenset({BatchStatus.UPLOADING, BatchStatus.DONE}),
    BatchStatus.UPLOADING: frozenset(
        {BatchStatus.FORMED, BatchStatus.SUBMITTING, BatchStatus.DONE}
    ),
    BatchStatus.SUBMITTING: frozenset(
        {BatchStatus.FORMED, BatchStatus.SUBMITTED, BatchStatus.IN_DOUBT, BatchStatus.DONE}
    ),
    # Done when the key is gone that it might be looked for with.
    BatchStatus.IN_DOUBT: frozenset({BatchStatus.FORMED, BatchStatus.SUBMITTED, BatchStatus.DONE}),
    # Back to formed when the provider refused the whole batch for want of quota.
    BatchStatus.SUBMITTED: frozenset(
        {BatchStatus.IN_PROGRESS, BatchStatus.INGESTING, BatchStatus.FORMED, BatchStatus.DONE}
    ),
    BatchStatus.IN_PROGRESS: frozenset(
        {BatchStatus.INGESTING, BatchStatus.FORMED, BatchStatus.DONE}
    ),
    BatchStatus.INGESTING: frozenset({BatchStatus.DONE}),
    BatchStatus.DONE: frozenset(),
}


class LineState(StrEnum):
    """One job's place in one provider batch."""

    OPEN = "open"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    RETURNED = "returned"  # expired, retryable, missing or unsent: the job went back to the queue
    LATE = "late"  # answered after its job had ended otherwise: kept aside, and the house pays
    WITHDRAWN = "withdrawn"  # its job ended before the line was sent, or the line had no result


LINE_TRANSITIONS: Mapping[LineState, frozenset[LineState]] = {
    LineState.OPEN: frozenset(LineState) - {LineState.OPEN},
    **{state: frozenset() for state in LineState if state is not LineState.OPEN},
}


class HoldState(StrEnum):
    """Money set aside for one job or call; resolved at most once."""

    OPEN = "open"
    POSTED = "posted"
    VOIDED = "voided"


HOLD_TRANSITIONS: Mapping[HoldState, frozenset[HoldState]] = {
    HoldState.OPEN: frozenset({HoldState.POSTED, HoldState.VOIDED}),
    HoldState.POSTED: frozenset(),
    HoldState.VOIDED: frozenset(),
}


class DeliveryStatus(StrEnum):
    """One webhook event on its way to one URL."""

    PENDING = "pending"
    DELIVERED = "delivered"
    FAILED = "failed"


DELIVERY_TRANSITIONS: Mapping[DeliveryStatus, frozenset[DeliveryStatus]] = {
    DeliveryStatus.PENDING: frozenset({DeliveryStatus.DELIVERED, DeliveryStatus.FAILED}),
    # Sent again on request.
    DeliveryStatus.DELIVERED: frozenset({DeliveryStatus.PENDING}),
    DeliveryStatus.FAILED: frozenset({DeliveryStatus.PENDING}),
}


class LedgerAccount(StrEnum):
    """The sides of a transfer. `customer` is one account's balance, the others are the house's."""

    CUSTOMER = "customer"
    CASH_IN = "cash_in"
    REVENUE = "revenue"
    PROVIDER_COST = "provider_cost"
    SUSPENSE = "suspense"
    LOSS = "loss"


class TransferKind(StrEnum):
    """Why money moved."""

    DEPOSIT = "deposit"
    CHARGE = "charge"
    OVERRUN_LOSS = "overrun_loss"
    SUSPENSE = "suspense"
    SUSPENSE_RETURN = "suspense_return"
    SUSPENSE_CHARGE = "suspense_charge"
    PROVIDER_COST = "provider_cost"
    UNBILLED_COST = "unbilled_cost"


TRANSFER_SIDES: Mapping[TransferKind, tuple[LedgerAccount, LedgerAccount]] = {
    TransferKind.DEPOSIT: (LedgerAccount.CASH_IN, LedgerAccount.CUSTOMER),
    TransferKind.CHARGE: (LedgerAccount.CUSTOMER, LedgerAccount.REVENUE),
    # What a call cost beyond its hold and the balance.
    TransferKind.OVERRUN_LOSS: (LedgerAccount.LOSS, LedgerAccount.REVENUE),
    # The hold of a call whose usage the provider did not report.
    TransferKind.SUSPENSE: (LedgerAccount.CUSTOMER, LedgerAccount.SUSPENSE),
    TransferKind.SUSPENSE_RETURN: (LedgerAccount.SUSPENSE, LedgerAccount.CUSTOMER),
    # What such a call turned out to cost; the rest of its hold is returned.
    TransferKind.SUSPENSE_CHARGE: (LedgerAccount.SUSPENSE, LedgerAccount.REVENUE),
    # What we owe the provider for charged work, booked once a set of settlements.
    TransferKind.PROVIDER_COST: (LedgerAccount.REVENUE, LedgerAccount.PROVIDER_COST),
    # What we owe the provider for work that nobody is charged for: late lines, orphaned batches.
    TransferKind.UNBILLED_COST: (LedgerAccount.LOSS, LedgerAccount.PROVIDER_COST),
}
"""The debit and the credit side of each kind."""
