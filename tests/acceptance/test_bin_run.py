"""`python -m local`, which bin/run starts: everything on this machine, as a newcomer sees it."""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from local.postgres import EmbeddedPostgres
from local.processes import free_port, wait_gone
from tests.acceptance.deployment import ROOT, until

START_SECONDS = 60.0
STOP_SECONDS = 30.0
JOB_SECONDS = 30.0
SECOND_START_SECONDS = 10.0
LAST_WORDS = "Ctrl-C stops everything; the data stays."
_KEY = re.compile(r"Bearer (sk-op-\w+)")


class _Newcomer:
    """A terminal in a fresh copy of the tree."""

    def __init__(self, tree: Path) -> None:
        self.port = free_port()
        self.printed = ""
        self._tree = tree
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> float:
        """Start it and read until it has said all; the seconds that took."""
        began = time.monotonic()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "local"],
            cwd=self._tree,
            env={"PATH": os.environ["PATH"], "HOME": str(self._tree), "PORT": str(self.port)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        assert self._process.stdout is not None
        self.printed = ""
        for line in self._process.stdout:
            self.printed += line
            if LAST_WORDS in line:
                return time.monotonic() - began
        raise AssertionError(f"it ended with {self._process.wait()}: {self.printed}")

    def type_ctrl_c(self) -> tuple[int, list[psutil.Process]]:
        """What a terminal does at Ctrl-C; the exit status, and all processes that there were."""
        assert self._process is not None
        family = psutil.Process(self._process.pid).children(recursive=True)
        os.killpg(self._process.pid, signal.SIGINT)
        self.printed = self._process.communicate(timeout=STOP_SECONDS)[0]
        return self._process.returncode, family

    def commands(self) -> list[str]:
        """The commands that were printed, to be typed as they are."""
        return ["curl" + text.partition("\n\n")[0] for text in self.printed.split("\n  curl")[1:]]

    def close(self) -> None:
        """Stop it if it runs."""
        if self._process is not None and self._process.poll() is None:
            self.type_ctrl_c()


@pytest.fixture
def newcomer() -> Iterator[_Newcomer]:
    base = Path(tempfile.mkdtemp(prefix="offpeak-newcomer-"))
    base.chmod(0o711)  # PostgreSQL's user must be able to pass, when we are root.
    tree = base / "offpeak"
    unwanted = shutil.ignore_patterns(".git", ".venv", ".local", ".*_cache")
    shutil.copytree(ROOT, tree, ignore=unwanted)
    terminal = _Newcomer(tree)
    yield terminal
    terminal.close()
    data = EmbeddedPostgres(tree / ".local" / "postgres").data_directory
    shutil.rmtree(data.parent, ignore_errors=True)
    shutil.rmtree(base)


@pytest.mark.skipif(shutil.which("curl") is None, reason="the printed commands need curl")
def test_a_newcomers_first_job_is_done_in_half_a_minute_and_still_there_after_a_restart(
    newcomer: _Newcomer,
) -> None:
    print("first start", newcomer.start())
    submit, fetch = newcomer.commands()
    submitted = _type(submit)
    assert '"status":"queued"' in submitted
    began = time.monotonic()
    until(lambda: '"status":"completed"' in _type(fetch), JOB_SECONDS, "the job is done")
    print("done after", time.monotonic() - began)
    assert "echo:" in _type(fetch)

    began = time.monotonic()
    status, family = newcomer.type_ctrl_c()
    print("stopped after", time.monotonic() - began)
    assert status == 0
    assert len(family) >= 6, "web, worker, scheduler, simulator, PostgreSQL and Redis"
    assert wait_gone(family, 1.0), [process for process in family if process.is_running()]

    seconds = newcomer.start()
    print("second start", seconds)
    assert seconds < SECOND_START_SECONDS
    key = _KEY.search(submit)
    assert key is not None
    jobs = httpx.get(
        f"http://127.0.0.1:{newcomer.port}/v1/jobs",
        headers={"Authorization": f"Bearer {key[1]}"},
        trust_env=False,
    ).json()["data"]
    assert [job["status"] for job in jobs] == ["completed"]


def _type(command: str) -> str:
    done = subprocess.run(
        ["/bin/sh", "-c", command], capture_output=True, text=True, check=True, timeout=30
    )
    return done.stdout
