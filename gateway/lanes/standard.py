"""The standard lane: a job's call is made until it is answered, and the answer settled once.

The call is made by a function that is handed in, outside any transaction.
"""

import logging
import random
import time
from collections.abc import Callable
from typing import Any

import orjson
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from gateway.billing import ledger
from gateway.billing.ledger import Charge
from gateway.billing.pricing import PriceBook, amounts
from gateway.catalogue.usage import Usage
from gateway.lanes import endings, runs
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
from models.session import transaction

log = logging.getLogger(__name__)

LONGEST_CALL_SECONDS = 600.0
FIRST_RETRY_SECONDS = 1.0
RETRY_CAP_SECONDS = 60.0
NO_CREDENTIAL_RETRY_SECONDS = 30.0

Ask = Callable[[Target, dict[str, Any], float], Answer]
"""Makes one call: where to, its body, and the seconds it may take. Raises ProviderError."""


def perform(works: Works, prices: PriceBook, ask: Ask, run: Run) -> None:
    """Makes the call of a claimed run, and writes down what came of it."""
    target = target_of(works, run)
    if target is None:
        log.error("run.no_credential", extra={"provider": run.provider, "alert": True})
        _put_off(works.engine, run, NO_CREDENTIAL_RETRY_SECONDS, failed=False)
        return
    began = time.monotonic()
    try:
        timeout_seconds = min(LONGEST_CALL_SECONDS, run.seconds_left)
        answer = ask(target, orjson.loads(run.body), timeout_seconds)
    except ProviderError as error:
        fail(works.engine, run, error)
    else:
        complete(works.engine, prices, run, answer, time.monotonic() - began)


def complete(
    engine: Engine, prices: PriceBook, run: Run, answer: Answer, taken_seconds: float
) -> None:
    """The call was answered: the job ends with that, if nothing else has ended it."""
    with transaction(engine) as session:
        snapshot = prices.load(session, [run.price_id])[run.price_id]
        usage = answer.usage
        charge = Charge(
            hold_id=run.job_id,
            lane="standard",
            provider=run.provider,
            model=run.model,
            price_id=run.price_id,
            markup_bps=run.markup_bps,
            usage=usage or Usage(),
            amounts=None if usage is None else amounts(usage, snapshot, "standard", run.markup_bps),
        )
        ending = endings.completed(run.job_id, run.asked_model, answer.body, charge)
        delivered = deliver(session, run, ending, taken_seconds)
    if delivered:
        endings.announce(engine)
    log.info("run.answered", extra={"job_id": str(run.job_id), "delivered": delivered})


def deliver(session: Session, run: RunClaim, ending: Ending, taken_seconds: float) -> bool:
    """Ends the job with an answer, if nothing else has ended it; whether it did.

    An answer that comes to nothing, because the job had its end or the run another holder, costs
    the house what the provider bills for it.
    """
    standing = runs.standing(session, run)
    if standing is Standing.ENDED:
        return False
    if standing is Standing.OURS:
        runs.end(session, run, round(taken_seconds * 1000))
        if endings.finish(session, [ending]):
            return True
    charge = ending.charge
    if charge is not None and charge.amounts is not None:
        note = f"an answer that came too late for job {run.job_id}"
        ledger.book_unbilled_cost(session, None, charge.amounts.cost_nanos, note)
    return False


def fail(engine: Engine, run: Run, error: ProviderError) -> None:
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
    if isinstance(error, Unauthorized):
        log.error("provider.unauthorized", extra={"provider": run.provider, "alert": True})
    if isinstance(error, Rejected):
        _end(engine, run, endings.rejected(run.job_id, error.message))
        return
    delay = delay_seconds(
        run.attempts - 1,
        retry_after_seconds=error.retry_after_seconds if isinstance(error, Unavailable) else None,
        base_seconds=FIRST_RETRY_SECONDS,
        cap_seconds=RETRY_CAP_SECONDS,
        jitter=random.random(),
    )
    _put_off(engine, run, delay, failed=isinstance(error, Broken))


def _end(engine: Engine, run: Run, ending: Ending) -> None:
    with transaction(engine) as session:
        if runs.standing(session, run) is not Standing.OURS:
            return
        runs.end(session, run)
        endings.finish(session, [ending])
    endings.announce(engine)


def _put_off(engine: Engine, run: Run, delay: float, *, failed: bool) -> None:
    with transaction(engine) as session:
        if runs.standing(session, run) is Standing.OURS:
            runs.put_off(session, run, delay, failed=failed)
