"""`Prefer: respond-async, wait=N`: an answer in time, or the running call becomes a job.

The job is in the standard lane, and its run is claimed by this process as a worker would claim
it: leased, and made again by a worker if this process dies.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from uuid import UUID

import gevent
from flask import Response
from gevent.event import Event
from sqlalchemy.orm import Session

from gateway.billing.ledger import Charge
from gateway.billing.pricing import PriceBook
from gateway.calls import conversion
from gateway.calls.conversion import HoldGone
from gateway.calls.idempotency import Stored
from gateway.calls.intake import Submission
from gateway.calls.realtime import HOLD_SECONDS, Call
from gateway.lanes import endings, runs, standard
from gateway.lanes.endings import Ending
from gateway.lanes.leases import RENEWAL_SECONDS
from gateway.lanes.runs import RunClaim, Standing
from models import ids
from models.states import JobStatus
from web import answers
from web.state import State
from web.surfaces import OPENAI, Surface
from web.threads import DatabaseAway, in_background
from workers.bell import Actor

log = logging.getLogger(__name__)

WRITE_RETRY_SECONDS = 0.5
"""Short: a worker may take the run over as soon as the database is back."""


def answer(
    parts: State,
    call: Call,
    submission: Submission,
    wait_seconds: int,
    surface: Surface = OPENAI,
) -> Response:
    """The answer of a call if it comes in time, else that of the job which the call is then."""
    books = _Books(parts, submission)
    preference = f"respond-async, wait={wait_seconds}"
    work = answers.start(
        parts,
        call,
        {"Preference-Applied": preference},
        books=books,
        is_told=lambda: not books.is_job,
    )
    if not work.is_over(wait_seconds) and books.convert():
        return answers.stored_response(submission.answer, surface)
    # It is over, or all but: its answer is being written down.
    work.is_over(HOLD_SECONDS)
    return answers.given_response(work.result(), surface)


@dataclass(frozen=True, slots=True)
class _Answered:
    """What came of the call, as the job's end."""

    call: Call
    charge: Charge
    answer: Stored
    taken_seconds: float
    late_id: UUID


class _Books:
    """The books of a call that may become a job while it runs.

    The call's greenlet and the request's both decide here, and neither is interrupted between
    looking and deciding: either the call is over first, or it belongs to the job.
    """

    def __init__(self, parts: State, submission: Submission) -> None:
        self._parts = parts
        self._submission = submission
        self._began = time.monotonic()
        self._over = Event()
        self._converted: Event | None = None
        self._claim: RunClaim | None = None
        self._is_unsure = False

    @property
    def is_job(self) -> bool:
        """Whether the call is a job's now."""
        return self._claim is not None

    def begin(self, call: Call) -> Stored | None:
        return self._parts.writer.begin(call)

    def convert(self) -> bool:
        """Makes a job of the call, unless that is over; whether it did. Raises DatabaseAway."""
        if self._over.is_set():
            return False
        self._converted = Event()
        try:
            self._claim = self._parts.readers.run(_become_job, self._submission)
        except HoldGone:
            return False
        except DatabaseAway:
            # The commit may have gone through unheard.
            self._is_unsure = True
            raise
        finally:
            self._converted.set()
        in_background(self._keep_lease, self._claim)
        return True

    def abandon(self, call: Call) -> None:
        """A call that failed is made again by a worker, if it is a job's."""
        claim = self._decided()
        if claim is None:
            self._parts.writer.abandon(call)
            return
        self._parts.readers.run(_hand_over, claim)
        in_background(self._parts.bell.ring, Actor.RUN_STANDARD)

    def settle(self, call: Call, charge: Charge, answer: Stored) -> None:
        """The answer is the caller's, or the job's."""
        claim = self._decided()
        if claim is None:
            self._parts.writer.settle(call, charge, answer)
            return
        taken_seconds = time.monotonic() - self._began
        answered = _Answered(call, charge, answer, taken_seconds, late_id=ids.new())
        self._until_written(lambda session: _deliver(session, claim, answered))
        self._until_written(endings.notify)
        in_background(self._parts.bell.ring, Actor.DELIVER_WEBHOOKS)

    def _until_written(self, write: Callable[[Session], None]) -> None:
        """Nobody waits for it: tried as long as a settlement is, and then it is a worker's."""
        ends_at = time.monotonic() + HOLD_SECONDS
        while True:
            try:
                self._parts.readers.run(write)
            except DatabaseAway:
                if time.monotonic() >= ends_at:
                    raise
                gevent.sleep(WRITE_RETRY_SECONDS)
            else:
                return

    def _decided(self) -> RunClaim | None:
        """The job's claim, if it is a job; from now on the call becomes none."""
        self._over.set()
        if self._converted is not None:
            self._converted.wait()
        if self._is_unsure:
            self._claim = self._parts.readers.run(runs.adopted, self._submission.job_id)
        return self._claim

    def _keep_lease(self, claim: RunClaim) -> None:
        while not self._over.wait(RENEWAL_SECONDS):
            try:
                self._parts.readers.run(runs.renew, [claim])
            except DatabaseAway:
                # The next turn tries again; a lease that ends meanwhile is a worker's.
                log.warning("run.not_renewed", extra={"job_id": str(claim.job_id)})


def _become_job(session: Session, submission: Submission) -> RunClaim:
    conversion.become_job(session, submission)
    return runs.adopt(session, submission.job_id)


def _hand_over(session: Session, claim: RunClaim) -> None:
    if runs.standing(session, claim) is Standing.OURS:
        runs.put_off(session, claim, 0.0, failed=False)


def _deliver(session: Session, claim: RunClaim, answered: _Answered) -> None:
    PriceBook().store(session, answered.call.prices(answered.charge.price_id))
    ending = Ending(claim.job_id, JobStatus.COMPLETED, 200, answered.answer.body, answered.charge)
    standard.deliver(session, claim, ending, answered.taken_seconds, late_id=answered.late_id)
