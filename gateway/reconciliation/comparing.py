"""The comparing itself: a provider's batches and its days, each against the books."""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from itertools import islice

from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from gateway.billing.pricing import PriceBook
from gateway.catalogue.catalogue import Catalogue
from gateway.catalogue.rates import PriceSnapshot, Rates
from gateway.providers.dialect import (
    BatchReport,
    BatchState,
    Credential,
    Dialect,
    ProviderError,
)
from gateway.reconciliation import books, records, suspended
from gateway.reconciliation.books import BatchBooks
from gateway.reconciliation.counters import Counter, CounterError, Where
from gateway.reconciliation.records import Comparison
from gateway.reconciliation.suspended import Remainder
from gateway.reconciliation.verdicts import NO_TOKENS, Booked, Tokens, Told, divide
from models.reconciliation import TotalsSource
from models.session import transaction

log = logging.getLogger(__name__)

STRANGE_AFTER = timedelta(hours=1)
"""How long a batch may be at its provider without being known here."""
LISTED_AT_MOST = 20_000
UNKNOWN_MODEL = "unknown"

Strays = Callable[[Engine, Sequence[BatchReport]], None]
"""Notes, among listed batches, those that we made twice."""


@dataclass(frozen=True, slots=True)
class Providers:
    """Whom to ask. Only the house's own credentials are: customers pay for theirs themselves."""

    dialects: Mapping[str, Dialect]
    credentials: Mapping[tuple[str, str], Credential]
    catalogue: Catalogue
    note_strays: Strays
    counters: Sequence[Counter] = ()


@dataclass(slots=True)
class Outcome:
    """What a run did. `not_asked` are the providers that did not answer."""

    compared: int = 0
    priced: int = 0
    not_asked: list[str] = field(default_factory=list)
    alerts: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Comparer:
    """One run's work: compares, writes, and notes in `outcome` what it did."""

    engine: Engine
    prices: PriceBook
    providers: Providers
    first: date
    outcome: Outcome

    def compare_batches(self, credential: Credential) -> None:
        """The batches of one provider, by its own list of them."""
        since = datetime.combine(self.first, time.min, UTC)
        dialect = self.providers.dialects[credential.provider]
        try:
            listed = list(islice(dialect.list_batches(credential, since), LISTED_AT_MOST))
        except ProviderError as error:
            self._not_asked(credential.provider, type(error).__name__)
            return
        if len(listed) == LISTED_AT_MOST:
            log.error(
                "reconciliation.list_cut",
                extra={"alert": True, "provider": credential.provider, "batches": len(listed)},
            )
        if dialect.keeps_metadata:
            self.providers.note_strays(self.engine, listed)
        with transaction(self.engine) as session:
            final = records.final_subjects(
                session, credential.provider, TotalsSource.BATCHES, self.first
            )
        # A list may show a little more than was asked for; a batch that failed cost nothing.
        wanted = [
            report
            for report in listed
            if report.external_id not in final
            and report.created_at >= since
            and report.state is not BatchState.FAILED
        ]
        for start in range(0, len(wanted), books.BATCHES_AT_ONCE):
            self._compare_chunk(credential.provider, wanted[start : start + books.BATCHES_AT_ONCE])

    def _compare_chunk(self, provider: str, reports: Sequence[BatchReport]) -> None:
        with transaction(self.engine) as session:
            external_ids = [report.external_id for report in reports]
            known = books.read_batches(session, provider, external_ids)
        # What the totals leave for a call in suspense is charged first, and the books read again.
        priced = [
            report.external_id
            for report in reports
            if (batch := known.get(report.external_id))
            and report.state is BatchState.ENDED
            and (left := suspended.remainder(_told(report), batch))
            and self._price(left)
        ]
        with transaction(self.engine) as session:
            known |= books.read_batches(session, provider, priced)
            found = [
                self._compare(session, provider, report, known.get(report.external_id))
                for report in reports
                if not _changed_since(report, known.get(report.external_id))
            ]
            records.write(session, found)
        self.outcome.priced += len(priced)
        self.outcome.compared += len(found)

    def _price(self, left: Remainder) -> bool:
        """In a transaction of its own: whoever charges locks a balance."""
        with transaction(self.engine) as session:
            return suspended.price(session, self.prices, left)

    def _compare(
        self,
        session: Session,
        provider: str,
        report: BatchReport,
        batch: BatchBooks | None,
    ) -> Comparison:
        batch = batch or BatchBooks(None, report.model or UNKNOWN_MODEL, Booked())
        snapshots = self._snapshots(session, provider, batch.model, batch.price_ids)
        told = _told(report)
        verdict = divide(told, batch.booked, _rates(snapshots, "batch"))
        return Comparison(
            day=report.created_at.astimezone(UTC).date(),
            provider=provider,
            source=TotalsSource.BATCHES,
            model=batch.model,
            subject=report.external_id,
            told=told,
            verdict=verdict,
            is_final=batch.is_final and verdict.is_clean and report.state is BatchState.ENDED,
        )

    def compare_days(self, counter: Counter, days: int) -> None:
        """The days of who can be asked for all that a provider counted."""
        with transaction(self.engine) as session:
            asked_at: datetime = session.execute(text("SELECT now()")).scalar_one()
        try:
            counted = counter.read(self.first, days)
        except CounterError as error:
            self._not_asked(counter.name, str(error))
            return
        for number in range(days):
            day = self.first + timedelta(days=number)
            with transaction(self.engine) as session:
                booked, price_ids = books.read_day(session, day, asked_at - counter.lag)
                known, sold = _as_counted(counter, booked, price_ids)
                self._compare_day(session, counter, day, counted.get(day, {}), known, sold)

    def _compare_day(
        self,
        session: Session,
        counter: Counter,
        day: date,
        counted: Mapping[Where, Told],
        booked: Mapping[Where, Booked],
        price_ids: Mapping[Where, Sequence[str]],
    ) -> None:
        found = []
        for where in sorted(counted.keys() | booked.keys()):
            provider, model, lane = where
            snapshots = self._snapshots(session, provider, model, price_ids.get(where, ()))
            told = counted.get(where, Told(0, NO_TOKENS))
            verdict = divide(told, booked.get(where, Booked()), _rates(snapshots, lane))
            found.append(
                Comparison(
                    day=day,
                    provider=provider,
                    source=counter.source,
                    model=model,
                    subject=f"{model} ({lane})",
                    told=told,
                    verdict=verdict,
                    is_final=False,
                )
            )
        records.write(session, found)
        self.outcome.compared += len(found)

    def _snapshots(
        self, session: Session, provider: str, model: str, price_ids: Iterable[str]
    ) -> list[PriceSnapshot]:
        """What the calls were sold at; what they would be sold at now, if none was sold."""
        sold = list(self.prices.load(session, price_ids).values())
        if sold:
            return sold
        listed = self.providers.catalogue.resolve(model)
        offers = () if listed is None else listed.offers
        return [offer.prices for offer in offers if offer.provider == provider]

    def _not_asked(self, provider: str, error: str) -> None:
        self.outcome.not_asked.append(provider)
        log.warning("reconciliation.not_asked", extra={"provider": provider, "error": error})


