"""What can be turned at this provider: how slow it is, and how it fails.

A *setting* is a value. A *fault* strikes: a number is its probability, `{"count": N}` makes it
strike the next N times exactly, and `"operation"` (a route's name, such as `chat` or
`batch_create`) moves it away from where it strikes by default.
"""

import random
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

SYNC: Final = frozenset({"chat", "embeddings", "messages"})
CREATE: Final = frozenset({"batch_create"})
DOWNLOAD: Final = frozenset({"file_content", "batch_results"})
ANYWHERE: Final[frozenset[str]] = frozenset()

# Where each fault strikes unless told otherwise.
FAULTS: Final[dict[str, frozenset[str]]] = {
    # The connection and the status line.
    "rate_limit": SYNC,
    "rate_limit_create": CREATE,
    "rate_limit_upload": frozenset({"file_upload"}),
    "rate_limit_poll": frozenset({"batch_get", "batch_list"}),
    "server_error": SYNC,
    "create_drop_before": CREATE,
    "create_drop_after": CREATE,
    "create_500_after": CREATE,
    "retention_expired": DOWNLOAD,
    "truncate_download": DOWNLOAD,
    "hang": ANYWHERE,
    "drip": ANYWHERE,
    "half_response": ANYWHERE,
    "stream_error": SYNC,
    # A batch as a whole.
    "stuck_validating": ANYWHERE,
    "validation_failure": ANYWHERE,
    "error_only": ANYWHERE,
    "empty_string_error_file_id": ANYWHERE,
    "cancel_race": ANYWHERE,
    "status_regress": ANYWHERE,
    "shuffle": ANYWHERE,
    # One line of a batch, or one answer.
    "line_error": ANYWHERE,
    "duplicate_lines": ANYWHERE,
    "missing_lines": ANYWHERE,
    "unknown_lines": ANYWHERE,
    "garbage_lines": ANYWHERE,
    "missing_usage": ANYWHERE,
    "negative_usage": ANYWHERE,
}


class BadKnob(ValueError):
    """No such knob, or not such a value."""


@dataclass(frozen=True, slots=True)
class Fault:
    """When a fault strikes. `lines` (1-based) is for validation_failure only."""

    probability: float = 0.0
    count: int | None = None
    operation: str | None = None
    lines: tuple[int, ...] = (1,)

    def shown(self) -> dict[str, Any]:
        when = {"probability": self.probability} if self.count is None else {"count": self.count}
        return {**when, "operation": self.operation, "lines": list(self.lines)}


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
        raise BadKnob("a number of at least 0 is wanted")
    return value


