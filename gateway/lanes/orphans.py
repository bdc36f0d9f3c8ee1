"""Orphans: batches that exist twice at a provider are cancelled, and the house pays for them."""

import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from sqlalchemy import text

from gateway.billing import ledger
from gateway.billing.prices import cost_nanos
from gateway.billing.pricing import PriceBook
from gateway.lanes import doubt
from gateway.lanes.credentials import KeyGone
from gateway.lanes.polling import note_strays
from gateway.lanes.records import (
    RESULTS_KEPT,
    BatchRecord,
    Target,
    parse_custom_id,
    read_batch,
    target_of,
)
from gateway.lanes.results import read_chunks
from gateway.lanes.works import Works
from gateway.providers.dialect import (
    HOUSE,
    BatchReport,
    BatchState,
    Credential,
    Dialect,
    LineOutcome,
    LineResult,
    ProviderError,
    Rejected,
    has_batches,
)
from models import ids
from models.session import transaction

log = logging.getLogger(__name__)

WATCHED = timedelta(minutes=15)
"""How far back a watch for orphans lists: every creation is listed several times over."""

OWN_WATCHED = timedelta(days=1)

FILES_PATIENCE = timedelta(minutes=10)
"""How long an orphan that has ended without result files is looked at again."""


@dataclass(frozen=True, slots=True)
class _Orphan:
    """A batch at the provider, and the one of ours that it was made for besides."""

    external_id: str
    batch: BatchRecord
    known_for: timedelta


_CLAIM_DUE = text(
    """
    UPDATE orphan_batches SET due_at = now() + interval '30 seconds'
    WHERE external_id IN (
        SELECT external_id FROM orphan_batches
        WHERE booked_at IS NULL AND due_at <= now() LIMIT 20 FOR UPDATE SKIP LOCKED
    )
    RETURNING external_id, batch_id, now() - found_at AS known_for
    """
)
_BOOK = text(
    """
    UPDATE orphan_batches SET booked_at = now(), cost_nanos = :cost
    WHERE external_id = :external_id AND booked_at IS NULL RETURNING external_id
    """
)
# Where creations have no names: those that were looked for in vain, lately.
_LOST_LATELY = text(
    """
    SELECT b.id AS batch_id, b.request_count, lost.intent_at
    FROM provider_batches AS b JOIN lanes ON lanes.id = b.lane_id
    CROSS JOIN unnest(b.lost_intents) AS lost (intent_at)
    WHERE b.lost_intents <> '{}' AND lanes.provider = :provider AND lanes.credential = :credential
      AND lost.intent_at > now() - make_interval(secs => :back)
      AND cardinality(b.lost_intents) > (
          SELECT count(*) FROM orphan_batches WHERE batch_id = b.id)
    ORDER BY lost.intent_at
    """
)
# Customers' own keys that batches were created with lately; a batch may be some time older than
# the last try at its creation.
_OWN_LATELY = text(
    f"""
    SELECT provider, credential FROM lanes
    WHERE credential <> '{HOUSE}' AND EXISTS (
        SELECT FROM provider_batches
        WHERE lane_id = lanes.id AND provider_batches.id >= :since AND intent_at >= :intended)
    GROUP BY provider, credential
    """
)
_IN_FLIGHT = text(
    """
    SELECT EXISTS (
        SELECT FROM provider_batches AS b JOIN lanes ON lanes.id = b.lane_id
        WHERE b.status IN ('submitting', 'in_doubt')
          AND lanes.provider = :provider AND lanes.credential = :credential
    )
    """
)
_PRICES = text("SELECT id, price_id FROM jobs WHERE id = ANY(:job_ids)")


def watch(works: Works) -> None:
    """Lists the recent batches of every credential.

    Where the provider does not give our names back, only if there is a lost creation to look for.
    """
    with transaction(works.engine) as session:
        since = session.execute(
            text("SELECT now() - make_interval(secs => :back)"),
            {"back": WATCHED.total_seconds()},
        ).scalar_one()
        recent = session.execute(
            _OWN_LATELY, {"since": ids.floor(since - OWN_WATCHED), "intended": since}
        ).all()
    in_use = [*works.credentials.house, *((row.provider, row.credential) for row in recent)]
    for provider, name in in_use:
        dialect = works.dialects.get(provider)
        if dialect is None or not has_batches(dialect):
            continue
        try:
            credential = works.credentials.find(provider, name)
            if credential is None:
                continue
            if dialect.keeps_metadata:
                note_strays(works.engine, list(dialect.list_batches(credential, since)))
            else:
                _look_for_lost(works, dialect, credential)
        except ProviderError as error:
            log.warning(
                "orphans.list_failed", extra={"provider": provider, "error": type(error).__name__}
            )


