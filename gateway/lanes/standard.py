"""The standard lane: a job's call is made until it is answered, and the answer settled once.

The call is made by a function that is handed in, outside any transaction.
"""

import logging
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain, repeat
from typing import Any, TypeVar
from uuid import UUID

import orjson
import psycopg
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from gateway.billing import ledger
from gateway.billing.ledger import Charge
from gateway.billing.pricing import PriceBook, amounts
from gateway.catalogue.catalogue import OTHER_TIERS
from gateway.catalogue.rates import PriceSnapshot
from gateway.catalogue.usage import Usage
from gateway.lanes import endings, runs
from gateway.lanes.credentials import refusal, refuses_own_key
from gateway.lanes.endings import Ending
from gateway.lanes.records import Target, target_of
from gateway.lanes.runs import Run, RunClaim, Standing
from gateway.lanes.works import Works
from gateway.net.retry import delay_seconds
from gateway.providers.dialect import (
    Answer,
    Broken,
    ProviderError,
    Rejected,
    Unauthorized,
    Unavailable,
)
from models import ids
from models.session import is_away, transaction

log = logging.getLogger(__name__)

T = TypeVar("T")

LONGEST_CALL_SECONDS = 600.0
FIRST_RETRY_SECONDS = 1.0
RETRY_CAP_SECONDS = 60.0
NO_CREDENTIAL_RETRY_SECONDS = 30.0
WRITE_PATIENCE_SECONDS = 900.0
"""How long the database is tried with what came of a call: as long as a web process tries it."""
WRITE_RETRY_SECONDS = (0.1, 0.2, 0.4, 0.8)
"""The pauses; the last is repeated. Short: who takes the run over may be as quick as that."""

Ask = Callable[[Target, dict[str, Any], float], Answer]
"""Makes one call: where to, its body, and the seconds it may take. Raises ProviderError."""


@dataclass(frozen=True, slots=True)
class _Books:
    """The database, which is tried for so long with what came of a call."""

    engine: Engine
    patience_seconds: float

    def write(self, run: Run, act: Callable[[Session], T]) -> T:
        """One transaction, again and again while the database is away; raises its last word.

        Nobody can take the run over meanwhile. Were what came of the call forgotten, it would be
        made again, at the house's cost.
        """
        for pause_seconds in self._pauses():
            try:
                return self._write(act)
            except (SQLAlchemyError, psycopg.Error) as error:
                if not is_away(error):
                    raise
                fields = {"job_id": str(run.job_id), "error": type(error).__name__}
                log.warning("run.not_written", extra=fields)
                time.sleep(pause_seconds)
        return self._write(act)

    def _write(self, act: Callable[[Session], T]) -> T:
        with transaction(self.engine) as session:
            return act(session)

    def _pauses(self) -> Iterator[float]:
        ends_at = time.monotonic() + self.patience_seconds
        for seconds in chain(WRITE_RETRY_SECONDS, repeat(WRITE_RETRY_SECONDS[-1])):
            if time.monotonic() + seconds > ends_at:
                return
            yield seconds


def perform(
    works: Works,
    prices: PriceBook,
    ask: Ask,
    run: Run,
    *,
    patience_seconds: float = WRITE_PATIENCE_SECONDS,
) -> None:
    """Makes the call of a claimed run, and writes down what came of it.

    Raises what the database says if it has been away for longer than `patience_seconds` then.
    """
    books = _Books(works.engine, patience_seconds)
    began = time.monotonic()
    try:
        target = target_of(works, run)
        if target is None:
            log.error("run.no_credential", extra={"provider": run.provider, "alert": True})
            _put_off(books, run, NO_CREDENTIAL_RETRY_SECONDS, failed=False)
            return
        timeout_seconds = min(LONGEST_CALL_SECONDS, run.seconds_left)
        answer = ask(target, orjson.loads(run.body), timeout_seconds)
    except ProviderError as error:
        _fail(books, run, error)
    else:
        _complete(books, works, prices, run, answer, time.monotonic() - began)


