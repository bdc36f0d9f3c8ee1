"""One PostgreSQL cluster and one Redis a test run, each started when a test first asks for it.

They belong to the process that started the run; pytest-xdist's workers ask it over a socket, and
each gets a database of its own.
"""

import os
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
import threading
from contextlib import ExitStack
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path

from local.postgres import EmbeddedPostgres, temporary_postgres
from local.redis import EmbeddedRedis

ROOT = Path(__file__).resolve().parent.parent
TEMPLATE = "offpeak_template"


class Services:
    """Starts what workers ask for over a socket, and ends it with the run."""

    def __init__(self) -> None:
        self.authkey = secrets.token_bytes(16)
        self._listener = Listener(authkey=self.authkey)
        self._cleanup = ExitStack()
        self._postgres: EmbeddedPostgres | None = None
        self._redis: EmbeddedRedis | None = None
        # A server ends with the thread that started it: this one, which lives as long as the run.
        self._thread = threading.Thread(target=self._serve, name="services", daemon=True)
        self._thread.start()

    @property
    def address(self) -> str:
        return str(self._listener.address)

    def close(self) -> None:
        ask(self.address, self.authkey, "close", "")
        self._thread.join()
        self._listener.close()

    def _serve(self) -> None:
        with self._cleanup:
            closing = False
            while not closing:
                with self._listener.accept() as connection:
                    service, worker = connection.recv()
                    closing = service == "close"
                    self._answer(connection, service, worker)

    def _answer(self, connection: Connection, service: str, worker: str) -> None:
        try:
            if service == "postgres":
                connection.send(self._database_of(worker))
            elif service == "redis":
                connection.send(self._redis_of(worker))
            else:
                connection.send("")
        except Exception as error:
            # Whatever went wrong, the test that asked has to hear it; the others may go on.
            connection.send(error)

    def _database_of(self, worker: str) -> str:
        if self._postgres is None:
            server = self._cleanup.enter_context(temporary_postgres())
            migrate = [sys.executable, "-m", "models.migrate"]
            environ = {**os.environ, "DATABASE_URL": server.create_database(TEMPLATE)}
            done = subprocess.run(
                migrate, env=environ, cwd=ROOT, capture_output=True, text=True, check=False
            )
            if done.returncode != 0:
                raise RuntimeError(f"models.migrate failed: {done.stdout}{done.stderr}")
            self._postgres = server
        return self._postgres.create_database(f"offpeak_{worker}", TEMPLATE)

    def _redis_of(self, worker: str) -> str:
        if self._redis is None:
            directory = Path(tempfile.mkdtemp(prefix="offpeak-"))
            self._cleanup.callback(shutil.rmtree, directory, ignore_errors=True)
            server = EmbeddedRedis(directory / "redis")
            self._cleanup.callback(server.stop)
            server.start()
            self._redis = server
        number = re.search(r"\d+", worker)
        return self._redis.url(int(number[0]) if number else 0)


def ask(address: str, authkey: bytes, service: str, worker: str) -> str:
    """The URL that a service gives this worker; raises what went wrong over there."""
    with Client(address, authkey=authkey) as connection:
        connection.send((service, worker))
        answer = connection.recv()
    if isinstance(answer, Exception):
        raise answer
    return str(answer)
