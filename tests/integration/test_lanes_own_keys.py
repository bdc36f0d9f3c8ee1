"""Jobs on customers' own provider keys: their lanes, their bills, and keys that are refused."""

import logging
from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text

from gateway.access import credentials
from gateway.access.credentials import SPARED_SECONDS
from gateway.access.vault import Vault
from gateway.lanes import runs, standard
from gateway.lanes.credentials import KeyGone, fail_waiting
from gateway.lanes.runs import Run
from gateway.providers.dialect import Ambiguous, ProviderError, Unauthorized, Unavailable
from models import ids
from models.jobs import StandardRun
from models.session import transaction
from models.states import RunReason
from tests.integration.fake_dialect import FakeDialect
from tests.integration.lane_world import KEY_VAULT, World, opened

SECRET, NEW_SECRET = "sk-own-0123456789-abcdefgh", "sk-new-0123456789-abcdefgh"
FREE = -10_000
"""The markup of a job on a key of its customer's own, without a fee."""
FIVE_PERCENT = FREE + 500
REFUSED = Unauthorized("Incorrect API key provided.", status=401)
TOLD = "fake did not accept your own key: Incorrect API key provided."
REMOVED = "Your own key for fake has been removed."


@pytest.fixture
def world(database_url: str) -> Iterator[World]:
    with opened(database_url) as made:
        yield made


def own_key(world: World, account: UUID, secret: str = SECRET, provider: str = "fake") -> str:
    """Configures a key; its reference."""
    with transaction(world.engine) as session:
        credentials.put(session, KEY_VAULT, account, provider, secret)
        (reference,) = [
            key.reference
            for key in credentials.current(session, account)
            if key.provider == provider
        ]
    return reference


def own_jobs(world: World, **options: Any) -> tuple[UUID, dict[str, Any]]:
    """An account with a key of its own, and what its jobs are accepted with."""
    account = world.account()
    reference = own_key(world, account)
    free = {"credential": reference, "markup_bps": FREE, "hold_nanos": 0}
    return account, {"account": account, **free, **options}


def remove(world: World, account: UUID) -> None:
    with transaction(world.engine) as session:
        assert credentials.remove(session, KEY_VAULT, account, "fake")


def errors_of(world: World) -> set[tuple[int, str]]:
    rows = world.rows("SELECT http_status, convert_from(body, 'UTF8')::jsonb AS e FROM job_results")
    assert all(row.e["type"] == "forbidden" for row in rows if row.http_status == 403)
    return {(row.http_status, row.e.get("message", "")) for row in rows}


def settlements(world: World) -> list[tuple[int, int, int]]:
    rows = world.rows(
        "SELECT cost_nanos, charged_nanos, list_nanos, output FROM settlements ORDER BY id"
    )
    assert all(row.output == 50 for row in rows)
    return [(row.cost_nanos, row.charged_nanos, row.list_nanos) for row in rows]


def test_jobs_on_ones_own_key_have_lanes_and_batches_of_their_own(world: World) -> None:
    _, mine = own_jobs(world)
    _, theirs = own_jobs(world)
    world.accept(2)
    world.accept(3, **mine)
    world.accept(4, **theirs)
    batches = world.cut()
    assert sorted(world.batch(batch_id).request_count for batch_id in batches) == [2, 3, 4]
    world.settle_down()
    assert world.jobs() == {"completed": 9}
    world.check_books()


@pytest.mark.parametrize(
    ("markup_bps", "hold_nanos", "settled"),
    [(FREE, 0, (0, 0, 0)), (FIVE_PERCENT, 20, (0, 15, 30))],
)
def test_the_customer_is_charged_the_fee_and_the_house_owes_nothing(
    world: World, markup_bps: int, hold_nanos: int, settled: tuple[int, int, int]
) -> None:
    _, mine = own_jobs(world, markup_bps=markup_bps, hold_nanos=hold_nanos)
    world.accept(2, **mine)
    world.cut()
    world.settle_down()
    assert settlements(world) == [settled] * 2
    assert world.moved() == ({"charge": 2 * settled[1]} if settled[1] else {})
    logged = world.rows("SELECT charged_nanos, cost_nanos, output FROM request_log")
    assert [tuple(row) for row in logged] == [(settled[1], 0, 50)] * 2
    world.check_books()


