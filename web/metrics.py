"""What `/metrics` tells Prometheus: what this service has done, and how it is.

What is counted here is summed over the web processes of one machine: under gunicorn each writes
its values to a file in PROMETHEUS_MULTIPROC_DIR (see `web.server`), and whichever process is
asked reads all of them. Several machines are scraped one by one. What the database knows is the
same wherever it is asked; it is read again after `GAUGES_SECONDS` at the earliest.
"""

import os
import time
from collections.abc import Callable, Iterator
from functools import cache
from typing import TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector
from sqlalchemy.exc import SQLAlchemyError

from gateway.analytics import gauges
from gateway.calls.record import CallRecord
from gateway.providers.breaker import Breakers, State
from web.threads import DatabaseAway, Readers
from workers.bell import Actor

GAUGES_SECONDS = 5.0
SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
NO_ROUTE = "none"
M = TypeVar("M", Counter, Histogram)
_BREAKER_VALUES = {State.CLOSED: 0, State.HALF_OPEN: 1, State.OPEN: 2}


def _by_labels(metric: M) -> Callable[..., M]:
    """The metric's value for some labels. To ask the metric itself costs more than to count."""
    return cache(metric.labels)


class Metrics:
    """The process's counters; an observer of requests, of calls and of the writer."""

    def __init__(self, breakers: Breakers) -> None:
        own = self._registry = CollectorRegistry()
        self._breakers = breakers
        self._has_open_breaker = True
        self._requests = _by_labels(
            Counter(
                "offpeak_requests", "HTTP requests.", ("method", "route", "status"), registry=own
            )
        )
        self._request_seconds = _by_labels(
            Histogram(
                "offpeak_request_seconds",
                "Time until an answer's headers.",
                ("route",),
                buckets=SECONDS,
                registry=own,
            )
        )
        self._calls = _by_labels(
            Counter(
                "offpeak_calls",
                "Synchronous calls, by what their callers were told.",
                ("provider", "model", "lane", "status"),
                registry=own,
            )
        )
        self._call_seconds = _by_labels(
            Histogram(
                "offpeak_call_seconds",
                "Time until a call was over.",
                ("provider",),
                buckets=SECONDS,
                registry=own,
            )
        )
        self._first_token_seconds = _by_labels(
            Histogram(
                "offpeak_first_token_seconds",
                "Time until a stream's first token.",
                ("provider",),
                buckets=SECONDS,
                registry=own,
            )
        )
        self._tokens = _by_labels(
            Counter(
                "offpeak_tokens",
                "Tokens of synchronous calls; reasoning is inside output.",
                ("provider", "model", "class"),
                registry=own,
            )
        )
        self._nanos = _by_labels(
            Counter(
                "offpeak_nanos",
                "Nano-USD of synchronous calls: charged to customers, "
                "and what they cost the house.",
                ("provider", "kind"),
                registry=own,
            )
        )
        self._unpriced = _by_labels(
            Counter("offpeak_unpriced_calls", "Calls without usage.", ("provider",), registry=own)
        )
        self._provider_errors = _by_labels(
            Counter(
                "offpeak_provider_errors",
                "Tries that a provider failed; status `none` is no answer.",
                ("provider", "status"),
                registry=own,
            )
        )
        self._breaker = Gauge(
            "offpeak_breaker_state",
            "0 closed, 1 probing, 2 open: the worst over processes and keys.",
            ("provider",),
            multiprocess_mode="livemax",
            registry=own,
        )
        self._group_sizes = _by_labels(
            Histogram(
                "offpeak_writer_group_size",
                "How many of a kind were committed together.",
                ("kind",),
                buckets=SIZES,
                registry=own,
            )
        )
        self._log_drops = Counter(
            "offpeak_request_log_dropped", "Rows that the request log lost.", registry=own
        )
        self._limits_shared = Gauge(
            "offpeak_limits_shared",
            "1 while request limits are counted in Redis, 0 while a process counts alone.",
            multiprocess_mode="livemin",
            registry=own,
        )
        self._limits_shared.set(1)

    def observe_response(self, route: str | None, method: str, status: int, seconds: float) -> None:
        """Counts an answer. What no route takes counts together, whatever its path."""
        shown = route or NO_ROUTE
        self._requests(method, shown, status).inc()
        self._request_seconds(shown).observe(seconds)

    def observe_call(self, record: CallRecord) -> None:
        """Counts a synchronous call that is over."""
        if record.replayed:
            return
        provider = record.provider or NO_ROUTE
        self._calls(provider, record.model, record.lane, record.http_status).inc()
        self._call_seconds(provider).observe(record.latency_milliseconds / 1000)
        if record.first_token_milliseconds is not None:
            self._first_token_seconds(provider).observe(record.first_token_milliseconds / 1000)
        for attempt in record.attempts:
            if attempt.error is not None:
                status = attempt.http_status or "none"
                self._provider_errors(attempt.provider, status).inc()
        if record.unpriced:
            self._unpriced(provider).inc()
        self._observe_usage(provider, record)
        if self._has_open_breaker or any(attempt.error for attempt in record.attempts):
            self._observe_breakers()

    def observe_group(self, kind: str, size: int) -> None:
        """Counts a transaction of the writer."""
        self._group_sizes(kind).observe(size)

    def observe_log_drops(self, rows: int) -> None:
        """Counts what the request log lost."""
        self._log_drops.inc(rows)

    def observe_limits(self, *, shared: bool) -> None:
        """Notes whether Redis counts requests."""
        self._limits_shared.set(1 if shared else 0)

    def text(self) -> bytes:
        """What all web processes of this machine have counted."""
        self._observe_breakers()
        registry, folder = self._registry, os.environ.get("PROMETHEUS_MULTIPROC_DIR")
        if folder:
            registry = CollectorRegistry()
            MultiProcessCollector(registry, folder)  # type: ignore[no-untyped-call]  # has no types
        return generate_latest(registry)

    def _observe_usage(self, provider: str, record: CallRecord) -> None:
        usage = record.usage
        if usage is not None:
            classes = {
                "input_uncached": usage.input_uncached,
                "cache_read": usage.cache_read,
                "cache_write": usage.cache_write_short + usage.cache_write_long,
                "output": usage.output,
                "reasoning": usage.reasoning,
            }
            for name, count in classes.items():
                if count:
                    self._tokens(provider, record.model, name).inc(count)
        self._nanos(provider, "charged").inc(record.charged_nanos or 0)
        self._nanos(provider, "cost").inc(record.cost_nanos or 0)

    def _observe_breakers(self) -> None:
        worst: dict[str, int] = {}
        for (provider, _), state in self._breakers.states().items():
            worst[provider] = max(worst.get(provider, 0), _BREAKER_VALUES[state])
        for provider, value in worst.items():
            self._breaker.labels(provider).set(value)
        self._has_open_breaker = any(worst.values())