def _changed_since(report: BatchReport, batch: BatchBooks | None) -> bool:
    """Whether the books may know more than the report, which was made before they were read.

    A batch may be created and not written down yet, or looked for in doubt; and it may have ended
    since. The next run sees it.
    """
    if batch is None:
        return datetime.now(UTC) - report.created_at < STRANGE_AFTER
    return report.state is not BatchState.ENDED and batch.booked.requests > 0


def _as_counted(
    counter: Counter, booked: Mapping[Where, Booked], price_ids: Mapping[Where, Sequence[str]]
) -> tuple[dict[Where, Booked], dict[Where, Sequence[str]]]:
    """The books as far as somebody counts the same, under the names that they are counted by."""
    known: dict[Where, Booked] = {}
    sold: dict[Where, Sequence[str]] = {}
    for where, entry in booked.items():
        provider, model, lane = where
        if provider in counter.providers and counter.counts(model):
            name = (provider, counter.name_of(model), lane)
            known[name] = known.get(name, Booked()).plus(entry)
            sold[name] = (*sold.get(name, ()), *price_ids.get(where, ()))
    return known, sold


def _told(report: BatchReport) -> Told:
    totals = report.totals
    if totals is None:
        # Until a batch has ended some providers count no answer at all.
        return Told(report.answered_count if report.state is BatchState.ENDED else None, None)
    tokens = Tokens(totals.input_uncached, totals.cache_read, totals.output)
    return Told(report.answered_count, tokens)


def _rates(snapshots: Iterable[PriceSnapshot], lane: str) -> list[Rates]:
    found = (each.batch if lane == "batch" else each.standard for each in snapshots)
    return [rates for rates in found if rates is not None]