def test_an_account_without_money_may_use_its_own_key(world: World) -> None:
    account = world.account(credit_nanos=0)
    world.accept(account=account, credential=own_key(world, account), markup_bps=FREE, hold_nanos=0)
    world.cut()
    world.settle_down()
    assert world.jobs() == {"completed": 1}
    world.check_books()


@pytest.mark.parametrize("operation", ["upload", "create"])
def test_a_key_that_is_refused_at_submission_fails_its_jobs_and_nobody_elses(
    world: World, operation: str, caplog: pytest.LogCaptureFixture
) -> None:
    _, mine = own_jobs(world, webhook={"url": "https://hook.example/"})
    batch_id = world.form(2, **mine)
    world.dialect.fail(operation, REFUSED)
    world.submit(batch_id)
    assert world.jobs() == {"failed": 2}
    assert errors_of(world) == {(403, TOLD)}
    assert world.events() == {"job.failed": 2}
    assert (world.batch(batch_id).status, world.lines()) == ("done", {"failed": 2})
    world.accept()
    world.cut()
    world.settle_down()
    assert world.jobs() == {"failed": 2, "completed": 1}
    assert not [each for each in caplog.records if getattr(each, "alert", False)]
    world.check_books()


def test_the_houses_refused_key_still_waits_for_an_operator(world: World) -> None:
    batch_id = world.form()
    world.dialect.fail("create", REFUSED)
    world.submit(batch_id)
    assert (world.batch(batch_id).status, world.jobs()) == ("formed", {"queued": 1})


def test_a_key_that_is_revoked_while_its_batch_runs_is_tried_again_before_its_jobs_fail(
    world: World,
) -> None:
    _, mine = own_jobs(world)
    batch_id, _ = world.submitted(2, **mine)
    for looks in (1, 2, 3):
        world.pass_time()
        world.dialect.fail("get_batch", REFUSED)
        assert world.poll() == []
        assert world.jobs() == ({"failed": 2} if looks == 3 else {"submitted": 2})
    assert errors_of(world) == {(403, TOLD)}
    assert world.batch(batch_id).status == "done"
    world.check_books()


def test_a_key_that_was_refused_for_a_moment_costs_nobody_a_result(world: World) -> None:
    _, mine = own_jobs(world)
    world.submitted(**mine)
    for _ in range(3):
        for _ in range(2):
            world.pass_time()
            world.dialect.fail("get_batch", REFUSED)
            world.poll()
        world.pass_time()
        world.poll()
    world.settle_down()
    assert world.jobs() == {"completed": 1}
    world.check_books()


def test_a_key_that_is_revoked_before_the_results_are_fetched_fails_its_jobs_in_the_end(
    world: World,
) -> None:
    _, mine = own_jobs(world)
    batch_id, _ = world.ended(2, **mine)
    for tries in (1, 2, 3):
        world.pass_time()
        world.dialect.fail("download", REFUSED)
        assert world.ingest(batch_id) is (tries == 3)
    assert world.jobs() == {"failed": 2}
    assert errors_of(world) == {(403, TOLD)}
    world.check_books()


def test_other_failed_downloads_do_not_count_as_refusals_of_the_key(world: World) -> None:
    _, mine = own_jobs(world)
    batch_id, _ = world.ended(**mine)
    for error in (REFUSED, REFUSED, Unavailable("busy"), REFUSED, REFUSED):
        world.pass_time()
        world.dialect.fail("download", error)
        assert not world.ingest(batch_id)
    world.settle_down()
    assert world.jobs() == {"completed": 1}


