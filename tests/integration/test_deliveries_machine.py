"""Deliveries under any sequence of events that Hypothesis thinks of, against real PostgreSQL."""

import json
import random
import time
from collections import Counter
from typing import Any
from uuid import UUID

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import Row, text

from gateway.webhooks import redelivery
from gateway.webhooks.claims import (
    IN_FLIGHT_PER_HOST,
    IN_FLIGHT_PER_URL,
    LEASE_SECONDS,
    claim,
    finish,
)
from gateway.webhooks.endpoints import EndpointView
from gateway.webhooks.outcomes import answered, unanswered
from gateway.webhooks.parcels import Parcel
from gateway.webhooks.redelivery import Resent
from gateway.webhooks.schedule import ATTEMPTS_MAX, DELAYS_SECONDS, RETRY_AFTER_MAX_SECONDS
from gateway.webhooks.transport import Answer
from models import ids
from models.session import transaction
from models.states import DeliveryStatus
from tests.integration.webhook_world import World, make_world

HOUR, DAY = 3_600, 86_400
SLACK_SECONDS = 2.0
"""How long a step of ours may take."""
HOSTS = ("http://one.test", "http://two.test")
_ROW = text(
    "SELECT *, extract(epoch FROM due_at - now())::float AS due_in_seconds "
    "FROM deliveries WHERE id = :id"
)
_CLEAR = text("TRUNCATE events, deliveries, delivery_attempts, webhook_endpoints CASCADE")