def _whole(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise BadKnob("a whole number is wanted")
    return value


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise BadKnob("true or false is wanted")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise BadKnob("a string is wanted")
    return value


def _texts(value: object) -> list[str]:
    if not isinstance(value, list):
        raise BadKnob("a list of strings is wanted")
    return [_text(item) for item in value]


def _wholes(value: object) -> tuple[int, ...]:
    if not isinstance(value, list):
        raise BadKnob("a list of whole numbers is wanted")
    return tuple(_whole(item) for item in value)


def _limits(value: object) -> dict[str, int]:
    if not isinstance(value, dict):
        return {"*": _whole(value)}
    return {_text(model): _whole(tokens) for model, tokens in value.items()}


@dataclass
class Settings:
    """The knobs that are values. Milliseconds and seconds as named; None switches a knob off."""

    latency_ms: float = 0.0
    first_token_ms: float = 0.0
    chunk_ms: float = 0.0
    batch_validating_seconds: float = 0.3
    batch_seconds: float = 1.0
    batch_line_ms: float = 0.0
    batch_finalizing_seconds: float = 0.05
    batch_cancelling_seconds: float = 0.2
    list_lag_seconds: float = 0.0
    file_visibility_seconds: float = 0.0
    null_file_ids_moment_seconds: float = 0.0
    quota_release_seconds: float = 0.0
    hang_seconds: float = 0.0
    drip_seconds: float = 1.0
    retry_after: float | None = None
    rate_limit_code: str = "rate_limit_exceeded"
    server_error_status: int = 500
    line_error_status: int = 500
    validation_code: str = "invalid_json_line"
    expire_after_fraction: float | None = None
    token_limit: dict[str, int] | None = None
    revoked_keys: list[str] | None = None
    reject_unknown_fields: bool = True
    seed: int = 0


_PARSERS: Final[dict[str, Callable[[object], object]]] = {
    "rate_limit_code": _text,
    "server_error_status": _whole,
    "line_error_status": _whole,
    "validation_code": _text,
    "token_limit": _limits,
    "revoked_keys": _texts,
    "reject_unknown_fields": _flag,
    "seed": _whole,
}


def _fault(value: object) -> Fault:
    if isinstance(value, bool):
        return Fault(probability=1.0 if value else 0.0)
    if isinstance(value, list):
        return Fault(probability=1.0, lines=_wholes(value))
    if not isinstance(value, dict):
        return Fault(probability=_number(value))
    unknown = set(value) - {"probability", "count", "operation", "lines"}
    if unknown:
        raise BadKnob(f"a fault has no {', '.join(sorted(map(str, unknown)))}")
    operation, lines = value.get("operation"), value.get("lines")
    return Fault(
        probability=_number(value.get("probability", 1.0)),
        count=None if value.get("count") is None else _whole(value["count"]),
        operation=None if operation is None else _text(operation),
        lines=(1,) if lines is None else _wholes(lines),
    )


class Knobs:
    """Settings, faults and their seeded randomness. `start` is what `reset` goes back to.

    `struck` counts, by name, how often each fault has struck since the last reset.
    """

    def __init__(self, start: Mapping[str, object] | None = None) -> None:
        self._start = dict(start or {})
        self.reset()

    def reset(self) -> None:
        self.settings = Settings()
        self.struck: Counter[str] = Counter()
        self._faults: dict[str, Fault] = {}
        self._random = random.Random(self.settings.seed)
        self.merge(self._start)

    def merge(self, changes: Mapping[str, object]) -> None:
        """Turn several knobs, all or none; None puts one back to its default. Raises BadKnob."""
        settings, faults = replace(self.settings), dict(self._faults)
        for name, value in changes.items():
            try:
                if name in FAULTS:
                    faults.pop(name, None)
                    if value is not None:
                        faults[name] = _fault(value)
                elif hasattr(settings, name):
                    default = getattr(Settings(), name)
                    parse = _PARSERS.get(name, _number)
                    setattr(settings, name, default if value is None else parse(value))
                else:
                    raise BadKnob("there is no such knob")
            except BadKnob as error:
                raise BadKnob(f"{name}: {error}") from error
        self.settings, self._faults = settings, faults
        if "seed" in changes:
            self._random = random.Random(settings.seed)

    def strikes(self, name: str, operation: str = "") -> bool:
        """Whether the fault happens here and now. Uses one up if it is counted."""
        fault = self._faults.get(name)
        if fault is None:
            return False
        places = frozenset({fault.operation}) if fault.operation else FAULTS[name]
        if places and operation and operation not in places:
            return False
        if fault.count is None:
            strikes = self._random.random() < fault.probability
        else:
            strikes = fault.count > 0
            self._faults[name] = replace(fault, count=fault.count - strikes)
        self.struck[name] += strikes
        return strikes

    def is_set(self, name: str) -> bool:
        """Whether the fault is configured at all, used up or not."""
        return name in self._faults

    @property
    def calm(self) -> bool:
        """No fault is configured, so nobody need ask for one."""
        return not self._faults

    def lines(self, name: str) -> tuple[int, ...]:
        """The line numbers a fault names."""
        fault = self._faults.get(name)
        return fault.lines if fault else ()

    def shown(self) -> dict[str, Any]:
        """Every knob's value, for a person."""
        faults = {name: fault.shown() for name, fault in self._faults.items()}
        return {**vars(self.settings), **{name: faults.get(name, 0) for name in FAULTS}}
