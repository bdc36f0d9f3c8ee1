"""A provider's meter: what it counted of each model in each day, whoever asked.

Only the simulator has one that is read here. It answers `{"rows": [{"key", "model", "lane", "day",
"calls", …}]}`, a row's other fields being token counts in disjoint classes.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import date, timedelta

import httpx

from gateway.net.http import HttpClients
from gateway.providers.fields import JsonObject, decode_object, items, mapping, text, total
from gateway.reconciliation.counters import TIMEOUT_SECONDS, CounterError, Where
from gateway.reconciliation.verdicts import NO_TOKENS, Tokens, Told
from models.reconciliation import TotalsSource

_UNCACHED = ("input_uncached", "cache_write_short", "cache_write_long")


@dataclass(frozen=True, slots=True)
class Meter:
    """Where the meter is, and which of its keys are ours: the provider of each.

    It counts at once, every model by the name that it was asked for by. See `Counter`.
    """

    http: HttpClients
    url: str
    providers_of_keys: Mapping[str, str]
    name = "meter"
    source = TotalsSource.METER
    lag = timedelta(0)

    @property
    def providers(self) -> Collection[str]:
        """Those that have a key at the meter."""
        return set(self.providers_of_keys.values())

    def counts(self, model: str) -> bool:  # noqa: ARG002 (it counts them all)
        """Whether it counts that model's calls."""
        return True

    def name_of(self, model: str) -> str:
        """What it calls a model."""
        return model

    def read(
        self,
        first: date,  # noqa: ARG002 (it answers all that it ever counted)
        days: int,  # noqa: ARG002
    ) -> dict[date, dict[Where, Told]]:
        """All that was counted for our keys, by UTC day. Raises CounterError."""
        try:
            response = self.http.request(
                "GET",
                self.url,
                headers={},
                timeout_seconds=TIMEOUT_SECONDS,
                read_timeout_seconds=TIMEOUT_SECONDS,
            )
            rows = items(decode_object(response.raise_for_status().content).get("rows"))
        except (httpx.HTTPError, ValueError) as error:
            # Without the cause: rows name keys.
            raise CounterError(type(error).__name__) from None
        counted: dict[date, dict[Where, Told]] = defaultdict(dict)
        for row in map(mapping, rows):
            provider = self.providers_of_keys.get(text(row.get("key")) or "")
            if provider is not None:
                self._add(counted, provider, row)
        return counted

    def _add(self, counted: dict[date, dict[Where, Told]], provider: str, row: JsonObject) -> None:
        model, lane, day = (text(row.get(name)) for name in ("model", "lane", "day"))
        counts = {
            name: total(row.get(name)) for name in ("calls", "cache_read", "output", *_UNCACHED)
        }
        known = {name: value for name, value in counts.items() if value is not None}
        if model is None or lane is None or day is None or len(known) < len(counts):
            raise CounterError("a row lacks a field")
        try:
            of_day = counted[date.fromisoformat(day)]
        except ValueError:
            raise CounterError("a row has no day") from None
        uncached = sum(known[name] for name in _UNCACHED)
        before = of_day.get((provider, model, lane), Told(0, NO_TOKENS))
        added = Tokens(uncached, known["cache_read"], known["output"])
        assert before.requests is not None
        assert before.tokens is not None
        of_day[provider, model, lane] = Told(
            before.requests + known["calls"], before.tokens.plus(added)
        )