class DeliveriesMachine(RuleBasedStateMachine):
    """Workers that claim and die, receivers that answer as they like, owners, and a clock.

    `flying` is what has been claimed and not answered yet, by whichever worker, with the time that
    has passed since.
    """

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world
        with transaction(world.engine) as session:
            session.execute(_CLEAR)
        self.endpoints = [self._endpoint(f"{host}/endpoint") for host in (*HOSTS, HOSTS[0])]
        self.rng = random.Random(7)
        self.flying: list[tuple[Parcel, float]] = []
        self.events: dict[UUID, UUID] = {}
        self.sent: Counter[UUID] = Counter()
        self.told: set[UUID] = set()
        self.gone: set[UUID] = set()
        self.disabled: set[UUID] = set()
        self.was_disabled: set[UUID] = set()
        self.owed: set[UUID] = set()

    def _endpoint(self, url: str) -> UUID:
        made, _ = self.world.endpoint("/endpoint")
        self.world.change(made, url=url)
        return made

    # What happens.

    @initialize(has_own_url=st.booleans())
    def begin(self, has_own_url: bool) -> None:
        """Hypothesis likes to begin with rules that do nothing to an empty house."""
        self.happen(2, has_own_url)
        self.ring(5, walks=False)

    @rule(count=st.integers(1, 2), has_own_url=st.booleans())
    def happen(self, count: int, has_own_url: bool) -> None:
        hook = {"url": f"{HOSTS[1]}/own"} if has_own_url else None
        _, deliveries = self.world.complete([hook] * count)
        assert deliveries == count * (len(self.endpoints) + has_own_url)

    @rule(places=st.integers(1, 16), walks=st.booleans())
    def ring(self, places: int, walks: bool) -> None:
        """A worker is rung for, needed or not."""
        before = {row.id: row for row in self.world.deliveries()}
        with transaction(self.world.engine) as session:
            parcels, _ = claim(session, places, "" if walks else None)
        assert len(parcels) <= places
        after = {row.id: row for row in self.world.deliveries()}
        for parcel in parcels:
            self._begins(parcel, before[parcel.delivery_id])
        self._is_oldest_first(parcels, before, after)
        self._leaves_room()

    def _begins(self, parcel: Parcel, row: Row[Any]) -> None:
        assert (row.status, row.due_in_seconds <= SLACK_SECONDS) == (DeliveryStatus.PENDING, True)
        assert parcel.endpoint_id not in self.disabled, "a disabled endpoint gets nothing"
        assert 1 <= parcel.turn <= ATTEMPTS_MAX
        assert parcel.event_id == self.events.setdefault(parcel.delivery_id, parcel.event_id)
        assert json.loads(parcel.body)["id"] == ids.show(ids.Prefix.EVENT, parcel.event_id)
        self.sent[parcel.delivery_id] += 1
        assert parcel.attempt == self.sent[parcel.delivery_id], "every attempt is counted"
        self.owed.discard(parcel.delivery_id)
        self.flying.append((parcel, 0.0))

    def _is_oldest_first(
        self, parcels: list[Parcel], before: dict[UUID, Row[Any]], after: dict[UUID, Row[Any]]
    ) -> None:
        """Of one URL nothing is left behind that was due before something that was taken."""
        taken = {parcel.delivery_id for parcel in parcels}
        for parcel in parcels:
            row = before[parcel.delivery_id]
            assert not [
                other
                for other in before.values()
                if other.url == row.url
                and other.due_at < row.due_at
                and other.id not in taken
                and after[other.id].status == DeliveryStatus.PENDING
            ]

    def _leaves_room(self) -> None:
        live = [parcel for parcel, seconds in self.flying if seconds < LEASE_SECONDS]
        urls = Counter(parcel.url for parcel in live)
        hosts = Counter(parcel.url.rpartition("/")[0] for parcel in live)
        assert max(urls.values(), default=0) <= IN_FLIGHT_PER_URL
        assert max(hosts.values(), default=0) <= IN_FLIGHT_PER_HOST

    @precondition(lambda self: self.flying)
    @rule(
        number=st.integers(0, 15),
        status=st.sampled_from([200, 204, 302, 410, 429, 500, 503, None]),
        retry_after=st.sampled_from([None, "2", "4000", "999999"]),
    )
    def answer(self, number: int, status: int | None, retry_after: str | None) -> None:
        parcel, _ = self.flying.pop(number % len(self.flying))
        self._answer(parcel, status, retry_after)

    def _answer(self, parcel: Parcel, status: int | None, retry_after: str | None) -> None:
        if status is None:
            outcome = unanswered(parcel, "ReadTimeout", rng=self.rng)
        else:
            headers = {} if retry_after is None else {"retry-after": retry_after}
            outcome = answered(parcel, Answer(status, headers, ""), now=time.time(), rng=self.rng)
        with transaction(self.world.engine) as session:
            recorded = finish(session, parcel, outcome)
        if not recorded.won:
            return
        row = self._row(parcel.delivery_id)
        if status in (200, 204):
            self.told.add(parcel.delivery_id)
            assert row.status == DeliveryStatus.DELIVERED
        elif status == 410 and parcel.endpoint_id is None:
            self.gone.add(parcel.delivery_id)
        if status == 410 and parcel.endpoint_id is not None:
            assert parcel.endpoint_id in self.disabled or recorded.disabled_reason == "gone"
        if recorded.disabled_reason is not None:
            assert parcel.endpoint_id is not None
            self._is_off(parcel.endpoint_id)
        if row.status == DeliveryStatus.PENDING:
            asked = float(retry_after or 0) if status is not None else 0.0
            self._is_put_off(parcel, row.due_in_seconds, min(asked, RETRY_AFTER_MAX_SECONDS))

    def _row(self, delivery_id: UUID) -> Row[Any]:
        with self.world.engine.connect() as connection:
            return connection.execute(_ROW, {"id": delivery_id}).one()

    @staticmethod
    def _is_put_off(parcel: Parcel, due_in_seconds: float, asked_seconds: float) -> None:
        scheduled = DELAYS_SECONDS[parcel.turn]
        least = max(scheduled, asked_seconds)
        assert least - SLACK_SECONDS <= due_in_seconds <= max(1.1 * scheduled, asked_seconds)

    @precondition(lambda self: self.flying)
    @rule(number=st.integers(0, 15))
    def die(self, number: int) -> None:
        """A worker is killed with what it had in hand."""
        self.flying = self.flying[: number % (len(self.flying) + 1)]

    @rule(seconds=st.sampled_from([6, LEASE_SECONDS + 1, 400, HOUR, 15 * HOUR, 2 * DAY, 6 * DAY]))
    def pass_time(self, seconds: int) -> None:
        self.world.age(seconds)
        self.flying = [(parcel, age + seconds) for parcel, age in self.flying]

    @rule(number=st.integers(0, 2), enabled=st.booleans())
    def switch(self, number: int, enabled: bool) -> None:
        endpoint_id = self.endpoints[number]
        shown: EndpointView = self.world.change(endpoint_id, enabled=enabled)
        assert (shown.disabled_at is None) == enabled
        if enabled:
            self.disabled.discard(endpoint_id)
        else:
            self._is_off(endpoint_id)

    def _is_off(self, endpoint_id: UUID) -> None:
        self.disabled.add(endpoint_id)
        self.was_disabled.add(endpoint_id)

    @rule(number=st.integers(0, 50))
    def resend(self, number: int) -> None:
        rows = self.world.deliveries()
        if rows:
            self._resend(rows[number % len(rows)])

    @precondition(lambda self: any(age > LEASE_SECONDS for _, age in self.flying))
    @rule(number=st.integers(0, 15), status=st.sampled_from([204, 500]))
    def resend_what_hangs(self, number: int, status: int) -> None:
        """Its worker is stopped, beyond the lease, and goes on later."""
        hanging = [each for each in self.flying if each[1] > LEASE_SECONDS]
        chosen = hanging[number % len(hanging)]
        self.flying.remove(chosen)
        self._resend(self._row(chosen[0].delivery_id))
        self._answer(chosen[0], status, None)

    def _resend(self, row: Row[Any]) -> None:
        with transaction(self.world.engine) as session:
            outcome = redelivery.resend(session, self.world.account, row.id)
        assert (outcome is Resent.DISABLED) == (row.endpoint_id in self.disabled)
        if outcome is Resent.DONE:
            self.owed.add(row.id)
            self.gone.discard(row.id)

    @rule(number=st.integers(0, 2))
    def recover(self, number: int) -> None:
        self._recover(self.endpoints[number])

    def _recover(self, endpoint_id: UUID) -> None:
        failed = [
            row.id
            for row in self.world.deliveries()
            if row.endpoint_id == endpoint_id and row.status == DeliveryStatus.FAILED
        ]
        with transaction(self.world.engine) as session:
            since = session.scalar(text("SELECT now() - interval '90 days'"))
            outcome, count = redelivery.recover(session, self.world.account, endpoint_id, since)
        off = endpoint_id in self.disabled
        assert (outcome, count) == ((Resent.DISABLED, 0) if off else (Resent.DONE, len(failed)))
        if not off:
            self.owed.update(failed)

    # What must hold.

    @invariant()
    def nothing_ends_without_a_reason(self) -> None:
        for row in self.world.deliveries():
            assert row.attempts == self.sent[row.id]
            match row.status:
                case DeliveryStatus.DELIVERED:
                    assert row.id in self.told
                    assert row.id not in self.owed, "it was asked for again and never sent"
                case DeliveryStatus.FAILED:
                    used_up = row.attempts - row.attempts_before >= ATTEMPTS_MAX
                    assert used_up or row.id in self.gone or row.endpoint_id in self.was_disabled
                case _:
                    longest = max(RETRY_AFTER_MAX_SECONDS, 1.1 * DELAYS_SECONDS[-1])
                    assert row.due_in_seconds <= longest

    def teardown(self) -> None:
        """Receivers and owners mend everything: then nothing is left that was never told."""
        self.flying.clear()
        for endpoint_id in self.endpoints:
            self.world.change(endpoint_id, enabled=True)
        self.disabled.clear()
        for endpoint_id in self.endpoints:
            self._recover(endpoint_id)
        for row in self.world.deliveries():
            if row.status == DeliveryStatus.FAILED:
                self._resend(row)
        while self._is_restless():
            self.pass_time(2 * DAY)
            self.ring(16, walks=True)
            for parcel, _ in self.flying:
                self._answer(parcel, 204, None)
            self.flying.clear()
        self.nothing_ends_without_a_reason()
        assert self.owed == set()
        assert {row.id for row in self.world.deliveries()} == self.told

    def _is_restless(self) -> bool:
        rows = self.world.deliveries()
        for row in rows:
            # Its last attempt may have died with its worker.
            if row.status == DeliveryStatus.FAILED:
                self._resend(row)
        return any(row.status != DeliveryStatus.DELIVERED for row in rows)


def test_any_sequence_of_events_tells_every_event_in_the_end_and_keeps_to_the_schedule(
    database_url: str,
) -> None:
    with make_world(database_url) as world:

        class Machine(DeliveriesMachine):
            def __init__(self) -> None:
                super().__init__(world)

        run_state_machine_as_test(
            Machine,
            settings=settings(
                max_examples=15,
                stateful_step_count=20,
                derandomize=True,
                deadline=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
