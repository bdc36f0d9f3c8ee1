"""What this provider served and would bill, for whoever audits the gateway against it."""

from dataclasses import dataclass, fields
from datetime import UTC, datetime
from io import BufferedRandom
from pathlib import Path
from typing import Any, Final

import orjson

STANDARD: Final = "standard"
BATCH: Final = "batch"


@dataclass(frozen=True, slots=True)
class Tokens:
    """Tokens of one call in disjoint classes, but for `reasoning`, which is inside `output`."""

    input_uncached: int = 0
    cache_read: int = 0
    cache_write_short: int = 0
    cache_write_long: int = 0
    output: int = 0
    reasoning: int = 0

    @property
    def input_total(self) -> int:
        return (
            self.input_uncached + self.cache_read + self.cache_write_short + self.cache_write_long
        )


CLASSES: Final = tuple(field.name for field in fields(Tokens))


@dataclass(frozen=True, slots=True)
class Served:
    """One call or batch line that was finished. `unreported`: its caller was not told its usage."""

    key: str
    provider: str
    model: str
    lane: str
    tokens: Tokens
    unreported: bool = False
    custom_id: str | None = None
    batch_id: str | None = None


class Meter:
    """Totals in memory, and every served call as a JSON line on disk, where audits can page."""

    def __init__(self, path: Path, snapshot: dict[str, Any] | None = None) -> None:
        self._path = path
        self._log: BufferedRandom = path.open("r+b" if snapshot else "w+b")
        self._totals: dict[tuple[str, str, str, str, bool, str], list[int]] = {}
        # What was logged after the snapshot belongs to totals that are lost.
        self._cut(snapshot["logged_bytes"] if snapshot else 0)
        for key, provider, model, lane, unreported, day, *total in (
            snapshot.get("daily_totals", []) if snapshot else []
        ):
            self._totals[(key, provider, model, lane, unreported, day)] = total

    def record(self, served: Served) -> None:
        """Count one finished call."""
        tokens = served.tokens
        counts = [getattr(tokens, name) for name in CLASSES]
        today = datetime.now(UTC).date().isoformat()
        where = (served.key, served.provider, served.model, served.lane, served.unreported, today)
        total = self._totals.setdefault(where, [0] * (1 + len(CLASSES)))
        total[0] += 1
        for index, count in enumerate(counts, start=1):
            total[index] += count
        row = orjson.dumps(
            {
                "key": served.key,
                "provider": served.provider,
                "model": served.model,
                "lane": served.lane,
                "unreported": served.unreported,
                "custom_id": served.custom_id,
                "batch_id": served.batch_id,
                **dict(zip(CLASSES, counts, strict=True)),
            }
        )
        self._log.write(row + b"\n")
        self._logged_bytes += len(row) + 1

    def rows(self) -> list[dict[str, Any]]:
        """One row for each (key, provider, model, lane, unreported, day) with calls and tokens.

        Days are those of UTC, as "2026-11-22".
        """
        names = ("key", "provider", "model", "lane", "unreported", "day", "calls", *CLASSES)
        return [
            dict(zip(names, (*where, *total), strict=True)) for where, total in self._totals.items()
        ]

    def lines(self, limit: int, after: int) -> tuple[list[dict[str, Any]], int]:
        """Up to `limit` served calls from the cursor `after` on (0 is the start), and the next."""
        self._log.flush()
        rows: list[dict[str, Any]] = []
        with self._path.open("rb") as log:
            log.seek(after)
            while len(rows) < limit and (line := log.readline()):
                rows.append(orjson.loads(line))
            return rows, log.tell()

    def reset(self) -> None:
        self._totals.clear()
        self._cut(0)

    def close(self) -> None:
        self._log.close()

    def snapshot(self) -> dict[str, Any]:
        """The totals, and how much of the log belongs to them."""
        self._log.flush()
        totals = [[*where, *total] for where, total in self._totals.items()]
        return {"daily_totals": totals, "logged_bytes": self._logged_bytes}

    def _cut(self, size_bytes: int) -> None:
        self._log.truncate(size_bytes)
        self._log.seek(size_bytes)
        self._logged_bytes = size_bytes