def _complete(
    books: _Books,
    works: Works,
    prices: PriceBook,
    run: Run,
    answer: Answer,
    taken_seconds: float,
) -> None:
    """The call was answered: the job ends with that, if nothing else has ended it."""
    late_id = ids.new()

    def write(session: Session) -> bool:
        ending = _ending(session, works, prices, run, answer)
        return deliver(session, run, ending, taken_seconds, late_id=late_id)

    delivered = books.write(run, write)
    books.write(run, endings.notify)
    log.info("run.answered", extra={"job_id": str(run.job_id), "delivered": delivered})


def _ending(session: Session, works: Works, prices: PriceBook, run: Run, answer: Answer) -> Ending:
    """The job's end with this answer, and what it costs."""
    snapshot = _snapshot(session, works, prices, run, answer.service_tier)
    usage = answer.usage
    priced = None
    if usage is not None and snapshot is not None:
        priced = amounts(usage, snapshot, "standard", run.markup_bps)
    charge = Charge(
        hold_id=run.job_id,
        lane="standard",
        provider=run.provider,
        model=run.model,
        price_id=run.price_id if snapshot is None else snapshot.digest,
        markup_bps=run.markup_bps,
        usage=usage or Usage(),
        amounts=priced,
    )
    return endings.completed(run.job_id, run.asked_model, answer.body, charge)


def _snapshot(
    session: Session, works: Works, prices: PriceBook, run: Run, tier: str | None
) -> PriceSnapshot | None:
    """The prices of the tier that the provider says it served at; None if it has none there.

    Nobody asks for another tier, but a provider's account may be set to one.
    """
    if tier not in OTHER_TIERS:
        return prices.load(session, [run.price_id])[run.price_id]
    found = works.tier_prices(run.provider, run.model, tier)
    if found is not None:
        prices.store(session, found)
    return found


def deliver(
    session: Session,
    run: RunClaim,
    ending: Ending,
    taken_seconds: float,
    *,
    late_id: UUID | None = None,
) -> bool:
    """Ends the job with an answer, if nothing else has ended it; whether it did.

    An answer that comes to nothing, because the job had its end or the run another holder, costs
    the house what the provider bills for it: a transfer under `late_id`, if that is given.
    """
    standing = runs.standing(session, run)
    if standing is Standing.WRITTEN:
        return False
    if standing is Standing.OURS:
        runs.end(session, run, round(taken_seconds * 1000))
        if endings.finish(session, [ending]):
            return True
    charge = ending.charge
    if charge is not None and charge.amounts is not None:
        note = f"an answer that came too late for job {run.job_id}"
        cost_nanos = charge.amounts.cost_nanos
        ledger.book_unbilled_cost(session, None, cost_nanos, note, transfer_id=late_id)
    return False


def _fail(books: _Books, run: Run, error: ProviderError) -> None:
    """The call was not answered: the job ends if the provider refused it, else it is tried again.

    An answer that cannot be read counts against the three tries; what only needs time does not.
    """
    log.warning(
        "run.failed",
        extra={
            "job_id": str(run.job_id),
            "provider": run.provider,
            "error": type(error).__name__,
            "http_status": error.status,
        },
    )
    if refuses_own_key(run.credential, error):
        _end(books, run, endings.forbidden(run.job_id, refusal(run.provider, error)))
        return
    if isinstance(error, Unauthorized):
        log.error("provider.unauthorized", extra={"provider": run.provider, "alert": True})
    if isinstance(error, Rejected):
        _end(books, run, endings.rejected(run.job_id, error.message))
        return
    delay = delay_seconds(
        run.attempts - 1,
        retry_after_seconds=error.retry_after_seconds if isinstance(error, Unavailable) else None,
        base_seconds=FIRST_RETRY_SECONDS,
        cap_seconds=RETRY_CAP_SECONDS,
        jitter=random.random(),
    )
    _put_off(books, run, delay, failed=isinstance(error, Broken))


def _end(books: _Books, run: Run, ending: Ending) -> None:
    def write(session: Session) -> None:
        if runs.standing(session, run) is Standing.OURS:
            runs.end(session, run)
            endings.finish(session, [ending])

    books.write(run, write)
    books.write(run, endings.notify)


def _put_off(books: _Books, run: Run, delay: float, *, failed: bool) -> None:
    def write(session: Session) -> None:
        if runs.standing(session, run) is Standing.OURS:
            runs.put_off(session, run, delay, failed=failed)

    books.write(run, write)
