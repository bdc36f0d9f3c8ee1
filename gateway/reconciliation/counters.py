"""What can be asked for all that a provider counted in a day, whoever made the calls."""

from collections.abc import Collection, Mapping
from datetime import date, timedelta
from typing import Protocol

from gateway.reconciliation.verdicts import Told
from models.reconciliation import TotalsSource

TIMEOUT_SECONDS = 30.0

Where = tuple[str, str, str]
"""Provider, model and lane."""


class CounterError(Exception):
    """It could not be asked, or its answer not be understood."""


class Counter(Protocol):
    """Somebody who counts.

    `providers` are those that it counts for, `lag` how old a call is at most that it may not have
    counted yet, and `name` is what an operator knows it by.
    """

    @property
    def name(self) -> str: ...

    @property
    def source(self) -> TotalsSource: ...

    @property
    def providers(self) -> Collection[str]: ...

    @property
    def lag(self) -> timedelta: ...

    def counts(self, model: str) -> bool:
        """Whether it counts that model's calls."""
        ...

    def name_of(self, model: str) -> str:
        """The name under which it counts what we call by another."""
        ...

    def read(self, first: date, days: int) -> Mapping[date, Mapping[Where, Told]]:
        """What it counted in so many UTC days from the first on. Raises CounterError."""
        ...