def queued(world: World, mine: dict[str, Any]) -> None:
    world.accept(2, **mine)


def formed(world: World, mine: dict[str, Any]) -> None:
    world.form(2, **mine)


def in_doubt(world: World, mine: dict[str, Any]) -> None:
    batch_id = world.form(2, **mine)
    world.dialect.fail("create", Ambiguous("no answer"), after=True)
    world.submit(batch_id)
    assert world.batch(batch_id).status == "in_doubt"


def submitted(world: World, mine: dict[str, Any]) -> None:
    world.submitted(2, **mine)


def ended(world: World, mine: dict[str, Any]) -> None:
    world.ended(2, **mine)


@pytest.mark.parametrize("reach", [queued, formed, in_doubt, submitted, ended])
def test_when_a_key_is_removed_what_was_to_be_done_with_it_fails_clearly(
    world: World, reach: Callable[[World, dict[str, Any]], None]
) -> None:
    account, mine = own_jobs(world)
    reach(world, mine)
    world.accept()
    remove(world, account)
    fail_waiting(world.engine)
    world.settle_down()
    assert world.jobs() == {"failed": 2, "completed": 1}
    assert (403, REMOVED) in errors_of(world)
    held = world.rows("SELECT sum(held_nanos) AS held FROM balances")
    assert held[0].held == 0
    world.check_books()


def test_jobs_that_wait_for_a_removed_key_fail_without_waiting_for_their_window(
    database_url: str,
) -> None:
    with opened(database_url, window_seconds=3600) as world:
        account, mine = own_jobs(world)
        _, theirs = own_jobs(world)
        world.accept(2, **mine)
        world.accept(**theirs)
        world.accept()
        assert fail_waiting(world.engine) == 0
        remove(world, account)
        assert fail_waiting(world.engine) == 2
        assert world.jobs() == {"failed": 2, "queued": 2}
        assert errors_of(world) == {(403, REMOVED)}
        world.check_books()


def test_a_key_that_is_refused_in_doubt_is_waited_for_no_longer_than_the_doubt(
    world: World,
) -> None:
    _, mine = own_jobs(world)
    in_doubt(world, mine)
    (batch,) = world.rows("SELECT id FROM provider_batches")
    for _ in range(3):
        assert world.jobs() == {"queued": 2}
        world.pass_time()
        world.dialect.fail("list_batches", REFUSED)
        world.resolve(batch.id)
    assert world.jobs() == {"failed": 2}
    assert len(world.dialect.made) == 1
    world.check_books()


def test_a_rotated_key_goes_on_with_what_is_under_way(world: World) -> None:
    account, mine = own_jobs(world)
    seen = watch_keys(world.dialect)
    batch_id, batch = world.submitted(**mine)
    assert seen == {SECRET}
    with transaction(world.engine) as session:
        assert credentials.rotate(session, KEY_VAULT, account, "fake", NEW_SECRET) == 2
    seen.clear()
    batch.end()
    world.pass_time()
    assert world.poll() == [batch_id]
    world.ingest(batch_id)
    assert world.jobs() == {"completed": 1}
    assert seen == {NEW_SECRET}


def test_a_replaced_key_ends_what_it_began_and_is_destroyed_then(world: World) -> None:
    account, mine = own_jobs(world)
    world.submitted(**mine)
    old: str = mine["credential"]
    new = own_key(world, account, NEW_SECRET)
    assert old != new
    world.accept(**{**mine, "credential": new})

    def kept() -> list[str]:
        with transaction(world.engine) as session:
            age = f"replaced_at - interval '{SPARED_SECONDS} seconds'"
            session.execute(text(f"UPDATE provider_keys SET replaced_at = {age}"))
            credentials.destroy_unused(session)
        rows = world.rows("SELECT reference FROM provider_keys WHERE sealed IS NOT NULL")
        return sorted(row.reference for row in rows)

    assert kept() == sorted([old, new])
    world.cut()
    world.settle_down()
    assert world.jobs() == {"completed": 2}
    assert kept() == [new]
    world.check_books()


