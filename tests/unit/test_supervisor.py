import os
import shlex
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from local.processes import is_gone
from local.supervisor import Supervisor, read_procfile

WAIT_SECONDS = 10.0
ROOT = Path(__file__).resolve().parent.parent.parent

PROCFILE = """\
# A comment is no process.
release: echo released
sleeper: sleep 300
speaker: echo "hello $WHO"; sleep 300
stubborn: sh -c 'trap "" TERM; echo ready; while :; do sleep 0.1; done'
polite: sh -c 'trap "exit 7" TERM; echo ready; while :; do sleep 0.1; done'
parent: sh -c 'sleep 301 & echo ready; wait'
failing: false
"""


def eventually(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not holds():
        assert time.monotonic() < deadline, f"not within {WAIT_SECONDS} s: {what}"
        time.sleep(0.02)


@pytest.fixture
def procfile(tmp_path: Path) -> Path:
    path = tmp_path / "Procfile"
    path.write_text(PROCFILE)
    return path


@pytest.fixture
def sentences() -> list[str]:
    return []


@pytest.fixture
def make(
    procfile: Path, tmp_path: Path, sentences: list[str]
) -> Iterator[Callable[[bool], Supervisor]]:
    made: list[Supervisor] = []

    def build(restart: bool) -> Supervisor:
        environ = {"PATH": os.environ["PATH"], "WHO": "world"}
        supervisor = Supervisor(
            procfile,
            environ,
            log_directory=tmp_path / "log",
            restart=restart,
            say=sentences.append,
        )
        made.append(supervisor)
        return supervisor

    yield build
    for supervisor in made:
        supervisor.stop_all(grace_seconds=0.2)
        supervisor.close()


@pytest.fixture
def supervisor(make: Callable[[bool], Supervisor]) -> Supervisor:
    return make(False)


def says(supervisor: Supervisor, name: str, text: str) -> Callable[[], bool]:
    return lambda: text in supervisor.log_path(name).read_text()


def test_the_procfile_is_read_in_its_order_without_comments(procfile: Path) -> None:
    commands = read_procfile(procfile)
    assert list(commands)[:3] == ["release", "sleeper", "speaker"]
    assert commands["sleeper"] == "sleep 300"


def test_the_projects_own_procfile_has_the_three_processes_and_a_release() -> None:
    assert list(read_procfile(ROOT / "Procfile")) == ["release", "web", "worker", "scheduler"]


def test_a_line_is_read_by_a_shell_with_the_environment_given(supervisor: Supervisor) -> None:
    supervisor.start("speaker", environ={"WHO": "moon"})
    eventually(says(supervisor, "speaker", "hello moon"), "the line's output in its log")


def test_several_instances_of_a_line_run_under_their_own_names(supervisor: Supervisor) -> None:
    names = [supervisor.start("sleeper", name=f"sleeper.{number}") for number in (1, 2)]
    assert names == supervisor.names == ["sleeper.1", "sleeper.2"]
    assert supervisor.pid("sleeper.1") != supervisor.pid("sleeper.2")
    supervisor.signal("sleeper.1", signal.SIGKILL)
    assert supervisor.wait("sleeper.1", WAIT_SECONDS) == -signal.SIGKILL
    assert not supervisor.alive("sleeper.1")
    assert supervisor.alive("sleeper.2")


def test_a_running_name_cannot_be_started_again_but_a_dead_one_can(
    supervisor: Supervisor,
) -> None:
    supervisor.start("sleeper")
    with pytest.raises(ValueError, match="sleeper is running already"):
        supervisor.start("sleeper")
    supervisor.stop("sleeper")
    supervisor.start("sleeper")
    assert supervisor.alive("sleeper")


def test_an_unknown_process_or_name_is_a_key_error(supervisor: Supervisor) -> None:
    with pytest.raises(KeyError):
        supervisor.start("nobody")
    with pytest.raises(KeyError):
        supervisor.pid("nobody")


def test_stopping_asks_first_and_gives_the_status(supervisor: Supervisor) -> None:
    supervisor.start("polite")
    eventually(says(supervisor, "polite", "ready"), "the trap is set")
    assert supervisor.stop("polite", grace_seconds=WAIT_SECONDS) == {"polite": 7}


def test_what_does_not_end_within_the_grace_is_killed(supervisor: Supervisor) -> None:
    supervisor.start("stubborn")
    eventually(says(supervisor, "stubborn", "ready"), "the trap is set")
    started = time.monotonic()
    statuses = supervisor.stop("stubborn", grace_seconds=0.3)
    assert statuses == {"stubborn": -signal.SIGKILL}
    assert time.monotonic() - started >= 0.3


def test_stopping_all_shares_one_grace(supervisor: Supervisor) -> None:
    for number in range(4):
        supervisor.start("stubborn", name=f"stubborn.{number}")
    started = time.monotonic()
    supervisor.stop_all(grace_seconds=0.5)
    assert time.monotonic() - started < 1.5


def test_what_a_child_left_behind_in_its_group_is_killed_too(supervisor: Supervisor) -> None:
    supervisor.start("parent")
    eventually(says(supervisor, "parent", "ready"), "the grandchild runs")
    (grandchild,) = psutil.Process(supervisor.pid("parent")).children()
    supervisor.signal("parent", signal.SIGKILL)
    supervisor.wait("parent", WAIT_SECONDS)
    assert grandchild.is_running()
    supervisor.stop("parent")
    eventually(lambda: is_gone(grandchild), "the grandchild is gone")


def test_a_signal_can_reach_the_whole_group(supervisor: Supervisor) -> None:
    supervisor.start("parent")
    eventually(says(supervisor, "parent", "ready"), "the grandchild runs")
    (grandchild,) = psutil.Process(supervisor.pid("parent")).children()
    supervisor.signal("parent", signal.SIGKILL, group=True)
    supervisor.wait("parent", WAIT_SECONDS)
    eventually(lambda: is_gone(grandchild), "the grandchild is gone")


def test_a_child_that_dies_is_named_and_started_again(
    make: Callable[[bool], Supervisor], sentences: list[str]
) -> None:
    supervisor = make(True)
    supervisor.start("sleeper")
    first = supervisor.pid("sleeper")
    supervisor.signal("sleeper", signal.SIGKILL)
    eventually(lambda: supervisor.pid("sleeper") != first, "another process")
    assert supervisor.alive("sleeper")
    assert sentences == [
        "sleeper was killed by SIGKILL; starting it again in 0.5 s "
        f"(see {supervisor.log_path('sleeper')})"
    ]


def test_a_child_that_keeps_failing_is_started_ever_more_rarely(
    make: Callable[[bool], Supervisor], sentences: list[str]
) -> None:
    supervisor = make(True)
    supervisor.start("failing")
    eventually(lambda: len(sentences) >= 3, "three deaths")
    for sentence, delay in zip(sentences, ("0.5", "1", "2"), strict=False):
        assert f"failing exited with status 1; starting it again in {delay} s" in sentence


def test_a_stopped_child_is_not_started_again(
    make: Callable[[bool], Supervisor], sentences: list[str]
) -> None:
    supervisor = make(True)
    supervisor.start("sleeper")
    supervisor.stop("sleeper")
    time.sleep(0.8)  # Longer than the first back-off.
    assert not supervisor.alive("sleeper")
    assert sentences == []


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells children of a death")
def test_children_end_when_the_supervisor_is_killed(procfile: Path, tmp_path: Path) -> None:
    script = textwrap.dedent(
        f"""
        import os, threading, time
        from pathlib import Path
        from local.supervisor import Supervisor

        supervisor = Supervisor(
            Path({str(procfile)!r}), dict(os.environ), log_directory=Path({str(tmp_path)!r})
        )
        # Started by a thread that ends at once: the child must live as long as the process.
        starter = threading.Thread(target=supervisor.start, args=("sleeper",))
        starter.start()
        starter.join()
        print(supervisor.pid("sleeper"), flush=True)
        time.sleep(300)
        """
    )
    command = f"exec {shlex.quote(sys.executable)} -c {shlex.quote(script)}"
    with subprocess.Popen(
        ["/bin/sh", "-c", command], stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        time.sleep(0.2)
        assert not is_gone(child)
        parent.kill()
    eventually(lambda: is_gone(child), "the child followed its parent")
