import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import psycopg
import pytest
import redis

from local.environment import complete, wants_simulator, write_exports
from local.postgres import EmbeddedPostgres, temporary_postgres
from local.processes import LocalServiceError, wait_gone
from local.redis import EmbeddedRedis
from tests.network import OutsideConnectionError

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that a server's own user can reach, unlike pytest's, when root runs the tests."""
    with tempfile.TemporaryDirectory(prefix="offpeak-") as name:
        path = Path(name)
        path.chmod(0o711)
        yield path


@pytest.fixture
def postgres(folder: Path) -> Iterator[EmbeddedPostgres]:
    server = EmbeddedPostgres(folder / "postgres", durable=False)
    yield server
    server.stop()


@pytest.fixture
def redis_server(folder: Path) -> Iterator[EmbeddedRedis]:
    server = EmbeddedRedis(folder / "redis")
    yield server
    server.stop()


def count(url: str) -> int:
    with psycopg.connect(url) as connection:
        row = connection.execute("SELECT count(*) FROM kept").fetchone()
    assert row is not None
    return int(row[0])


def keep(url: str) -> None:
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS kept (id int)")
        connection.execute("INSERT INTO kept VALUES (1)")


def test_postgres_is_eighteen_in_utc_and_keeps_its_data_over_stop_and_kill(
    postgres: EmbeddedPostgres,
) -> None:
    url = postgres.start()
    with psycopg.connect(url) as connection:
        assert connection.info.server_version >= 180000
        assert connection.execute("SHOW timezone").fetchone() == ("UTC",)
    keep(url)

    postgres.stop()
    assert not postgres.running()
    assert postgres.start() == url
    assert count(url) == 1

    with psycopg.connect(url) as busy:
        busy.execute("SELECT 1")
        postgres.kill()
        with pytest.raises(psycopg.OperationalError):
            busy.execute("SELECT 1")
    assert postgres.start() == url
    assert count(url) == 1


def test_postgres_starts_again_after_somebody_else_killed_it(postgres: EmbeddedPostgres) -> None:
    url = postgres.start()
    keep(url)
    assert postgres.pid is not None
    os.kill(postgres.pid, signal.SIGKILL)
    postgres.stop()
    postgres.start()
    assert count(url) == 1


def test_a_database_is_created_once_and_may_copy_a_template(postgres: EmbeddedPostgres) -> None:
    postgres.start()
    template = postgres.create_database("template")
    keep(template)
    copy = postgres.create_database("copy", "template")
    assert count(copy) == 1
    keep(copy)
    assert postgres.create_database("copy", "template") == copy
    assert count(copy) == 2
    assert count(template) == 1


def test_one_folder_has_one_postgres(postgres: EmbeddedPostgres, folder: Path) -> None:
    postgres.start()
    with pytest.raises(LocalServiceError, match="Another PostgreSQL is running"):
        EmbeddedPostgres(folder / "postgres").start()
    assert postgres.running()


def test_a_deep_folder_is_no_hindrance(folder: Path) -> None:
    deep = folder / "/".join(["a-folder-with-a-long-name"] * 6)
    deep.mkdir(parents=True)
    server = EmbeddedPostgres(deep / "postgres", durable=False)
    try:
        with psycopg.connect(server.start()) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
    finally:
        server.stop()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's server runs as another user")
def test_a_folder_that_others_cannot_enter_is_left_for_one_that_they_can(folder: Path) -> None:
    folder.chmod(0o700)
    server = EmbeddedPostgres(folder / "postgres", durable=False)
    try:
        keep(server.start())
        assert not server.data_directory.is_relative_to(folder)
        assert stat.S_IMODE(server.data_directory.parent.stat().st_mode) == 0o700
        assert EmbeddedPostgres(folder / "postgres").data_directory == server.data_directory
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    finally:
        server.stop()
        subprocess.run(["rm", "-rf", str(server.data_directory.parent)], check=True)


def test_a_stale_pid_file_is_no_hindrance(postgres: EmbeddedPostgres) -> None:
    url = postgres.start()
    keep(url)
    postgres.kill()
    pid_file = postgres.data_directory / "postmaster.pid"
    lines = pid_file.read_text().splitlines()
    pid_file.write_text("\n".join([str(os.getpid()), *lines[1:]]) + "\n")
    postgres.start()
    assert count(url) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells children of a death")
def test_a_killed_owner_takes_the_servers_along_and_the_next_keeps_the_data(folder: Path) -> None:
    script = f"""
import time
from pathlib import Path
from local.postgres import EmbeddedPostgres
from local.redis import EmbeddedRedis

