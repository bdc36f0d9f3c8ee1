"""Provider batches as the steps of their life read them, and the names of their lines."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from gateway.lanes.works import Works
from gateway.providers.dialect import Credential, Dialect, Endpoint
from models.states import BatchStatus

RESULTS_KEPT = timedelta(days=30)
"""After this no provider has the results of a batch any more: nothing is asked of it for longer."""

_CUSTOM_ID = re.compile(r"([0-9a-f]{32})-([1-9][0-9]{0,8})")


@dataclass(frozen=True, slots=True)
class BatchRecord:
    """A provider batch and its lane, as one transaction saw them; `now` is the database's."""

    id: UUID
    status: BatchStatus
    epoch: int
    request_count: int
    refusals: int
    input_file_id: str | None
    external_id: str | None
    result_files: list[str] | None
    created_at: datetime
    intent_at: datetime | None
    intent_ref: str | None
    lost_intents: list[datetime]
    submitted_at: datetime | None
    ended_at: datetime | None
    provider: str
    credential: str
    endpoint: str
    model: str
    now: datetime

    @property
    def file_name(self) -> str:
        """The upload's name. Lines only ever leave a batch, so their count names the content."""
        return f"offpeak-{self.id.hex}-{self.request_count}.jsonl"

    @property
    def submitted_for(self) -> timedelta:
        """How long the provider has had it."""
        return timedelta(0) if self.submitted_at is None else self.now - self.submitted_at

    @property
    def ended_for(self) -> timedelta:
        """How long ago the provider was first seen to have ended it."""
        return timedelta(0) if self.ended_at is None else self.now - self.ended_at

    @property
    def doubted_for(self) -> timedelta:
        """How long ago the creation was begun whose outcome is not known."""
        return timedelta(0) if self.intent_at is None else self.now - self.intent_at


class InLane(Protocol):
    """What goes to the provider of a lane."""

    @property
    def provider(self) -> str: ...

    @property
    def credential(self) -> str: ...

    @property
    def endpoint(self) -> str: ...

    @property
    def model(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Target:
    """Where a batch or a call goes."""

    dialect: Dialect
    credential: Credential
    endpoint: Endpoint
    model: str


_READ = text(
    """
    SELECT b.id, b.status, b.epoch, b.request_count, b.refusals, b.input_file_id, b.external_id,
           b.result_files, b.created_at, b.intent_at, b.intent_ref,
           b.lost_intents, b.submitted_at, b.ended_at,
           lanes.provider, lanes.credential, lanes.endpoint, lanes.model, now() AS now
    FROM provider_batches AS b JOIN lanes ON lanes.id = b.lane_id
    WHERE b.id = ANY(:batch_ids)
    """
)


def read_batches(session: Session, batch_ids: Iterable[UUID]) -> list[BatchRecord]:
    """The batches with these ids, in no particular order."""
    rows = session.execute(_READ, {"batch_ids": list(batch_ids)}).mappings()
    return [BatchRecord(**{**row, "status": BatchStatus(row["status"])}) for row in rows]


def read_batch(session: Session, batch_id: UUID) -> BatchRecord:
    """One batch that exists."""
    (batch,) = read_batches(session, [batch_id])
    return batch


def target_of(works: Works, work: InLane) -> Target | None:
    """Where it goes; None while there is no credential for its lane.

    Raises KeyGone if that is a customer's own and has been removed.
    """
    credential = works.credentials.find(work.provider, work.credential)
    dialect = works.dialects.get(work.provider)
    if credential is None or dialect is None:
        return None
    return Target(dialect, credential, Endpoint(work.endpoint), work.model)


def custom_id(job_id: UUID, round_number: int) -> str:
    """A line's name at the provider: the job and the round, at most 64 of `[A-Za-z0-9_-]`."""
    return f"{job_id.hex}-{round_number}"


def split_custom_id(name: str) -> tuple[str, str] | None:
    """The digits of the job and of the round; None for what `custom_id` would not have given."""
    match = _CUSTOM_ID.fullmatch(name)
    return None if match is None else (match[1], match[2])


def parse_custom_id(name: str) -> tuple[UUID, int] | None:
    """The job and the round; None for a name that `custom_id` would not have given."""
    digits = split_custom_id(name)
    return None if digits is None else (UUID(hex=digits[0]), int(digits[1]))


def creation_ref(batch_id: UUID, epoch: int) -> str:
    """The name of one attempt at creating a batch, unique as the epoch is."""
    return f"{batch_id.hex}-{epoch}"


def batch_of_ref(ref: str) -> UUID | None:
    """The batch that a creation's name speaks of; None for a name that we did not give."""
    named = parse_custom_id(ref)
    return None if named is None else named[0]
