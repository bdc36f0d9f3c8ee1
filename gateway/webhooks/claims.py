"""Claiming deliveries that are due, fairly between URLs, and recording what became of them.

A claim pushes `due_at` to the end of its lease, so one condition finds both what is due and what
a dead worker left behind. Claims take turns by an advisory lock, which makes the count of what is
in flight exact; they last a few milliseconds.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Row, Select, and_, case, func, insert, select, text, update
from sqlalchemy.orm import Session

from gateway.webhooks.events import JOB_EVENT_STATUS, RESULT_MAX_BYTES, body_of
from gateway.webhooks.schedule import ATTEMPTS_MAX
from models.accounts import Account
from models.jobs import Job, JobResult
from models.states import FINAL_JOB_STATUSES, DeliveryStatus
from models.webhooks import Delivery, DeliveryAttempt, Event

LEASE_SECONDS = 30
IN_FLIGHT_PER_URL = 4
# A host that hangs under a thousand URLs, one a job, is still one bad endpoint.
IN_FLIGHT_PER_HOST = 8

_OLDEST_ROWS = 200
_WALKED_URLS = 1000
_TURN = int.from_bytes(b"webhooks")

_HOST = re.compile(r"\w+://([^/?#]*)")
_WITH_RESULT = [kind for kind, status in JOB_EVENT_STATUS.items() if status in FINAL_JOB_STATUSES]

# A burst is younger than the planner's statistics, which then prefer reading all of the backlog
# and sorting it to reading its first rows from an index.
_TAKE_TURN = text(
    "SELECT pg_advisory_xact_lock(:turn), set_config('enable_bitmapscan', 'off', true),"
    " set_config('enable_seqscan', 'off', true)"
)
# The states are written out, so that the planner can prove the partial indexes' conditions.
_IN_FLIGHT = text(
    "SELECT url FROM deliveries"
    " WHERE status = 'pending' AND leased_until IS NOT NULL AND leased_until > now()"
)
_OLDEST = text(
    "SELECT id, url, attempts FROM deliveries"
    " WHERE status = 'pending' AND due_at <= now() ORDER BY due_at LIMIT :rows"
)
# From URL to URL through the index, however many rows each has; a few due ones of each.
_WALK = text(
    """
    WITH RECURSIVE walk(url, step) AS (
        (SELECT url, 1 FROM deliveries WHERE status = 'pending' AND url > :after
         ORDER BY url LIMIT 1)
        UNION ALL
        SELECT next.url, walk.step + 1 FROM walk CROSS JOIN LATERAL (
            SELECT url FROM deliveries WHERE status = 'pending' AND url > walk.url
            ORDER BY url LIMIT 1
        ) AS next WHERE walk.step < :urls
    )
    SELECT due.id, walk.url, walk.step, due.attempts FROM walk LEFT JOIN LATERAL (
        SELECT id, attempts FROM deliveries
        WHERE status = 'pending' AND deliveries.url = walk.url AND due_at <= now()
        ORDER BY due_at LIMIT :rows
    ) AS due ON true ORDER BY walk.step
    """
)
_LEASE = text(
    """
    WITH chosen AS (
        SELECT id FROM deliveries
        WHERE id = ANY(:ids) AND status = 'pending' AND due_at <= now()
        ORDER BY id FOR UPDATE SKIP LOCKED
    )
    UPDATE deliveries SET
        epoch = epoch + 1,
        attempts = attempts + 1,
        due_at = now() + make_interval(secs => :lease_seconds),
        leased_until = now() + make_interval(secs => :lease_seconds)
    FROM chosen WHERE deliveries.id = chosen.id
    RETURNING deliveries.id, deliveries.epoch, deliveries.attempts
    """
)


@dataclass(frozen=True, slots=True)
class Parcel:
    """One attempt that has been begun: what to send, where to, and under which epoch."""

    delivery_id: UUID
    epoch: int
    attempt: int
    url: str
    event_id: UUID
    account_id: UUID
    sealed_secret: bytes
    body: bytes


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an attempt. A delivery that stays pending is tried after `wait_seconds`."""

    status: DeliveryStatus
    wait_seconds: float = 0.0
    http_status: int | None = None
    error: str | None = None
    excerpt: str | None = None


class _Room:
    """How much more may be in flight: in all, to each URL and to each host."""

    def __init__(self, places: int, in_flight_urls: Iterable[str]) -> None:
        self.places = places
        self._urls = Counter(in_flight_urls)
        self._hosts: Counter[str] = Counter()
        for url, count in self._urls.items():
            self._hosts[_host(url)] += count

    def take(self, url: str) -> bool:
        host = _host(url)
        if (
            self.places <= 0
            or self._urls[url] >= IN_FLIGHT_PER_URL
            or self._hosts[host] >= IN_FLIGHT_PER_HOST
        ):
            return False
        self.places -= 1
        self._urls[url] += 1
        self._hosts[host] += 1
        return True


def _host(url: str) -> str:
    match = _HOST.match(url)
    return match[1].lower() if match else url


