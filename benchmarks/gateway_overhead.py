"""`python -m benchmarks.gateway_overhead`: what a call costs on its way through a gateway.

Every contender forwards the same calls to the same provider, which answers at once (see
`benchmarks.overhead`). They are measured in turns within one run, each figure the median of its
turns. CPU is that of the gateway's processes alone; what ours spends in its database is told apart.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

from benchmarks.overhead.contenders import CONTENDERS, MODEL, Contender, upstream
from benchmarks.overhead.load import Heard, Request, call

CONCURRENCIES = (1, 16, 64)
SLOW_CONCURRENCY, SLOW_MS = 256, 50
STREAMS, STREAM_CHUNKS, STREAM_EVERY_MS = 200, 20, 250
FAST_STREAMS, FAST_CHUNKS = 16, 200
LATE_SECONDS = 0.1
"""A chunk that comes this much after it was sent is late."""


@dataclass(frozen=True, slots=True)
class Mode:
    """One kind of load."""

    title: str
    concurrency: int
    user: str
    chunks: int = 0


@dataclass(slots=True)
class Turns:
    """What the turns of one contender under one load gave."""

    rates: list[float] = field(default_factory=list)
    p50s: list[float] = field(default_factory=list)
    p95s: list[float] = field(default_factory=list)
    p99s: list[float] = field(default_factory=list)
    firsts: list[float] = field(default_factory=list)
    micros: list[float] = field(default_factory=list)
    database_micros: list[float] = field(default_factory=list)
    late: int = 0
    failed: int = 0


PLAIN = [Mode(f"{n} at once", n, "plain") for n in CONCURRENCIES]
SLOW = Mode(
    f"{SLOW_CONCURRENCY} at once, a provider that takes {SLOW_MS} ms",
    SLOW_CONCURRENCY,
    f"delay={SLOW_MS}",
)
ONE_STREAM = Mode("1 stream of 10 chunks (CPU is per chunk)", 1, "chunks=10", 10)
FAST_STREAM = Mode(
    f"{FAST_STREAMS} streams of {FAST_CHUNKS} chunks without a pause (CPU is per chunk)",
    FAST_STREAMS,
    f"chunks={FAST_CHUNKS}",
    FAST_CHUNKS,
)
LONG_STREAM = Mode(
    f"{STREAMS} streams of {STREAM_CHUNKS} chunks, one every {STREAM_EVERY_MS} ms",
    STREAMS,
    f"chunks={STREAM_CHUNKS} every={STREAM_EVERY_MS}",
    STREAM_CHUNKS,
)


def body(mode: Mode) -> bytes:
    """The request's body."""
    asked = {
        "model": MODEL,
        "messages": [{"role": "user", "content": "What costs a call on its way?"}],
        "max_tokens": 100,
        "user": mode.user,
    }
    if mode.chunks:
        asked["stream"] = True
    return json.dumps(asked).encode()


def turn(contender: Contender, mode: Mode, seconds: float, turns: Turns) -> None:
    """One contender's turn under one load."""
    cpu, besides = contender.cpu_seconds(), contender.besides_seconds()
    request = Request(contender.url, contender.headers, body(mode))
    heard = call(request, mode.concurrency, seconds, mode.chunks)
    cpu, besides = contender.cpu_seconds() - cpu, contender.besides_seconds() - besides
    if heard.failures and not turns.failed:
        print(f"{contender.name}: {heard.failures[0]!r}", file=sys.stderr)
    turns.failed += len(heard.failures)
    if heard.latencies:
        _note(turns, heard, mode, cpu, besides)


def _note(turns: Turns, heard: Heard, mode: Mode, cpu: float, besides: float) -> None:
    cuts = statistics.quantiles(heard.latencies, n=100, method="inclusive")
    units = len(heard.latencies) * (mode.chunks or 1)
    turns.rates.append(len(heard.latencies) / heard.seconds)
    turns.p50s.append(cuts[49] * 1000)
    turns.p95s.append(cuts[94] * 1000)
    turns.p99s.append(cuts[98] * 1000)
    turns.micros.append(cpu / units * 1e6)
    turns.database_micros.append(besides / units * 1e6)
    if heard.firsts:
        turns.firsts.append(statistics.median(heard.firsts) * 1000)
    turns.late += sum(delay > LATE_SECONDS for delay in heard.delays)


def measure(
    contenders: Sequence[Contender], mode: Mode, seconds: float, rounds: int
) -> dict[str, Turns]:
    """All contenders in turns under one load; prints the table."""
    found = {each.name: Turns() for each in contenders}
    for _ in range(rounds):
        for each in contenders:
            turn(each, mode, seconds, found[each.name])
    show(mode, found)
    return found