def watch_keys(dialect: FakeDialect) -> set[str]:
    """The keys that the provider is asked with from now on."""
    seen: set[str] = set()
    create, get_batch, download = dialect.create, dialect.get_batch, dialect.download

    class Watching(FakeDialect):
        def create(self, credential: Any, *rest: Any) -> Any:
            seen.add(credential.api_key)
            return create(credential, *rest)

        def get_batch(self, credential: Any, *rest: Any) -> Any:
            seen.add(credential.api_key)
            return get_batch(credential, *rest)

        def download(self, credential: Any, *rest: Any) -> Any:
            seen.add(credential.api_key)
            return download(credential, *rest)

    dialect.__class__ = Watching
    return seen


def test_a_key_that_does_not_open_waits_for_the_operator(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    account = world.account()
    with transaction(world.engine) as session:
        other = Vault("another encryption key, 32 long..", credentials.DATA_KEY)
        credentials.put(session, other, account, "fake", SECRET)
        (key,) = credentials.current(session, account)
    batch_id = world.form(account=account, credential=key.reference, markup_bps=FREE, hold_nanos=0)
    with caplog.at_level(logging.ERROR):
        world.submit(batch_id)
    assert (world.batch(batch_id).status, world.jobs()) == ("formed", {"queued": 1})
    assert "own_key.not_opened" in caplog.messages
    assert SECRET not in caplog.text


@pytest.mark.parametrize("error", [REFUSED, KeyGone(REMOVED)])
def test_in_the_standard_lane_a_refused_key_fails_its_job(
    world: World, error: ProviderError
) -> None:
    account, mine = own_jobs(world)
    (job_id,) = world.accept(**mine)
    run = standard_run(world, job_id)

    def ask(*_: object) -> Any:
        raise error

    if isinstance(error, KeyGone):
        remove(world, account)
    standard.perform(world.works, world.prices, ask, run)
    assert world.jobs() == {"failed": 1}
    assert errors_of(world) == {(403, REMOVED if isinstance(error, KeyGone) else TOLD)}
    world.check_books()


def standard_run(world: World, job_id: UUID) -> Run:
    """The job leaves for the standard lane, where its run is claimed."""
    with transaction(world.engine) as session:
        (lane_id,) = session.scalars(text("SELECT lane_id FROM jobs"))
        session.add(StandardRun(id=job_id, lane_id=lane_id, reason=RunReason.DEADLINE))
        session.execute(text("UPDATE jobs SET status = 'in_progress', submitted_at = now()"))
    with transaction(world.engine) as session:
        (run,) = runs.claim(session, 1)
    return run


def test_a_batch_that_was_made_twice_on_ones_own_key_costs_the_house_nothing(world: World) -> None:
    _, mine = own_jobs(world)
    batch_id, batch = world.submitted(**mine)
    twin = world.dialect.add(batch.ref, world.dialect.files["file-1"][1], input_file_id="file-1")
    world.watch()
    orphans = world.rows("SELECT external_id, batch_id FROM orphan_batches")
    assert [tuple(row) for row in orphans] == [(twin.external_id, batch_id)]
    world.settle_orphans()
    assert twin.was_cancelled
    twin.end()
    world.settle_down()
    assert [row.cost_nanos for row in world.rows("SELECT cost_nanos FROM orphan_batches")] == [0]
    assert world.moved() == {}
    world.check_books()


def test_an_unknown_reference_is_a_key_that_is_gone(world: World) -> None:
    for reference in ("acct_1:v1", f"acct_{ids.new().hex}:v1", "nonsense"):
        with pytest.raises(KeyGone):
            world.works.credentials.find("fake", reference)
