"""Doubt: a creation whose answer never came is looked for, adopted, or made again.

A batch that we created must be found before it may be created again. Where the provider keeps
our metadata, the creation carries a name of its own and is told by that. Elsewhere it is told by
its time and its number of requests: there is only one creation in flight for a credential.

What was looked for in vain may still turn up. It is remembered as a lost intent, and whoever
watches for orphans looks for it too.
"""

import logging
from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from gateway.lanes import endings, leases, submission
from gateway.lanes.credentials import KeyGone, refusal, refuses_own_key
from gateway.lanes.leases import Claim, LeaseLost
from gateway.lanes.records import (
    RESULTS_KEPT,
    BatchRecord,
    Target,
    batch_of_ref,
    read_batch,
    target_of,
)
from gateway.lanes.works import Works, backoff_seconds
from gateway.providers.dialect import BatchReport, BatchState, ProviderError
from models.batches import OrphanBatch
from models.session import transaction
from models.states import BatchStatus

log = logging.getLogger(__name__)

LOOK_AGAIN_SECONDS = 3.0
LOOK_AGAIN_CAP_SECONDS = 60.0
CLOCK_SKEW = timedelta(seconds=30)
"""How far a provider's clock may be from ours where a batch can only be told by its time."""
CLOCK_SKEW_OF_NAMED = timedelta(minutes=15)
"""The same where a name tells it: there is no harm in listing more than need be."""

_IN_DOUBT = text("UPDATE provider_batches SET status = 'in_doubt' WHERE id = :batch_id")
_LOOK_AGAIN = text(
    "UPDATE provider_batches SET due_at = now() + make_interval(secs => :delay) "
    "WHERE id = :batch_id"
)
_LOST = text(
    "UPDATE provider_batches SET lost_intents = array_append(lost_intents, intent_at) "
    "WHERE id = :batch_id"
)
_KNOWN = text(
    """
    SELECT external_id FROM provider_batches WHERE external_id = ANY(:external_ids)
    UNION SELECT external_id FROM orphan_batches WHERE external_id = ANY(:external_ids)
    """
)


def resolve(works: Works, batch_id: UUID) -> None:
    """Looks for a creation in doubt; safe to call at any time."""
    with transaction(works.engine) as session:
        claim = leases.claim(session, batch_id, {BatchStatus.SUBMITTING, BatchStatus.IN_DOUBT})
        if claim is None:
            return
        if claim.status is BatchStatus.SUBMITTING:
            # Whoever was creating it is gone.
            session.execute(_IN_DOUBT, {"batch_id": batch_id})
        batch = read_batch(session, batch_id)
    try:
        with works.leases.holding(claim):
            _resolve(works, claim, batch)
    except LeaseLost:
        log.warning("batch.lease_lost", extra={"batch_id": str(batch_id)})


def _resolve(works: Works, claim: Claim, batch: BatchRecord) -> None:
    target = None
    try:
        target = target_of(works, batch)
        found = None if target is None else _find(works, batch, target)
    except ProviderError as error:
        if _is_lost_with_its_key(works, batch, error):
            _forbid(works, claim, batch, error)
            return
        log.warning(
            "batch.doubt_not_resolved",
            extra={"batch_id": str(batch.id), "error": type(error).__name__},
        )
        found = None
    if target is None or found is None:
        _not_told(works, claim, batch)
    elif found:
        _adopt(works, claim, batch, target, found)
    elif batch.doubted_for >= works.policy.doubt:
        log.info("batch.not_found_after_doubt", extra={"batch_id": str(batch.id)})
        _give_up(works, claim, "the creation left no batch")
    else:
        _look_again(works, claim, LOOK_AGAIN_SECONDS)


def _is_lost_with_its_key(works: Works, batch: BatchRecord, error: ProviderError) -> bool:
    """Whether nobody can look for the creation any more: it was made with a customer's own key."""
    return refuses_own_key(batch.credential, error) and (
        isinstance(error, KeyGone) or batch.doubted_for >= works.policy.doubt
    )


def _forbid(works: Works, claim: Claim, batch: BatchRecord, error: ProviderError) -> None:
    with transaction(works.engine) as session:
        leases.fence(session, claim)
        message = refusal(batch.provider, error)
        submission.fail_whole(session, batch.id, message, endings.forbidden)
    endings.announce(works.engine, batch.id)


