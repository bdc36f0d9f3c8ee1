"""Requests a minute: how many a key may make, and the counting of them.

A call is let in if each of its buckets has room in the last 60 seconds, and is counted in all of
them or in none: what is refused does not count. Counts are kept by whole seconds, so that the
window slides in steps of one. A bucket in Redis is a hash of second and count, shared by all web
processes; in memory it holds for one process, and stands in while Redis is away.
"""

from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

import redis
from redis.connection import ConnectionInterface

from gateway.access.keys import DEFAULT_REQUESTS_PER_MINUTE, Identity

WINDOW_SECONDS = 60
READS_PER_MINUTE = 600
KEYS_PER_ACCOUNT = 10
"""An account's keys of the default limit share that of so many, however many keys it makes."""
PREFIX = "requests:"


@dataclass(frozen=True, slots=True)
class Bucket:
    """What is counted together, and how many of it fit into the window."""

    name: str
    limit: int


@dataclass(frozen=True, slots=True)
class Count:
    """What a bucket held before a call came, and the second of the first of it (now, if empty)."""

    used: int
    oldest_second: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a call is let in. `limit`, `remaining` and `reset_seconds` are of its key.

    `reset_seconds` is when the oldest counted request leaves the window. Who is refused finds
    room again after `retry_after_seconds`.
    """

    admitted: bool
    limit: int
    remaining: int
    reset_seconds: int
    retry_after_seconds: int


class Counts(Protocol):
    """Where the buckets are."""

    def take(self, calls: Sequence[Sequence[Bucket]], now: float) -> list[list[Count]]:
        """Counts each call in its buckets if all have room; what each held before.

        `now` is in seconds since 1970.
        """
        ...


def buckets_of(identity: Identity, *, reading: bool) -> tuple[Bucket, ...]:
    """The buckets of one call, its key's own first. `reading` is for polls of what one waits for.

    A key with a limit above the default was given it by an operator and stands outside its
    account's bucket.
    """
    limit = identity.requests_per_minute or DEFAULT_REQUESTS_PER_MINUTE
    if reading:
        return (Bucket(f"read:{identity.key_id.hex}", max(limit, READS_PER_MINUTE)),)
    own = Bucket(f"key:{identity.key_id.hex}", limit)
    if limit > DEFAULT_REQUESTS_PER_MINUTE:
        return (own,)
    shared = KEYS_PER_ACCOUNT * DEFAULT_REQUESTS_PER_MINUTE
    return own, Bucket(f"account:{identity.account_id.hex}", shared)


def judge(buckets: Sequence[Bucket], counts: Sequence[Count], now: float) -> Verdict:
    """What the counts say of a call, as `take` has decided it."""
    waits = [
        count.oldest_second + WINDOW_SECONDS - int(now)
        for bucket, count in zip(buckets, counts, strict=True)
        if count.used >= bucket.limit
    ]
    used = counts[0].used + (not waits)
    return Verdict(
        admitted=not waits,
        limit=buckets[0].limit,
        remaining=max(0, buckets[0].limit - used),
        reset_seconds=max(1, counts[0].oldest_second + WINDOW_SECONDS - int(now)),
        retry_after_seconds=max(1, *waits) if waits else 0,
    )


# KEYS: the calls' buckets, one call's after the other's. ARGV: this second, the window in seconds,
# and for each call how many buckets it has, and their limits. Answers what each bucket held before
# its call came, and its oldest second.
_TAKE = """
local now, window = tonumber(ARGV[1]), tonumber(ARGV[2])
local answer, bucket, argument = {}, 0, 3
while argument <= #ARGV do
    local first, room = bucket + 1, true
    for _ = 1, tonumber(ARGV[argument]) do
        bucket, argument = bucket + 1, argument + 1
        local used, oldest = 0, now
        local counts = redis.call('HGETALL', KEYS[bucket])
        for j = 1, #counts, 2 do
            local second = tonumber(counts[j])
            if second <= now - window then
                redis.call('HDEL', KEYS[bucket], counts[j])
            else
                used = used + tonumber(counts[j + 1])
                oldest = math.min(oldest, second)
            end
        end
        room = room and used < tonumber(ARGV[argument])
        answer[2 * bucket - 1], answer[2 * bucket] = used, oldest
    end
    if room then
        for i = first, bucket do
            redis.call('HINCRBY', KEYS[i], now, 1)
            redis.call('EXPIRE', KEYS[i], window)
        end
    end
    argument = argument + 1