def show(mode: Mode, found: dict[str, Turns]) -> None:
    """One table: a line a contender."""
    first = "first ms" if mode.chunks else ""
    print(f"\n{mode.title}")
    print(
        f"{'':20}{'a second':>10}{'p50 ms':>9}{'p95 ms':>9}{'p99 ms':>9}{first:>10}"
        f"{'CPU µs':>9}{'database':>10}{'late':>7}{'failed':>8}"
    )
    for name, turns in found.items():
        if not turns.rates:
            print(f"{name:20}{'no answer':>10}{turns.failed:>72}")
            continue
        told = [turns.rates, turns.p50s, turns.p95s, turns.p99s]
        rate, p50, p95, p99 = (statistics.median(each) for each in told)
        first = f"{statistics.median(turns.firsts):.1f}" if turns.firsts else ""
        micros, database = (
            f"{value:.0f}" if (value := statistics.median(each)) else "-"
            for each in (turns.micros, turns.database_micros)
        )
        print(
            f"{name:20}{rate:>10.0f}{p50:>9.2f}{p95:>9.2f}{p99:>9.2f}{first:>10}"
            f"{micros:>9}{database:>10}{turns.late:>7}{turns.failed:>8}"
        )


def hot_account(contender: Contender, seconds: float, rounds: int) -> None:
    """All traffic on one balance, against the same spread over all accounts."""
    one = Contender(
        "one account", contender.url, contender.headers[:1], contender.process, contender.besides
    )
    many = Contender(
        "100 accounts", contender.url, contender.headers, contender.process, contender.besides
    )
    found = measure([many, one], Mode("One account, 64 at once", 64, "plain"), seconds, rounds)
    ratio = statistics.median(found[one.name].rates) / statistics.median(found[many.name].rates)
    print(f"one hot account reaches {ratio:.0%} of what 100 accounts reach")


def ratios(found: dict[str, Turns], value: Callable[[Turns], list[float]]) -> str:
    """Ours against each of the others."""
    if "offpeak" not in found or not found["offpeak"].rates:
        return ""
    ours = statistics.median(value(found["offpeak"]))
    others = {name: turns for name, turns in found.items() if name not in ("offpeak", "direct")}
    return ", ".join(
        f"{ours / statistics.median(value(turns)):.2f}x {name}"
        for name, turns in others.items()
        if turns.rates and statistics.median(value(turns))
    )


def added(found: dict[str, Turns], value: Callable[[Turns], list[float]]) -> str:
    """What each gateway adds to calls that go to the provider directly."""
    medians = {
        name: statistics.median(value(turns)) for name, turns in found.items() if turns.rates
    }
    if "direct" not in medians:
        return ""
    direct = medians.pop("direct")
    return ", ".join(f"{median - direct:.2f} {name}" for name, median in medians.items())


def main() -> None:
    """Prints the tables, then the ratios that matter."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default=",".join(CONTENDERS), help="some of: %(default)s")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each turn")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    with ExitStack() as stack:
        address = stack.enter_context(upstream())
        contenders = []
        for name in given.only.split(","):
            try:
                contenders.append(stack.enter_context(CONTENDERS[name](address)))
            except LookupError as missing:
                print(f"{name} is left out: {missing}", file=sys.stderr)
        # What a first call has to set up is no part of the figures.
        for each in contenders:
            call(Request(each.url, each.headers, body(SLOW)), SLOW.concurrency, 2.0)
        plain = [measure(contenders, mode, given.seconds, given.rounds) for mode in PLAIN]
        measure(contenders, SLOW, given.seconds, given.rounds)
        one = measure(contenders, ONE_STREAM, given.seconds, given.rounds)
        fast = measure(contenders, FAST_STREAM, given.seconds, given.rounds)
        measure(contenders, LONG_STREAM, 0.0, 1)
        print("\nMemory, MB: ", ", ".join(f"{c.name} {c.megabytes():.0f}" for c in contenders[1:]))
        for mode, found in zip(PLAIN, plain, strict=True):
            print(f"CPU a request, {mode.title}: {ratios(found, lambda turns: turns.micros)}")
        print(f"CPU a chunk: {ratios(fast, lambda turns: turns.micros)}")
        print(f"added at 1 at once, ms, p50: {added(plain[0], lambda turns: turns.p50s)}")
        print(f"added to 1 stream's first token, ms: {added(one, lambda turns: turns.firsts)}")
        for each in contenders:
            if each.name == "offpeak":
                hot_account(each, given.seconds, given.rounds)


if __name__ == "__main__":
    main()