def _not_told(works: Works, claim: Claim, batch: BatchRecord) -> None:
    """The provider could not be asked, or did not answer: later, unless there is no sense in it."""
    if batch.doubted_for >= RESULTS_KEPT:
        log.error("batch.doubt_given_up", extra={"batch_id": str(batch.id), "alert": True})
        _give_up(works, claim, "the provider could not be asked about the creation")
        return
    delay = backoff_seconds(
        batch.doubted_for, shortest=LOOK_AGAIN_SECONDS, longest=LOOK_AGAIN_CAP_SECONDS
    )
    _look_again(works, claim, delay)


def _adopt(
    works: Works, claim: Claim, batch: BatchRecord, target: Target, found: Sequence[BatchReport]
) -> None:
    """The oldest is the batch; any other was made besides it, which must not be forgotten.

    Without names, though, one creation cannot have made several: what is more than the creations
    that were lost is somebody else's, and which one that is cannot be told. It is reported.
    """
    oldest, *others = sorted(found, key=lambda report: (report.created_at, report.external_id))
    strangers = not target.dialect.keeps_metadata and len(others) > len(batch.lost_intents)
    with transaction(works.engine) as session:
        submission.record_submitted(session, works.policy, claim, oldest)
        if not strangers:
            note_orphans(session, claim.batch_id, [other.external_id for other in others])
    if strangers:
        report_ambiguous(batch.id, found)
    log.info(
        "batch.adopted",
        extra={"batch_id": str(claim.batch_id), "external_id": oldest.external_id},
    )


def _find(works: Works, batch: BatchRecord, target: Target) -> Sequence[BatchReport]:
    """The batches at the provider that the creation in doubt may have made."""
    assert batch.intent_at is not None
    since = batch.intent_at - CLOCK_SKEW
    listed_since = batch.intent_at - CLOCK_SKEW_OF_NAMED if target.dialect.keeps_metadata else since
    reports = [
        report
        for report in target.dialect.list_batches(target.credential, listed_since)
        if report.state is not BatchState.FAILED
    ]
    if target.dialect.keeps_metadata:
        return [report for report in reports if report.batch_ref == batch.intent_ref]
    candidates = [report for report in reports if report.request_count == batch.request_count]
    with transaction(works.engine) as session:
        unknown = unknown_among(session, candidates)
    return [report for report in unknown if report.created_at >= since]


def unknown_among(session: Session, reports: Sequence[BatchReport]) -> list[BatchReport]:
    """Those that are neither a batch of ours nor an orphan that was found."""
    external_ids = [report.external_id for report in reports]
    known = set(session.scalars(_KNOWN, {"external_ids": external_ids}))
    return [report for report in reports if report.external_id not in known]


def report_ambiguous(batch_id: UUID, reports: Sequence[BatchReport]) -> None:
    """Batches of which one or more may be ours, without a way to tell: an operator must look."""
    log.error(
        "batch.creation_ambiguous",
        extra={
            "batch_id": str(batch_id),
            "external_ids": [report.external_id for report in reports],
            "alert": True,
        },
    )


def _give_up(works: Works, claim: Claim, reason: str) -> None:
    """The creation counts as lost, and may be made again."""
    # One transaction: a kill between the two would have the same creation remembered twice.
    with transaction(works.engine) as session:
        submission.put_back(session, claim, reason, 0.0)
        session.execute(_LOST, {"batch_id": claim.batch_id})


def _look_again(works: Works, claim: Claim, delay: float) -> None:
    with transaction(works.engine) as session:
        leases.fence(session, claim)
        session.execute(_LOOK_AGAIN, {"batch_id": claim.batch_id, "delay": delay})


def note_orphans(session: Session, batch_id: UUID, external_ids: Sequence[str]) -> None:
    """Batches at the provider that were made for `batch_id` besides the one that counts."""
    if not external_ids:
        return
    noted = session.scalars(
        insert(OrphanBatch)
        .values([{"external_id": each, "batch_id": batch_id} for each in external_ids])
        .on_conflict_do_nothing()
        .returning(OrphanBatch.external_id)
    ).all()
    if noted:
        log.error(
            "batch.orphans_found",
            extra={"batch_id": str(batch_id), "external_ids": list(noted), "alert": True},
        )


def orphans_among(
    reports: Sequence[BatchReport], known: dict[UUID, str | None]
) -> dict[UUID, list[str]]:
    """Of listed batches that carry our name, those that are not the one their batch stands by.

    `known` gives each batch's external id; a batch in doubt has none, and is left to `resolve`.
    """
    orphans: dict[UUID, list[str]] = {}
    for report in reports:
        batch_id = batch_of_ref(report.batch_ref) if report.batch_ref else None
        if batch_id is None or report.state is BatchState.FAILED:
            continue
        external_id = known.get(batch_id)
        if external_id is not None and external_id != report.external_id:
            orphans.setdefault(batch_id, []).append(report.external_id)
    return orphans
