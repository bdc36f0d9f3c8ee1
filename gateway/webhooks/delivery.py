"""The courier: claims what is due, POSTs it outside any transaction, records what came of it."""

import logging
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from uuid import UUID

import httpx
from sqlalchemy import Engine

from gateway.net.guard import RefusedAddress, check_url
from gateway.webhooks.claims import Outcome, Recorded, claim, finish
from gateway.webhooks.outcomes import answered, unanswered
from gateway.webhooks.parcels import Parcel
from gateway.webhooks.signing import signed_headers
from gateway.webhooks.transport import post
from models import ids
from models.session import transaction
from models.states import DeliveryStatus

_log = logging.getLogger(__name__)

# How soon a courier whose hands are not all full looks again for what has become due.
_LOOK_SECONDS = 0.25
# Claims that come too close together take one delivery each, and walks are the dear part of them.
_CLAIM_PAUSE_SECONDS = 0.02
_WALK_PAUSE_SECONDS = 0.1

Unseal = Callable[[UUID, bytes], str]
"""(id of the account or endpoint, sealed secret) -> `whsec_…`."""


class Courier:
    """Delivers webhooks on `threads` threads. One a process; safe to call from any thread."""

    def __init__(
        self,
        engine: Engine,
        unseal: Unseal,
        *,
        allow_private: bool,
        threads: int = 16,
        transport: httpx.BaseTransport,
        rng: random.Random | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._engine = engine
        self._unseal = unseal
        self._allow_private = allow_private
        self._threads = threads
        self._transport = transport
        self._rng = rng or random.Random()
        self._clock = clock
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="webhook")
        self._state = threading.Condition()
        self._in_flight: set[Future[None]] = set()
        self._drainer: int | None = None
        self._rung = False
        self._closed = False
        self._walked_to = ""
        self._walk_at = 0.0

    def drain(self, limit: int = 10_000, seconds: float = 300.0) -> int:
        """Delivers until nothing is due and nothing in flight. Returns the attempts begun.

        After `limit` attempts or so many `seconds` it returns at once and what is in flight goes
        on by itself: ring again whenever the answer is not 0. While one thread drains, a call from
        another makes it look again, and returns 0.
        """
        with self._state:
            self._rung = True
            if self._drainer is not None or self._closed:
                return 0
            self._drainer = threading.get_ident()
        ends_at = time.monotonic() + seconds
        begun = 0
        try:
            while begun < limit and time.monotonic() < ends_at:
                taken = self._take(limit - begun)
                begun += taken
                if not taken and self._at_rest():
                    break
                flying = self._flying()
                time.sleep(_CLAIM_PAUSE_SECONDS)
                wait(flying, timeout=_LOOK_SECONDS, return_when=FIRST_COMPLETED)
        finally:
            self._step_down()
        return begun

    def close(self) -> None:
        """Begins nothing more, and returns when what is in flight has been recorded."""
        with self._state:
            self._closed = True
            self._state.wait_for(lambda: self._drainer is None)
        self._pool.shutdown(wait=True)

    def _take(self, limit: int) -> int:
        """Claims as much as there are free threads for, and hands it to them."""
        with self._state:
            self._rung = False
            places = 0 if self._closed else min(limit, self._threads - len(self._in_flight))
        if places <= 0:
            return 0
        now = time.monotonic()
        walk_after = self._walked_to if now >= self._walk_at else None
        with transaction(self._engine) as session:
            parcels, walked_to = claim(session, places, walk_after)
        if walked_to is not None:
            self._walked_to = walked_to
            self._walk_at = now + _WALK_PAUSE_SECONDS
        for parcel in parcels:
            future = self._pool.submit(self._deliver, parcel)
            with self._state:
                self._in_flight.add(future)
            future.add_done_callback(self._landed)
        return len(parcels)

    def _flying(self) -> set[Future[None]]:
        with self._state:
            return set(self._in_flight)

    def _at_rest(self) -> bool:
        """Whether to stop; decided under the lock, so that no call to look again is missed."""
        with self._state:
            if not self._closed and (self._in_flight or self._rung):
                return False
            self._step_down()
            return True

    def _step_down(self) -> None:
        with self._state:
            # Another thread may have taken over since this one came to rest.
            if self._drainer == threading.get_ident():
                self._drainer = None
                self._state.notify_all()

    def _landed(self, future: Future[None]) -> None:
        with self._state:
            self._in_flight.discard(future)
        error = future.exception()
        if error is not None:
            # Nothing was recorded: the delivery is due again when its lease ends.
            _log.error("webhook attempt broke off", exc_info=error)

    def _deliver(self, parcel: Parcel) -> None:
        started = time.monotonic()
        outcome = self._attempt(parcel)
        milliseconds = round((time.monotonic() - started) * 1000)
        with transaction(self._engine) as session:
            recorded = finish(session, parcel, outcome)
        _log_attempt(parcel, outcome, recorded, milliseconds)

    def _attempt(self, parcel: Parcel) -> Outcome:
        """One POST and what its answer means. Holds no session."""
        try:
            check_url(parcel.url, allow_private=self._allow_private)
        except RefusedAddress as error:
            # Wrong in itself: no other answer of the name server could mend it.
            return Outcome(DeliveryStatus.FAILED, error=f"refused: {error}")
        headers = self._headers(parcel)
        try:
            answer = post(self._transport, parcel.url, headers, parcel.body)
        except RefusedAddress as error:
            return unanswered(parcel, f"refused: {error}", rng=self._rng)
        except httpx.TransportError as error:
            return unanswered(parcel, str(error) or type(error).__name__, rng=self._rng)
        return answered(parcel, answer, now=self._clock(), rng=self._rng)

    def _headers(self, parcel: Parcel) -> dict[str, str]:
        return signed_headers(
            [self._unseal(parcel.secrets_owner, sealed) for sealed in parcel.sealed_secrets],
            ids.show(ids.Prefix.EVENT, parcel.event_id),
            int(self._clock()),
            parcel.body,
        )


def _log_attempt(parcel: Parcel, outcome: Outcome, recorded: Recorded, milliseconds: int) -> None:
    fields = {
        "delivery_id": ids.show(ids.Prefix.DELIVERY, parcel.delivery_id),
        "attempt": parcel.attempt,
        "status": outcome.status,
        "http_status": outcome.http_status,
        "error": outcome.error,
        "milliseconds": milliseconds,
        "recorded": recorded.won,
    }
    _log.info("webhook attempt", extra=fields)
    if parcel.endpoint_id is not None and recorded.disabled_reason is not None:
        endpoint_id = ids.show(ids.Prefix.WEBHOOK_ENDPOINT, parcel.endpoint_id)
        _log.warning(
            "webhook_endpoint.disabled",
            extra={"endpoint_id": endpoint_id, "reason": recorded.disabled_reason},
        )