def _look_for_lost(works: Works, dialect: Dialect, credential: Credential) -> None:
    """Looks for creations that turned up after they had been given up.

    An unknown batch with as many requests, created while that creation was looked for, is the
    lost one if there is only one such batch; of several none is touched, but they are reported.
    """
    back = (WATCHED + works.policy.doubt).total_seconds()
    account = {"provider": credential.provider, "credential": credential.name}
    with transaction(works.engine) as session:
        lost = session.execute(_LOST_LATELY, {**account, "back": back}).all()
    if not lost:
        return
    reports = list(dialect.list_batches(credential, lost[0].intent_at - doubt.CLOCK_SKEW))
    with transaction(works.engine) as session:
        # A batch that is being created is unknown too until its id is written down.
        if session.execute(_IN_FLIGHT, account).scalar_one():
            return
        unknown = doubt.unknown_among(session, reports)
        for each in lost:
            window = each.intent_at - doubt.CLOCK_SKEW, each.intent_at + works.policy.doubt
            found = [
                report
                for report in unknown
                if report.request_count == each.request_count
                and window[0] <= report.created_at <= window[1]
                and report.state is not BatchState.FAILED
            ]
            if len(found) == 1:
                doubt.note_orphans(session, each.batch_id, [found[0].external_id])
                unknown.remove(found[0])
            elif found:
                doubt.report_ambiguous(each.batch_id, found)


def settle_due(works: Works, prices: PriceBook) -> None:
    """Cancels orphans, and books those that have ended to the house's loss."""
    with transaction(works.engine) as session:
        due = [
            _Orphan(row.external_id, read_batch(session, row.batch_id), row.known_for)
            for row in session.execute(_CLAIM_DUE).all()
        ]
    for orphan in due:
        if orphan.known_for >= RESULTS_KEPT:
            log.error("orphan.given_up", extra={"external_id": orphan.external_id, "alert": True})
            _book(works, orphan, 0)
            continue
        try:
            target = target_of(works, orphan.batch)
            if target is not None:
                _settle(works, prices, orphan, target)
        except KeyGone:
            # What it costs is the customer's, and nobody can stop it any more.
            _book(works, orphan, 0)
        except ProviderError as error:
            log.warning(
                "orphan.not_settled",
                extra={"external_id": orphan.external_id, "error": type(error).__name__},
            )


def _settle(works: Works, prices: PriceBook, orphan: _Orphan, target: Target) -> None:
    report = target.dialect.get_batch(target.credential, orphan.external_id)
    if report is not None and report.state in {BatchState.VALIDATING, BatchState.RUNNING}:
        target.dialect.cancel_batch(target.credential, orphan.external_id)
        return
    if report is not None and _may_change(report, orphan):
        return
    # What was made with a customer's own key is on the customer's bill.
    if report is None or not target.credential.is_house:
        _book(works, orphan, 0)
        return
    _book(works, orphan, _cost(works, prices, orphan.batch, target, report))


def _book(works: Works, orphan: _Orphan, cost: int) -> None:
    """The orphan is done with: it cost the house so many nano-USD."""
    with transaction(works.engine) as session:
        booked = session.execute(_BOOK, {"external_id": orphan.external_id, "cost": cost}).first()
        if booked is not None:
            ledger.book_unbilled_cost(session, orphan.batch.id, cost, "a batch that was made twice")
    log.info("orphan.booked", extra={"external_id": orphan.external_id, "cost_nanos": cost})


def _may_change(report: BatchReport, orphan: _Orphan) -> bool:
    """Whether what it cost is not to be seen yet; a batch may end before it names its files."""
    return report.state is BatchState.CANCELLING or (
        report.state is BatchState.ENDED
        and not report.result_files
        and not report.retention_over
        and orphan.known_for < FILES_PATIENCE
    )


def _cost(
    works: Works, prices: PriceBook, batch: BatchRecord, target: Target, report: BatchReport
) -> int:
    """What the provider charges for the orphan's finished lines, in nano-USD."""
    total = 0
    with works.spool(batch.id) as folder:
        for number, name in enumerate(report.result_files):
            path = folder / f"results-{number}.jsonl"
            with suppress(Rejected):
                target.dialect.download(target.credential, name, path)
                total += sum(
                    _chunk_cost(works, prices, chunk)
                    for chunk in read_chunks(path, target.dialect.parse_line)
                )
    return total


def _chunk_cost(works: Works, prices: PriceBook, chunk: Sequence[LineResult]) -> int:
    used = {
        named[0]: result.usage
        for result in chunk
        if result.outcome is LineOutcome.SUCCEEDED
        and result.usage is not None
        and (named := parse_custom_id(result.custom_id))
    }
    with transaction(works.engine) as session:
        price_of: dict[UUID, str] = {
            row.id: row.price_id for row in session.execute(_PRICES, {"job_ids": list(used)})
        }
        snapshots = prices.load(session, price_of.values())
    total = 0
    for job_id, usage in used.items():
        rates = snapshots[price_of[job_id]].batch if job_id in price_of else None
        if rates is not None:
            total += cost_nanos(usage, rates)
    return total
