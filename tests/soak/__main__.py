"""`python -m tests.soak --minutes 60 --seed 1`: real processes, and ten thousand faults.

The Procfile's processes, two of each, run against real PostgreSQL, Redis and the provider
simulator, all behind proxies, while customers submit jobs at a steady rate. A seeded schedule
kills, stops and terminates the processes, takes the stores and the spool away, and makes wires,
provider, callers and webhook receivers fail. Every ten minutes the faults pause, all work has to
come to its end, and the auditor compares everything with what the provider's meter says.

Counted as one fault each: a blow to a process or a store, a piece of data that a proxy cut, lost,
delayed or dripped, an answer, line or batch that the simulator spoilt, a job that its customer
cancelled, a socket that a slow caller held, and a webhook that its receiver answered badly (one of
the thousand receivers always does). `recovery.py` says what is measured as recovery.

Exit status: 0, or 1 if anything was wrong or an aim was missed. What was seen is kept in the folder
`--out`: the report, a diary of what struck when, and the logs of all processes.
"""

import argparse
import json
import shutil
import signal
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

from tests.soak.audit import audit, settle
from tests.soak.blows import Blows
from tests.soak.deployment import SoakDeployment
from tests.soak.proxy import Proxies
from tests.soak.receiver import Receiver
from tests.soak.recovery import Observer
from tests.soak.report import Report
from tests.soak.traffic import Traffic
from tests.soak.weather import Weather


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0, help="of faults, pauses aside")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--per-second", type=float, default=7.0, help="jobs submitted")
    parser.add_argument("--checkpoint-minutes", type=float, default=10.0)
    parser.add_argument("--out", type=Path, default=Path(".local/soak"))
    return parser.parse_args()


class Diary:
    """What struck when, and what was measured: a file to read beside the processes' logs."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()

    def note(self, line: str) -> None:
        """One line, with the time; safe to call from any thread."""
        stamp = datetime.now(UTC).isoformat(timespec="milliseconds")
        with self._lock, self._path.open("a") as file:
            file.write(f"{stamp} {line}\n")


class Soak:
    """One run: its parts, and what has been seen."""

    def __init__(
        self, deployment: SoakDeployment, proxies: Proxies, receiver: Receiver, diary: Diary
    ) -> None:
        self._deployment = deployment
        self._proxies = proxies
        self._receiver = receiver
        receiver.know(deployment.accounts)
        self._diary = diary
        self._observer = Observer(deployment, diary.note)

    def run(self, arguments: argparse.Namespace) -> Report:
        """Faults for so many minutes, with a checkpoint after every few of them."""
        seed: int = arguments.seed
        report = Report(seed, arguments.minutes)
        deployment = self._deployment
        deployment.simulator.turn(seed=seed)
        self._weather = Weather(deployment, self._receiver, seed, self._diary.note)
        self._blows = Blows(deployment, self._observer, seed, self._diary.note)
        self._traffic = Traffic(
            list(deployment.web_urls.values()),
            deployment.accounts,
            webhook_url=self._receiver.url,
            seed=seed,
            per_second=arguments.per_second,
        )
        left_seconds = arguments.minutes * 60
        with self._observer.looking(), self._traffic.running():
            while left_seconds > 0 and not report.wrong:
                seconds = min(left_seconds, arguments.checkpoint_minutes * 60)
                left_seconds -= seconds
                self._traffic.resume()
                with self._weather.blowing():
                    self._blows.fall(seconds)
                self._check(report)
                say(report.checkpoints[-1])
        return report

    def _check(self, report: Report) -> None:
        """A checkpoint: everything begun ends, and then everything is right."""
        began = time.monotonic()
        self._traffic.pause()
        left = settle(self._deployment)
        settled = time.monotonic() - began
        accepted = self._traffic.accepted
        cancellations = self._traffic.cancellations
        report.ends, wrong = audit(self._deployment, accepted, cancellations, self._receiver)
        report.wrong = [
            *([left] if left else []),
            *wrong,
            *self._traffic.wrong,
            *self._blows.wrong,
            *self._observer.wrong,
        ]
        report.accepted = len(accepted)
        report.trouble = self._traffic.trouble
        report.deaths = self._blows.deaths
        report.samples = self._observer.samples
        report.faults = (
            self._weather.count() + self._blows.struck + self._proxies.struck + self._traffic.struck
        )
        report.checkpoints.append(
            f"{report.faults.total()} faults, {len(accepted)} jobs, settled in {settled:.0f} s, "
            f"audited in {time.monotonic() - began - settled:.0f} s, "
            f"{len(report.wrong)} things are wrong"
        )


def say(line: str) -> None:
    """One line on stdout, at once."""
    sys.stdout.write(f"{time.strftime('%H:%M:%S')} {line}\n")
    sys.stdout.flush()


def main() -> int:
    """The exit status."""
    # Whoever ends us gets an orderly end of all that we started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    arguments = _arguments()
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    seed = arguments.seed
    with (
        Proxies(seed) as proxies,
        Receiver(seed) as receiver,
        SoakDeployment(proxies) as deployment,
    ):
        say(f"seed {seed}: the service is ready")
        diary = Diary(out / "diary.txt")
        report = Soak(deployment, proxies, receiver, diary).run(arguments)
        shutil.copytree(deployment.logs, out / "log", dirs_exist_ok=True)
    (out / "report.json").write_text(json.dumps(report.as_json(), indent=2) + "\n")
    for line in report.lines():
        say(line)
    return int(bool(report.wrong or report.missed))


if __name__ == "__main__":
    sys.exit(main())
