"""Circuit breakers: whether a provider that keeps failing is called at all. One a process.

Nothing here waits or locks, so that threads and greenlets may share it. Counters are plain ints:
what two threads lose of each other's counting does no harm. Only the right to probe must go to
one of them, and taking the last item of a list is one step under the interpreter's lock.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from gateway.providers.dialect import (
    Broken,
    Credential,
    ProviderError,
    StreamBroken,
    Unavailable,
)

_FAILURES = (Unavailable, Broken, StreamBroken)
_RATE_LIMITED = 429
CIRCUIT_OPEN = "circuit_open"


class State(StrEnum):
    """Whether calls are let through: all, none, or one that tries."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


@dataclass(frozen=True, slots=True)
class Policy:
    """When a circuit opens: after so many failures in a row, or at that rate within a window.

    One call fails up to three times before its caller is told: two callers' bad luck is no outage.
    """

    failures_in_a_row: int = 10
    window_seconds: float = 30.0
    window_calls: int = 20
    window_failure_percent: int = 50
    cool_down_seconds: float = 10.0


@dataclass(slots=True)
class _Tally:
    """What was counted since the circuit closed, in a window and the one before it."""

    window_began: float
    failures_in_a_row: int = 0
    calls: int = 0
    failures: int = 0
    calls_before: int = 0
    failures_before: int = 0

    def count(self, error: ProviderError | None, now: float, window_seconds: float) -> None:
        """Counts a success, or a failure."""
        windows = int((now - self.window_began) / window_seconds)
        if windows:
            # The window just past still counts, so that there is no blind spot after each turn.
            self.calls_before = self.calls if windows == 1 else 0
            self.failures_before = self.failures if windows == 1 else 0
            self.calls = self.failures = 0
            self.window_began += windows * window_seconds
        self.calls += 1
        if error is None:
            self.failures_in_a_row = 0
            return
        self.failures_in_a_row += 1
        # Who serves some calls and limits others is up: cutting it off would help nobody.
        if error.status != _RATE_LIMITED:
            self.failures += 1


class Breaker:
    """The circuit to one provider account. `clock` is monotonic, in seconds."""

    def __init__(
        self, policy: Policy | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._policy = policy or Policy()
        self._clock = clock
        self._open = False
        self._probing = False
        self._probe_due: list[float] = []
        self._tally = _Tally(clock())

    @property
    def state(self) -> State:
        """For metrics; `allows` decides."""
        if not self._open:
            return State.CLOSED
        return State.HALF_OPEN if self._probing else State.OPEN

    def allows(self) -> bool:
        """Whether to call now. A call that was let through is to be told of by `record`.

        After the cool-down one call probes. If nothing is heard of it (its caller hung up, say),
        another may probe after one more cool-down.
        """
        if not self._open:
            return True
        try:
            due = self._probe_due.pop()
        except IndexError:
            return False
        now = self._clock()
        if now < due:
            self._probe_due.append(due)
            return False
        self._probe_due.append(now + self._policy.cool_down_seconds)
        self._probing = True
        return True

    def refusal(self, provider: str) -> Unavailable:
        """What is told of a call that is not let through, and when the next one may be."""
        now = self._clock()
        due = max(self._probe_due, default=now)  # empty for the moment in which one is let through
        return Unavailable(
            f"{provider} keeps failing and is not called for a moment",
            code=CIRCUIT_OPEN,
            retry_after_seconds=max(0.0, due - now),
        )

    def record(self, error: ProviderError | None) -> None:
        """Tells how a call ended: None is success.

        A refusal of the request or of the key says nothing about the provider's health. What was
        already under way when the circuit opened changes nothing either.
        """
        failed = isinstance(error, _FAILURES)
        if self._open:
            if self._probing:
                self._record_probe(failed=failed, told=failed or error is None)
        elif failed or error is None:
            self._tally.count(error, self._clock(), self._policy.window_seconds)
            if failed and self._is_failing():
                self._trip()

    def _record_probe(self, *, failed: bool, told: bool) -> None:
        if failed:
            self._trip()
        elif told:
            self._tally = _Tally(self._clock())
            self._open = self._probing = False
        else:
            self._probing = False
            self._probe_due = [self._clock()]

    def _is_failing(self) -> bool:
        policy, tally = self._policy, self._tally
        if tally.failures_in_a_row >= policy.failures_in_a_row:
            return True
        calls = tally.calls + tally.calls_before
        failures = tally.failures + tally.failures_before
        return (
            calls >= policy.window_calls and failures * 100 >= calls * policy.window_failure_percent
        )

    def _trip(self) -> None:
        self._probing = False
        self._probe_due = [self._clock() + self._policy.cool_down_seconds]
        self._open = True


class Breakers:
    """A breaker for every provider account that is called."""

    def __init__(
        self, policy: Policy | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._policy = policy
        self._clock = clock
        self._breakers: dict[tuple[str, str], Breaker] = {}

    def of(self, credential: Credential) -> Breaker:
        """The breaker of a credential, by its provider and name."""
        key = (credential.provider, credential.name)
        breaker = self._breakers.get(key)
        # Of two threads that make one, setdefault keeps the first's for both.
        return breaker or self._breakers.setdefault(key, Breaker(self._policy, self._clock))

    def states(self) -> dict[tuple[str, str], State]:
        """The state of every circuit so far, by provider and credential name."""
        return {key: breaker.state for key, breaker in list(self._breakers.items())}