end
return answer
"""


class RedisCounts:
    """Buckets that all processes share; every call of one `take` goes in one round trip.

    One `take` at a time: its connection is kept from one to the next, for what redis-py does to
    lend one out and to watch over a command took as long as the command. Raises redis.RedisError.
    """

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self._kept: ConnectionInterface | None = None

    def take(self, calls: Sequence[Sequence[Bucket]], now: float) -> list[list[Count]]:
        """See `Counts`."""
        names = [PREFIX + bucket.name for buckets in calls for bucket in buckets]
        told: list[int] = [int(now), WINDOW_SECONDS]
        for buckets in calls:
            told += (len(buckets), *(bucket.limit for bucket in buckets))
        answer = iter(self._ask("EVAL", _TAKE, len(names), *names, *told))
        return [[Count(next(answer), next(answer)) for _ in buckets] for buckets in calls]

    def answer(self) -> bool:
        """Whether Redis answers."""
        try:
            return bool(self._client.ping())
        except redis.RedisError:
            return False

    def _ask(self, *command: str | int) -> Sequence[int]:
        if self._kept is not None:
            # The server may have hung up since the last command; then the next one dials anew.
            with suppress(redis.ConnectionError):
                return _exchange(self._kept, command)
        else:
            self._kept = self._client.connection_pool.get_connection()
        return _exchange(self._kept, command)


def _exchange(connection: ConnectionInterface, command: Sequence[str | int]) -> Sequence[int]:
    connection.send_command(*command)  # type: ignore[no-untyped-call]  # has no types
    answer: Sequence[int] = connection.read_response()
    return answer


@dataclass(slots=True)
class _Log:
    """One bucket in memory: its counts by second, oldest first, and their sum."""

    seconds: deque[tuple[int, int]] = field(default_factory=deque)
    used: int = 0

    def forget(self, until_second: int) -> None:
        while self.seconds and self.seconds[0][0] <= until_second:
            self.used -= self.seconds.popleft()[1]

    def add(self, second: int) -> None:
        # A clock that was set back counts into the newest second there is.
        if self.seconds and self.seconds[-1][0] >= second:
            newest, count = self.seconds[-1]
            self.seconds[-1] = (newest, count + 1)
        else:
            self.seconds.append((second, 1))
        self.used += 1


class LocalCounts:
    """Buckets of this process. Those that were not used for a window are forgotten."""

    def __init__(self) -> None:
        self._logs: dict[str, _Log] = {}
        self._swept_second = 0

    def __len__(self) -> int:
        """How many buckets are remembered."""
        return len(self._logs)

    def take(self, calls: Sequence[Sequence[Bucket]], now: float) -> list[list[Count]]:
        """See `Counts`."""
        second = int(now)
        if second - self._swept_second >= WINDOW_SECONDS:
            self._sweep(second)
        return [self._take(buckets, second) for buckets in calls]

    def _take(self, buckets: Sequence[Bucket], second: int) -> list[Count]:
        logs = [self._logs.setdefault(bucket.name, _Log()) for bucket in buckets]
        counts = []
        for log in logs:
            log.forget(second - WINDOW_SECONDS)
            counts.append(Count(log.used, log.seconds[0][0] if log.seconds else second))
        if all(log.used < bucket.limit for log, bucket in zip(logs, buckets, strict=True)):
            for log in logs:
                log.add(second)
        return counts

    def _sweep(self, second: int) -> None:
        self._swept_second = second
        for name, log in list(self._logs.items()):
            log.forget(second - WINDOW_SECONDS)
            if not log.used:
                del self._logs[name]
