"""Who works on a provider batch, and how the others know."""

import time
from collections.abc import Iterator
from uuid import UUID

import pytest
from sqlalchemy import create_engine

from gateway.lanes import leases
from gateway.lanes.leases import Claim, LeaseKeeper, LeaseLost
from models import ids
from models.session import transaction
from models.states import BatchStatus
from tests.integration.lane_world import World, opened

FORMED = {BatchStatus.FORMED}


@pytest.fixture
def world(database_url: str) -> Iterator[World]:
    with opened(database_url) as world:
        yield world


def claim(world: World, batch_id: UUID, statuses: set[BatchStatus] = FORMED) -> Claim | None:
    with transaction(world.engine) as session:
        return leases.claim(session, batch_id, statuses)


def fence(world: World, held: Claim) -> None:
    with transaction(world.engine) as session:
        leases.fence(session, held)


def lease_seconds(world: World, batch_id: UUID) -> float:
    (row,) = world.rows(
        "SELECT extract(epoch FROM leased_until - now())::float AS left FROM provider_batches "
        "WHERE id = :id",
        id=batch_id,
    )
    left: float = row.left
    return left


def test_a_due_batch_is_claimed_by_one_for_thirty_seconds(world: World) -> None:
    batch_id = world.form()
    assert claim(world, batch_id) == Claim(batch_id, 1, BatchStatus.FORMED)
    assert claim(world, batch_id) is None
    assert 29 < lease_seconds(world, batch_id) <= 30


def test_what_is_not_due_or_not_in_that_state_or_not_there_is_not_claimed(world: World) -> None:
    batch_id = world.form()
    assert claim(world, batch_id, {BatchStatus.UPLOADING, BatchStatus.INGESTING}) is None
    assert claim(world, ids.new()) is None
    world.run("UPDATE provider_batches SET due_at = now() + interval '1 second'")
    assert claim(world, batch_id) is None
    assert world.batch(batch_id).epoch == 0


def test_after_its_lease_a_batch_is_anybodys_and_the_first_claim_is_worth_nothing(
    world: World,
) -> None:
    batch_id = world.form()
    first = claim(world, batch_id)
    assert first is not None
    fence(world, first)
    world.expire_lease(batch_id)
    fence(world, first)
    second = claim(world, batch_id)
    assert second == Claim(batch_id, 2, BatchStatus.FORMED, crashes=1)
    with pytest.raises(LeaseLost):
        fence(world, first)
    fence(world, second)


def test_work_that_is_done_gives_its_lease_back_and_only_its_own(world: World) -> None:
    batch_id = world.form()
    first = claim(world, batch_id)
    assert first is not None
    with world.works.leases.holding(first):
        world.expire_lease(batch_id)
        assert claim(world, batch_id) is not None
    assert 29 < lease_seconds(world, batch_id) <= 30, "the second one's"
    world.expire_lease(batch_id)
    third = claim(world, batch_id)
    assert third is not None
    with world.works.leases.holding(third):
        pass
    assert world.batch(batch_id).leased_until is None


def test_a_lease_is_renewed_for_as_long_as_the_work_lives(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "RENEWAL_SECONDS", 0.02)
    batch_id = world.form()
    held = claim(world, batch_id)
    assert held is not None
    keeper = LeaseKeeper(world.engine)
    with keeper.holding(held):
        for _ in range(2):
            world.run("UPDATE provider_batches SET leased_until = now() + interval '1 second'")
            ends_at = time.monotonic() + 5
            while lease_seconds(world, batch_id) < 20:
                assert time.monotonic() < ends_at
                time.sleep(0.01)
            keeper.check(held)
    assert world.batch(batch_id).leased_until is None


def test_a_lease_that_cannot_be_renewed_runs_out_for_its_holder(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "RENEWAL_SECONDS", 0.02)
    monkeypatch.setattr(leases, "LEASE_SECONDS", 0.2)
    batch_id = world.form()
    held = claim(world, batch_id)
    assert held is not None
    nowhere = create_engine("postgresql+psycopg://postgres@/x?host=/no/such/folder")
    keeper = LeaseKeeper(nowhere)
    with keeper.holding(held):
        keeper.check(held)
        time.sleep(0.3)
        with pytest.raises(LeaseLost):
            keeper.check(held)
    with pytest.raises(LeaseLost):
        keeper.check(held)
    nowhere.dispose()
