"""A run of reconciliation: the providers are asked, their totals compared, the rows written.

It may be repeated at any time: a run compares the last days again, but for what is settled for
good, and writes over what the run before had found.
"""

import logging
from collections.abc import Mapping
from datetime import date

from sqlalchemy import Engine

from gateway.billing.pricing import PriceBook
from gateway.providers.dialect import has_batches
from gateway.reconciliation import records
from gateway.reconciliation.comparing import Comparer, Outcome, Providers
from gateway.reconciliation.records import Off
from models.session import transaction

log = logging.getLogger(__name__)

DAYS = 3
"""A batch may run for a day, and its results may be taken in on the third."""


def reconcile(
    engine: Engine,
    prices: PriceBook,
    providers: Providers,
    *,
    tolerance_nanos: int,
    days: int = DAYS,
) -> Outcome:
    """Compares the last so many UTC days, and alerts where more than the tolerance is off."""
    outcome = Outcome()
    with transaction(engine) as session:
        first = records.first_day(session, days)
        before = records.off_by_model(session, first)
        records.forget_old(session)
    run = Comparer(engine, prices, providers, first, outcome)
    for credential in providers.credentials.values():
        dialect = providers.dialects.get(credential.provider)
        if credential.is_house and dialect is not None and has_batches(dialect):
            run.compare_batches(credential)
    for counter in providers.counters:
        run.compare_days(counter, days)
    with transaction(engine) as session:
        after = records.off_by_model(session, first)
    _alert(outcome, before, after, tolerance_nanos)
    log.info("reconciliation.done", extra={"compared": outcome.compared, "priced": outcome.priced})
    return outcome


def _alert(
    outcome: Outcome,
    before: Mapping[tuple[date, str, str, str], Off],
    after: Mapping[tuple[date, str, str, str], Off],
    tolerance_nanos: int,
) -> None:
    """Says it once: again only if more is off than the run before had found."""
    for where, off in sorted(after.items()):
        was = before.get(where, Off(0, 0))
        grew = off.nanos > max(was.nanos, tolerance_nanos) or off.requests > was.requests
        if not grew:
            continue
        day, provider, source, model = where
        outcome.alerts.append(f"{day} {provider}/{model} ({source})")
        log.error(
            "reconciliation.unexplained",
            extra={
                "alert": True,
                "day": day.isoformat(),
                "provider": provider,
                "model": model,
                "source": source,
                "nanos": off.nanos,
                "requests": off.requests,
            },
        )
