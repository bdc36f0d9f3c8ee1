"""How long it takes until work goes on after a process or a store was struck.

What is measured, by one look at the database every quarter of a second:

- *left batch, left delivery*: what was leased when a worker was killed or stopped, and whose lease
  then ran out without having been renewed or given back; the time from the blow until somebody
  else claims it (its epoch rises). A row that is renewed, given back or finished under the same
  epoch belonged to a living worker, and is no sample.
- *due batch, due delivery, due lane*: a provider batch or a webhook delivery that was due and
  leased by nobody at the blow, or a lane whose oldest waiting job was ripe to be cut; the time from
  the blow (or from when the store was back) until somebody takes it up: claims it, moves it on, or
  looks at it at the provider.
- *sweep*: the time until the next turn of `sweep_batches` is taken by a scheduler. It includes
  what is left of its interval, which is 10 s.
- *web*: the time until the struck web process is ready to take calls again.

A sample during which a store (PostgreSQL, Redis) was away is kept apart as *hindered*: its length
is the other outage's. All other faults (slow and failing providers, cut connections, bad
receivers, further kills) go on meanwhile and are not taken out.
"""

import math
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime

import httpx
import psycopg

from tests.soak.deployment import SOAK_SETTINGS, SoakDeployment

LOOK_SECONDS = 0.25
GIVE_UP_SECONDS = 240.0
_ROWS = """
    SELECT 'batch', id::text, epoch, status, leased_until, due_at, now()
    FROM provider_batches WHERE status <> 'done'
    UNION ALL
    SELECT 'delivery', id::text, epoch, status, leased_until, due_at, now()
    FROM deliveries WHERE status = 'pending'
    UNION ALL
    (SELECT DISTINCT ON (lane_id) 'lane', id::text, 0, 'waiting', NULL::timestamptz,
            created_at + make_interval(secs => %(window)s), now()
     FROM jobs WHERE batch_id IS NULL AND completed_at IS NULL ORDER BY lane_id, id)
"""
_SWEEP = "SELECT coalesce(max(slot), 0) FROM ticks WHERE task = 'sweep_batches'"

Key = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Sample:
    """How long it took after one blow until one thing went on."""

    blow: str
    what: str
    seconds: float
    hindered: bool

    @property
    def group(self) -> tuple[str, str]:
        """What it is compared with."""
        return self.blow, self.what


@dataclass(frozen=True, slots=True)
class _Row:
    epoch: int
    status: str
    leased_until: datetime | None
    due_at: datetime
    now: datetime

    @property
    def is_leased(self) -> bool:
        return self.leased_until is not None and self.leased_until > self.now

    @property
    def is_due(self) -> bool:
        return not self.is_leased and self.due_at <= self.now


@dataclass
class _Watch:
    """What one blow left behind, from the first look after it on."""

    blow: str
    struck_at: float
    holds_leases: bool
    counts_due: bool
    left: dict[Key, _Row] = field(default_factory=dict)
    due: dict[Key, _Row] = field(default_factory=dict)
    sweep: int | None = None
    has_looked: bool = False

    @property
    def is_over(self) -> bool:
        return self.has_looked and not self.left and not self.due and self.sweep is None

    def begin(self, rows: Mapping[Key, _Row]) -> None:
        self.has_looked = True
        if self.holds_leases:
            self.left = {key: row for key, row in rows.items() if row.is_leased}
        if self.counts_due:
            self.due = {key: row for key, row in rows.items() if row.is_due}

    def look(self, rows: Mapping[Key, _Row], now: datetime) -> Iterator[str]:
        """What has been taken up since the look before; what was nobody's leaves unsaid."""
        for key, old in list(self.left.items()):
            new = rows.get(key)
            if new == old or (new is not None and _is_same_lease(old, new)):
                continue
            del self.left[key]
            lapsed = old.leased_until is not None and now >= old.leased_until
            if lapsed and (new is None or new.epoch > old.epoch):
                yield f"left {key[0]}"
        for key, old in list(self.due.items()):
            new = rows.get(key)
            if new is None or not _is_untouched(old, new):
                del self.due[key]
                yield f"due {key[0]}"


def _is_same_lease(old: _Row, new: _Row) -> bool:
    return (new.epoch, new.leased_until) == (old.epoch, old.leased_until)


def _is_untouched(old: _Row, new: _Row) -> bool:
    return _is_same_lease(old, new) and (new.status, new.due_at) == (old.status, old.due_at)