folder = Path({str(folder)!r})
postgres = EmbeddedPostgres(folder / "postgres", durable=False)
redis = EmbeddedRedis(folder / "redis")
print(postgres.start(), redis.start(), postgres.pid, redis.pid, flush=True)
time.sleep(300)
"""
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as owner:
        assert owner.stdout is not None
        url, redis_url, *pids = owner.stdout.readline().split()
        keep(url)
        with redis.Redis.from_url(redis_url) as client:
            client.set("kept", "1")
        processes = [psutil.Process(int(pid)) for pid in pids]
        owner.kill()

    next_postgres = EmbeddedPostgres(folder / "postgres", durable=False)
    next_redis = EmbeddedRedis(folder / "redis")
    try:
        assert count(next_postgres.start()) == 1
        with redis.Redis.from_url(next_redis.start()) as client:
            assert client.get("kept") == b"1"
        assert wait_gone(processes, timeout_seconds=10)
    finally:
        next_postgres.stop()
        next_redis.stop()


def test_redis_keeps_its_data_its_url_and_its_password(redis_server: EmbeddedRedis) -> None:
    url = redis_server.start()
    with redis.Redis.from_url(url) as client:
        client.set("kept", "1")
    redis_server.stop()
    assert redis_server.start() == url
    with redis.Redis.from_url(url) as client:
        assert client.get("kept") == b"1"
        assert client.connection_pool.connection_kwargs["host"] == "127.0.0.1"
    port = httpx.URL(url).port
    assert port is not None
    stranger = redis.Redis.from_url(f"redis://127.0.0.1:{port}", retry=None)
    with stranger, pytest.raises(redis.exceptions.AuthenticationError):
        stranger.ping()


def test_redis_starts_again_after_a_kill(redis_server: EmbeddedRedis) -> None:
    url = redis_server.start()
    redis_server.kill()
    assert not redis_server.running()
    with redis.Redis.from_url(url, retry=None) as client:
        with pytest.raises(redis.exceptions.ConnectionError):
            client.ping()
        redis_server.start()
        assert client.ping()


def test_a_command_gets_a_database_of_its_own_that_is_gone_afterwards() -> None:
    command = [sys.executable, "-m", "local.with_postgres", "--"]
    script = "import os; print(os.environ['DATABASE_URL']); raise SystemExit(3)"
    done = subprocess.run(
        [*command, sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 3, done.stderr
    url = done.stdout.strip()
    assert url.startswith("postgresql://postgres@/offpeak?host=")
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(url)


def test_a_temporary_cluster_leaves_nothing_behind() -> None:
    with temporary_postgres() as server:
        folder = server.data_directory.parent
        pid = server.pid
        assert folder.exists()
    assert not folder.exists()
    assert pid is not None
    assert not psutil.pid_exists(pid)


def test_the_environment_is_filled_in_and_what_was_given_wins(tmp_path: Path) -> None:
    given = {"PATH": "/bin", "BATCH_WINDOW_SECONDS": "60", "PORT": "", "REDIS_URL": "redis://given"}
    services = {"DATABASE_URL": "postgresql://made", "REDIS_URL": "redis://made"}
    environ = complete(given, services, tmp_path)
    assert environ["BATCH_WINDOW_SECONDS"] == "60"
    assert environ["BATCH_POLL_SECONDS"] == "2"
    assert environ["PORT"] == "8000"
    assert environ["REDIS_URL"] == "redis://given"
    assert environ["DATABASE_URL"] == "postgresql://made"
    assert environ["PATH"].split(os.pathsep)[0] == str(Path(sys.executable).parent)


def test_keys_are_made_once_and_only_their_owner_may_read_them(tmp_path: Path) -> None:
    first = complete({}, {}, tmp_path)
    assert len(first["SECRET_KEY"]) >= 32
    assert first["SECRET_KEY"] != first["ENCRYPTION_KEY"]
    assert complete({}, {}, tmp_path)["SECRET_KEY"] == first["SECRET_KEY"]
    assert stat.S_IMODE((tmp_path / "secrets.json").stat().st_mode) == 0o600


def test_the_exports_can_be_sourced(tmp_path: Path) -> None:
    exports = tmp_path / "env"
    environ = complete({"SECRET_KEY": "it's $quoted"}, {}, tmp_path)
    write_exports(environ, exports)
    assert stat.S_IMODE(exports.stat().st_mode) == 0o600
    done = subprocess.run(
        ["/bin/sh", "-c", f'. "{exports}"; printf %s "$SECRET_KEY"; command -v python >&2'],
        capture_output=True,
        text=True,
    )
    assert done.stdout == "it's $quoted"
    assert done.stderr.strip() == str(Path(sys.executable).parent / "python")


def test_the_simulator_is_wanted_unless_a_providers_key_is_set() -> None:
    assert wants_simulator({"OPENAI_API_KEY": ""})
    assert not wants_simulator({"XAI_API_KEY": "xai-1"})


def test_the_fixtures_give_a_migrated_empty_database_and_an_empty_redis(
    database_url: str, redis_url: str
) -> None:
    with psycopg.connect(database_url) as connection:
        assert connection.execute("SELECT count(*) FROM alembic_version").fetchone() == (1,)
        assert connection.execute("SELECT count(*) FROM jobs").fetchone() == (0,)
    with redis.Redis.from_url(redis_url) as client:
        assert client.dbsize() == 0


@pytest.mark.parametrize("host", ["192.0.2.1", "api.example"])
def test_a_test_cannot_leave_this_machine(host: str) -> None:
    with pytest.raises(OutsideConnectionError):
        socket.create_connection((host, 443), timeout=1)
