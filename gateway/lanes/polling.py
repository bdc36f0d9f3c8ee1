"""Polling: what has become of the batches at their providers.

A due batch is claimed by pushing its `due_at` on, longer the older it is; `reports` writes down
what is learned.
"""

import logging
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from uuid import UUID

from sqlalchemy import Engine, text

from gateway.lanes import doubt, reports
from gateway.lanes.credentials import KeyGone, refuses_own_key
from gateway.lanes.records import (
    BatchRecord,
    Target,
    batch_of_ref,
    read_batches,
    target_of,
)
from gateway.lanes.works import Works
from gateway.providers.dialect import BatchReport, ProviderError
from models.session import transaction

log = logging.getLogger(__name__)

AT_ONCE = 200
LIST_FROM = 3
"""From this many due batches on, one listing is cheaper than asking for each."""
LIST_AT_MOST = 500
FAILURES_AT_MOST = 3
"""After so many looks in a row that failed, the account is left alone until the next time."""

_CLAIM_DUE = text(
    f"""
    UPDATE provider_batches SET due_at = now() + make_interval(
        secs => (1.0 + random() * 0.2) * greatest(:poll, least(
            10 * :poll, extract(epoch FROM now() - submitted_at)::float * 0.02)))
    WHERE id IN (
        SELECT id FROM provider_batches
        WHERE status IN ('submitted', 'in_progress') AND due_at <= now()
        ORDER BY due_at LIMIT {AT_ONCE} FOR UPDATE SKIP LOCKED
    )
    RETURNING id
    """
)
# One that is done without ever having been submitted stands by no batch at the provider.
_KNOWN_BATCHES = text(
    "SELECT id, coalesce(external_id, CASE status WHEN 'done' THEN '' END) AS external_id "
    "FROM provider_batches WHERE id = ANY(:batch_ids)"
)


def poll_due(works: Works) -> list[UUID]:
    """Looks at every due batch; those that have ended and are to be ingested now."""
    with transaction(works.engine) as session:
        due = session.scalars(
            _CLAIM_DUE, {"poll": works.policy.poll_interval.total_seconds()}
        ).all()
        batches = read_batches(session, due)
    by_account: Mapping[tuple[str, str], list[BatchRecord]] = defaultdict(list)
    for batch in batches:
        by_account[batch.provider, batch.credential].append(batch)
    return [
        batch_id for together in by_account.values() for batch_id in _poll_together(works, together)
    ]


def _poll_together(works: Works, batches: Sequence[BatchRecord]) -> Iterator[UUID]:
    """Polls batches of one credential, by one listing where they are many."""
    try:
        target = target_of(works, batches[0])
    except KeyGone as gone:
        for batch in batches:
            reports.note_refused_key(works.engine, batch, gone)
        return
    if target is None:
        for batch in batches:
            reports.forget_if_old(works.engine, batch)
        return
    listed: dict[str, BatchReport] = {}
    if len(batches) >= LIST_FROM:
        listed = _list(works, target, batches)
    failures = 0
    for batch in batches:
        assert batch.external_id is not None
        try:
            report = listed.get(batch.external_id) or target.dialect.get_batch(
                target.credential, batch.external_id
            )
        except ProviderError as error:
            log.warning(
                "batch.poll_failed",
                extra={"batch_id": str(batch.id), "error": type(error).__name__},
            )
            if refuses_own_key(batch.credential, error):
                reports.note_refused_key(works.engine, batch, error)
            reports.forget_if_old(works.engine, batch)
            failures += 1
            # A provider that is away would keep the batches of the others waiting.
            if failures == FAILURES_AT_MOST:
                return
            continue
        failures = 0
        if reports.apply_report(works.engine, batch, report):
            yield batch.id


def _list(works: Works, target: Target, batches: Sequence[BatchRecord]) -> dict[str, BatchReport]:
    since = min(batch.intent_at or batch.created_at for batch in batches) - doubt.CLOCK_SKEW
    try:
        found = list(islice(target.dialect.list_batches(target.credential, since), LIST_AT_MOST))
    except ProviderError as error:
        log.warning("batches.list_failed", extra={"error": type(error).__name__})
        return {}
    note_strays(works.engine, found)
    return {report.external_id: report for report in found}


def note_strays(engine: Engine, listed: Sequence[BatchReport]) -> None:
    """Finds, among listed batches, those that we made twice."""
    named = {ref for report in listed if report.batch_ref and (ref := _named(report))}
    if not named:
        return
    with transaction(engine) as session:
        known = {
            row.id: row.external_id
            for row in session.execute(_KNOWN_BATCHES, {"batch_ids": list(named)})
        }
        for batch_id, external_ids in doubt.orphans_among(listed, known).items():
            doubt.note_orphans(session, batch_id, external_ids)


def _named(report: BatchReport) -> UUID | None:
    return batch_of_ref(report.batch_ref or "")