class Observer:
    """Looks on from a thread of its own, with a connection that no fault is put on."""

    def __init__(self, deployment: SoakDeployment, say: Callable[[str], None]) -> None:
        self.wrong: list[str] = []
        self._deployment = deployment
        self._say = say
        self._samples: list[Sample] = []
        self._watches: list[_Watch] = []
        self._outages: list[tuple[float, float]] = []
        self._away_since: float | None = None
        self._lock = threading.Lock()
        self._over = threading.Event()

    @contextmanager
    def looking(self) -> Iterator[None]:
        """Looks while the block runs."""
        thread = threading.Thread(target=self._look_on, name="observer")
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            thread.join()

    @property
    def samples(self) -> list[Sample]:
        """What has been measured so far."""
        with self._lock:
            return list(self._samples)

    def struck(
        self, blow: str, *, leases: bool = False, due: bool = False, sweep: bool = False
    ) -> None:
        """A blow fell just now; what to look for."""
        watch = _Watch(blow, time.monotonic(), leases, due)
        if sweep:
            with self._deployment.database() as connection:
                watch.sweep = _slot(connection)
        with self._lock:
            self._watches.append(watch)

    def struck_web(self, blow: str, url: str) -> None:
        """A web process was struck just now."""
        threading.Thread(
            target=self._until_ready, args=(blow, url, time.monotonic()), daemon=True
        ).start()

    def store_away(self) -> None:
        """PostgreSQL or Redis does not answer from now on."""
        with self._lock:
            self._away_since = time.monotonic()

    def store_back(self) -> None:
        """It answers again."""
        with self._lock:
            if self._away_since is not None:
                self._outages.append((self._away_since, time.monotonic()))
                self._away_since = None

    def was_hindered(self, since: float) -> bool:
        """Whether a store has been away since then."""
        with self._lock:
            return self._was_hindered(since)

    def _was_hindered(self, since: float) -> bool:
        return self._away_since is not None or any(end > since for _, end in self._outages)

    def _note(self, blow: str, what: str, struck_at: float) -> None:
        seconds = time.monotonic() - struck_at
        sample = Sample(blow, what, seconds, self._was_hindered(struck_at))
        self._samples.append(sample)
        self._say(str(sample))

    def _until_ready(self, blow: str, url: str, struck_at: float) -> None:
        with httpx.Client(base_url=url, timeout=2, trust_env=False) as client:
            while time.monotonic() - struck_at < GIVE_UP_SECONDS and not self._over.is_set():
                try:
                    if client.get("/ready").is_success:
                        with self._lock:
                            self._note(blow, "web", struck_at)
                        return
                except httpx.TransportError:
                    self._over.wait(LOOK_SECONDS)
        if not self._over.is_set():
            self.wrong.append(f"{blow}: {url} was not ready within {GIVE_UP_SECONDS:.0f} s")

    def _look_on(self) -> None:
        while not self._over.is_set():
            try:
                with self._deployment.database() as connection:
                    while not self._over.wait(LOOK_SECONDS):
                        self._look(connection)
            except psycopg.OperationalError:
                self._over.wait(LOOK_SECONDS)

    def _look(self, connection: psycopg.Connection) -> None:
        with self._lock:
            watches = list(self._watches)
        if not watches:
            return
        slot = _slot(connection)
        window = float(SOAK_SETTINGS["BATCH_WINDOW_SECONDS"])
        found = connection.execute(_ROWS, {"window": window}).fetchall()
        rows = {(row[0], row[1]): _Row(*row[2:]) for row in found}
        (now,) = connection.execute("SELECT now()").fetchone() or (None,)
        assert isinstance(now, datetime)
        with self._lock:
            for watch in watches:
                self._advance(watch, rows, now, slot)
            self._watches = [watch for watch in self._watches if not watch.is_over]

    def _advance(self, watch: _Watch, rows: Mapping[Key, _Row], now: datetime, slot: int) -> None:
        if not watch.has_looked:
            watch.begin(rows)
        for what in watch.look(rows, now):
            self._note(watch.blow, what, watch.struck_at)
        if watch.sweep is not None and slot > watch.sweep:
            watch.sweep = None
            self._note(watch.blow, "sweep", watch.struck_at)
        if time.monotonic() - watch.struck_at > GIVE_UP_SECONDS:
            waiting = [*watch.left, *watch.due, *([] if watch.sweep is None else ["the sweep"])]
            self.wrong.append(f"{watch.blow}: {waiting} went on waiting for {GIVE_UP_SECONDS} s")
            watch.left, watch.due, watch.sweep = {}, {}, None


def _slot(connection: psycopg.Connection) -> int:
    (slot,) = connection.execute(_SWEEP).fetchone() or (0,)
    return int(slot)


@dataclass(frozen=True, slots=True)
class Distribution:
    """Of some samples, in seconds; percentiles are by nearest rank."""

    count: int
    p50: float
    p90: float
    p99: float
    most: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> "Distribution":
        """Of at least one."""
        ranked = sorted(seconds)

        def percentile(percent: int) -> float:
            return round(ranked[math.ceil(len(ranked) * percent / 100) - 1], 2)

        return cls(len(ranked), *map(percentile, (50, 90, 99, 100)))


def distributions(
    samples: Sequence[Sample], *, hindered: bool
) -> dict[tuple[str, str], Distribution]:
    """By blow and what was waited for."""
    seconds: dict[tuple[str, str], list[float]] = defaultdict(list)
    for sample in samples:
        if sample.hindered == hindered:
            seconds[sample.group].append(sample.seconds)
    return {group: Distribution.of(each) for group, each in sorted(seconds.items())}
