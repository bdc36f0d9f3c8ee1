"""Intake: accepted calls become queued jobs, many in one transaction, each for itself."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb
from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from gateway.billing import ledger
from gateway.billing.ledger import HoldRequest
from gateway.billing.pricing import PriceBook
from gateway.calls import errors, idempotency
from gateway.calls.errors import CallError, InvalidField
from gateway.calls.idempotency import KeyedCall, Stored
from gateway.catalogue.rates import PriceSnapshot
from gateway.webhooks import endpoints
from models.batches import Lane
from models.bulk import copy_rows
from models.jobs import Job, JobBody
from models.states import JobStatus

LaneKey = tuple[str, str, str, str]
"""Provider, credential, endpoint and the provider's name for the model."""


@dataclass(frozen=True, slots=True)
class Submission:
    """One call that is to become a job. `body` is JSON in OpenAI's shape, our fields taken out.

    `answer` is what its caller will be told; it is kept under the idempotency key, if there is
    one, in the same transaction as the job. `estimated_nanos` is the ceiling in the batch lane,
    `standard_nanos` in the standard lane, where the job may go if `escalate` and `max_cost_nanos`
    let it. `source` is what the caller calls the place that the call came from.
    """

    job_id: UUID
    account_id: UUID
    key_id: UUID
    lane: LaneKey
    model: str
    body: bytes
    embedding_inputs: int
    estimated_nanos: int
    standard_nanos: int
    prices: PriceSnapshot
    markup_bps: int
    created_at: datetime
    deadline_at: datetime
    custom_id: str | None
    metadata: dict[str, str] | None
    webhook: dict[str, Any] | None
    answer: Stored
    keyed: KeyedCall | None = None
    max_cost_nanos: int | None = None
    escalate: bool = True
    source: str | None = None


class Intake:
    """Accepts submissions, for one thread at a time.

    What has been committed once need not be looked up again: the lanes' ids and the prices that
    a transaction has seen become known to this process when `committed` says that it stands.
    """

    def __init__(self) -> None:
        self._lanes: dict[LaneKey, int] = {}
        self._prices = PriceBook()
        self._seen_lanes: dict[LaneKey, int] = {}
        self._seen_prices: dict[str, PriceSnapshot] = {}

    def accept(
        self, session: Session, submissions: Sequence[Submission]
    ) -> list[Stored | CallError]:
        """Makes jobs of the submissions; what each caller is told, in their order.

        1. Idempotency keys are taken. What was asked before is answered as before.
        2. The ceilings are held. Who cannot pay, would exceed a cap of their API key, or names a
           webhook endpoint that is not theirs, is refused, and the idempotency key is free again:
           whoever came with the same one at the same time is refused too.
        3. The jobs are written.
        """
        # What an earlier transaction saw may have been rolled back with it.
        self._seen_lanes, self._seen_prices = {}, {}
        keyed = [each.keyed for each in submissions if each.keyed is not None]
        told: dict[UUID, Stored | CallError] = dict(idempotency.claim(session, keyed))
        fresh = [each for each in submissions if each.job_id not in told]
        lost = with_unknown_endpoint(session, fresh)
        not_held = ledger.hold(
            session,
            [
                HoldRequest(each.job_id, each.account_id, each.key_id, each.estimated_nanos)
                for each in fresh
                if each.job_id not in lost
            ],
        )
        refusals = lost | {job_id: errors.not_held(why) for job_id, why in not_held.items()}
        refused = [each for each in fresh if each.job_id in refusals]
        idempotency.forget(session, [each.keyed for each in refused if each.keyed is not None])
        told.update(refusals)
        told.update(_repeats_of(refused, submissions, refusals))
        accepted = [each for each in fresh if each.job_id not in refusals]
        if accepted:
            self.write(session, accepted)
        told.update({each.job_id: each.answer for each in accepted})
        return [told[each.job_id] for each in submissions]

    def committed(self) -> None:
        """To be called when the transaction of the last `accept` has been committed."""
        self._lanes.update(self._seen_lanes)
        for snapshot in self._seen_prices.values():
            self._prices.remember(snapshot)

    def write(self, session: Session, accepted: Sequence[Submission]) -> None:
        """Writes queued jobs whose ceilings are held."""
        lane_ids = self._seen_lanes = {
            key: self._lane_id(session, key) for key in sorted({each.lane for each in accepted})
        }
        self._seen_prices = {each.prices.digest: each.prices for each in accepted}
        for snapshot in self._seen_prices.values():
            self._prices.store(session, snapshot)
        copy_rows(
            session,
            Job,
            (
                "id",
                "account_id",
                "key_id",
                "lane_id",
                "status",
                "endpoint",
                "model",
                "custom_id",
                "source",
                "metadata",
                "webhook",
                "body_bytes",
                "embedding_inputs",
                "standard_nanos",
                "max_cost_nanos",
                "escalate",
                "price_id",
                "markup_bps",
                "created_at",
                "deadline_at",
            ),
            (
                (
                    each.job_id,
                    each.account_id,
                    each.key_id,
                    lane_ids[each.lane],
                    JobStatus.QUEUED.value,
                    each.lane[2],
                    each.model,
                    each.custom_id,
                    each.source,
                    each.metadata and Jsonb(each.metadata),
                    each.webhook and Jsonb(each.webhook),
                    len(each.body),
                    each.embedding_inputs,
                    each.standard_nanos,
                    each.max_cost_nanos,
                    each.escalate,
                    each.prices.digest,
                    each.markup_bps,
                    each.created_at,
                    each.deadline_at,
                )
                for each in accepted
            ),
        )
        copy_rows(
            session, JobBody, ("job_id", "body"), ((each.job_id, each.body) for each in accepted)
        )

    def _lane_id(self, session: Session, key: LaneKey) -> int:
        known = self._lanes.get(key)
        if known is not None:
            return known
        columns = dict(zip(("provider", "credential", "endpoint", "model"), key, strict=True))
        session.execute(insert(Lane).values(columns).on_conflict_do_nothing())
        return session.scalars(select(Lane.id).filter_by(**columns)).one()


def with_unknown_endpoint(
    session: Session, submissions: Sequence[Submission]
) -> dict[UUID, CallError]:
    """Refusals for those whose webhook is an endpoint that their account does not have."""
    named = {
        each.job_id: (each.account_id, UUID(each.webhook["endpoint"]))
        for each in submissions
        if each.webhook is not None and "endpoint" in each.webhook
    }
    unknown = endpoints.unknown(session, named.values())
    return {
        job_id: InvalidField("webhook", "There is no such webhook endpoint.")
        for job_id, pair in named.items()
        if pair in unknown
    }


def _repeats_of(
    refused: Sequence[Submission],
    submissions: Sequence[Submission],
    refusals: Mapping[UUID, CallError],
) -> dict[UUID, CallError]:
    """Refusals for those that were to be answered like one that turned out to be refused."""
    by_key = {key: refusals[each.job_id] for each in refused if (key := _key_of(each)) is not None}
    return {
        each.job_id: by_key[key]
        for each in submissions
        if (key := _key_of(each)) is not None and key in by_key
    }


def _key_of(submission: Submission) -> tuple[UUID, str] | None:
    keyed = submission.keyed
    return None if keyed is None else (keyed.account_id, keyed.key)
