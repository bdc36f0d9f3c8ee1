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
from uuid import UUID

from sqlalchemy import func, insert, text, update
from sqlalchemy.orm import Session

from gateway.webhooks import health, parcels
from gateway.webhooks.parcels import Parcel
from gateway.webhooks.schedule import ATTEMPTS_MAX
from models.states import DeliveryStatus
from models.webhooks import Delivery, DeliveryAttempt

LEASE_SECONDS = 30
IN_FLIGHT_PER_URL = 4
# A host that hangs under a thousand URLs, one a job, is still one bad endpoint.
IN_FLIGHT_PER_HOST = 8

_OLDEST_ROWS = 200
_WALKED_URLS = 1000
_TURN = int.from_bytes(b"webhooks")

_HOST = re.compile(r"\w+://([^/?#]*)")

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
    "SELECT id, url FROM deliveries"
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
    SELECT due.id, walk.url, walk.step FROM walk LEFT JOIN LATERAL (
        SELECT id FROM deliveries
        WHERE status = 'pending' AND deliveries.url = walk.url AND due_at <= now()
        ORDER BY due_at LIMIT :rows
    ) AS due ON true ORDER BY walk.step
    """
)
# A delivery whose last attempt began and never came to an end, or whose endpoint wants no more.
_GIVE_UP = text(
    f"""
    WITH chosen AS (
        SELECT id FROM deliveries
        WHERE id = ANY(:ids) AND status = 'pending' AND due_at <= now()
          AND (attempts - attempts_before >= {ATTEMPTS_MAX}
               OR endpoint_id IS NOT NULL AND NOT EXISTS (
                   SELECT FROM webhook_endpoints
                   WHERE id = deliveries.endpoint_id AND disabled_at IS NULL))
        ORDER BY id FOR UPDATE SKIP LOCKED
    )
    UPDATE deliveries SET status = 'failed', leased_until = NULL, finished_at = now()
    FROM chosen WHERE deliveries.id = chosen.id
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
class Outcome:
    """What became of an attempt. A delivery that stays pending is tried after `wait_seconds`."""

    status: DeliveryStatus
    wait_seconds: float = 0.0
    http_status: int | None = None
    error: str | None = None
    excerpt: str | None = None


@dataclass(frozen=True, slots=True)
class Recorded:
    """Whether an outcome counted, and why its endpoint was disabled, if it was."""

    won: bool
    disabled_reason: str | None = None


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
    chosen = [row.id for row in rows if room.take(row.url)]
    walked_to = None
    if walk_after is not None and room.places > 0 and len(rows) == _OLDEST_ROWS:
        walked = session.execute(
            _WALK, {"after": walk_after, "urls": _WALKED_URLS, "rows": IN_FLIGHT_PER_URL}
        ).all()
        seen = set(chosen)
        chosen += [
            row.id
            for row in walked
            if row.id is not None and row.id not in seen and room.take(row.url)
        ]
        ended = not walked or walked[-1].step < _WALKED_URLS
        walked_to = "" if ended else walked[-1].url
    if not chosen:
        return [], walked_to
    session.execute(_GIVE_UP, {"ids": chosen})
    return _lease(session, chosen), walked_to


def _lease(session: Session, delivery_ids: Sequence[UUID]) -> list[Parcel]:
    leased = session.execute(
        _LEASE, {"ids": list(delivery_ids), "lease_seconds": LEASE_SECONDS}
    ).all()
    if not leased:
        return []
    session.execute(
        insert(DeliveryAttempt),
        [{"delivery_id": row.id, "number": row.attempts} for row in leased],
    )
    return parcels.read(session, [row.id for row in leased])


def finish(session: Session, parcel: Parcel, outcome: Outcome) -> Recorded:
    """Records an outcome; nothing changes if the delivery has been claimed since."""
    if parcel.endpoint_id is not None:
        health.lock(session, parcel.endpoint_id)
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
        return Recorded(False)
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
    if parcel.endpoint_id is None:
        return Recorded(True)
    delivered = outcome.status is DeliveryStatus.DELIVERED
    reason = health.note(
        session, parcel.endpoint_id, delivered=delivered, http_status=outcome.http_status
    )
    return Recorded(True, disabled_reason=reason)