def claim(session: Session, places: int, walk_after: str | None) -> tuple[list[Parcel], str | None]:
    """Leases up to `places` due deliveries and writes their attempts.

    Oldest first. Where the oldest crowd out everything else it also goes from URL to URL,
    beginning after `walk_after` (None: not this time), and then returns, beside the parcels, the
    URL to begin after the next time.
    """
    session.execute(_TAKE_TURN, {"turn": _TURN})
    room = _Room(places, session.scalars(_IN_FLIGHT))
    rows = session.execute(_OLDEST, {"rows": _OLDEST_ROWS}).all()
    chosen = {row.id: row.attempts for row in rows if room.take(row.url)}
    walked_to = None
    if walk_after is not None and room.places > 0 and len(rows) == _OLDEST_ROWS:
        walked = session.execute(
            _WALK, {"after": walk_after, "urls": _WALKED_URLS, "rows": IN_FLIGHT_PER_URL}
        ).all()
        for row in walked:
            if row.id is not None and row.id not in chosen and room.take(row.url):
                chosen[row.id] = row.attempts
        ended = not walked or walked[-1].step < _WALKED_URLS
        walked_to = "" if ended else walked[-1].url
    worn_out = [key for key, attempts in chosen.items() if attempts >= ATTEMPTS_MAX]
    if worn_out:
        _give_up(session, worn_out)
    return _lease(session, [key for key in chosen if key not in worn_out]), walked_to


def _give_up(session: Session, delivery_ids: Sequence[UUID]) -> None:
    """Ends deliveries whose last attempt began and never came to an end."""
    session.execute(
        update(Delivery)
        .where(Delivery.id.in_(delivery_ids), Delivery.status == DeliveryStatus.PENDING)
        .where(Delivery.due_at <= func.now(), Delivery.attempts >= ATTEMPTS_MAX)
        .values(status=DeliveryStatus.FAILED, leased_until=None, finished_at=func.now()),
        execution_options={"synchronize_session": False},
    )


def _lease(session: Session, delivery_ids: Sequence[UUID]) -> list[Parcel]:
    if not delivery_ids:
        return []
    leased = session.execute(
        _LEASE, {"ids": list(delivery_ids), "lease_seconds": LEASE_SECONDS}
    ).all()
    if not leased:
        return []
    session.execute(
        insert(DeliveryAttempt),
        [{"delivery_id": row.id, "number": row.attempts} for row in leased],
    )
    return [_parcel(row) for row in session.execute(_contents([row.id for row in leased]))]


def _contents(delivery_ids: Sequence[UUID]) -> Select[*tuple[Any, ...]]:
    wants_result = and_(Delivery.include_result, Event.type.in_(_WITH_RESULT))
    short_result = case((func.octet_length(JobResult.body) <= RESULT_MAX_BYTES, JobResult.body))
    return (
        select(
            Delivery.id,
            Delivery.epoch,
            Delivery.attempts,
            Delivery.url,
            Delivery.include_result,
            Event.id.label("event_id"),
            Event.type,
            Event.created_at,
            Event.account_id,
            Account.webhook_secret,
            Job.id.label("job_id"),
            Job.custom_id,
            Job.job_metadata,
            short_result.label("result"),
        )
        .join(Event, Event.id == Delivery.event_id)
        .join(Account, Account.id == Event.account_id)
        .join(Job, Job.id == Event.job_id)
        .outerjoin(JobResult, and_(JobResult.job_id == Job.id, wants_result))
        .where(Delivery.id.in_(delivery_ids))
    )


def _parcel(row: Row[Any]) -> Parcel:
    return Parcel(
        delivery_id=row.id,
        epoch=row.epoch,
        attempt=row.attempts,
        url=row.url,
        event_id=row.event_id,
        account_id=row.account_id,
        sealed_secret=row.webhook_secret,
        body=body_of(
            event_id=row.event_id,
            event_type=row.type,
            created_at=row.created_at,
            job_id=row.job_id,
            custom_id=row.custom_id,
            metadata=row.job_metadata,
            include_result=row.include_result,
            result=row.result,
        ),
    )


def finish(session: Session, parcel: Parcel, outcome: Outcome) -> bool:
    """Records an outcome. False, and nothing changes, if the delivery has been claimed since."""
    ended = outcome.status is not DeliveryStatus.PENDING
    won = session.execute(
        update(Delivery)
        .where(Delivery.id == parcel.delivery_id, Delivery.epoch == parcel.epoch)
        .where(Delivery.status == DeliveryStatus.PENDING)
        .values(
            status=outcome.status,
            leased_until=None,
            due_at=func.now() + timedelta(seconds=outcome.wait_seconds),
            finished_at=func.now() if ended else None,
        )
        .returning(Delivery.id),
        execution_options={"synchronize_session": False},
    ).first()
    if won is None:
        return False
    session.execute(
        update(DeliveryAttempt)
        .where(DeliveryAttempt.delivery_id == parcel.delivery_id)
        .where(DeliveryAttempt.number == parcel.attempt)
        .values(
            finished_at=func.now(),
            http_status=outcome.http_status,
            error=outcome.error,
            excerpt=outcome.excerpt,
        ),
        execution_options={"synchronize_session": False},
    )
    return True