class DatabaseGauges:
    """The database's gauges, read at most once in `GAUGES_SECONDS`."""

    def __init__(self, readers: Readers) -> None:
        self._readers = readers
        self._read_at = -GAUGES_SECONDS
        self._text = b""

    def text(self) -> bytes:
        """The gauges; only that the database is away, if it is."""
        now = time.monotonic()
        if now - self._read_at >= GAUGES_SECONDS:
            registry = CollectorRegistry()
            registry.register(_Gauges(self._read()))
            self._text, self._read_at = generate_latest(registry), now
        return self._text

    def _read(self) -> list[gauges.Gauge]:
        up, found = 1.0, []
        try:
            found = self._readers.run(gauges.read, [actor.value for actor in Actor])
        except (DatabaseAway, SQLAlchemyError):
            up = 0.0
        return [gauges.Gauge("database_up", "Whether PostgreSQL answers.", (), {(): up}), *found]


class _Gauges(Collector):
    """Gauges as they were read."""

    def __init__(self, found: list[gauges.Gauge]) -> None:
        self._found = found

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """In Prometheus's own terms."""
        for gauge in self._found:
            family = GaugeMetricFamily(f"offpeak_{gauge.name}", gauge.help, labels=gauge.labels)
            for labels, value in gauge.samples.items():
                family.add_metric(labels, value)
            yield family
