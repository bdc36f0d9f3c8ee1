"""What a soak has to say in the end, for people and as JSON."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from tests.soak.recovery import Distribution, Sample, distributions

AIMS_SECONDS = {
    "kill worker": 45.0,
    "kill scheduler": 45.0,
    "kill web": 45.0,
    "flush redis": 30.0,
    "restart redis": 30.0,
}
"""The 99th percentile of each thing waited for after these, where no store was away meanwhile."""
SHOWN = 40


@dataclass
class Report:
    """All that was counted and measured. `wrong` says in sentences what must not happen."""

    seed: int
    minutes: float
    accepted: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)
    trouble: Counter[str] = field(default_factory=Counter)
    deaths: Counter[str] = field(default_factory=Counter)
    checkpoints: list[str] = field(default_factory=list)
    samples: Sequence[Sample] = ()
    wrong: list[str] = field(default_factory=list)

    @property
    def missed(self) -> list[str]:
        """The aims that were not reached."""
        found = distributions(self.samples, hindered=False)
        return [
            f"{blow}, {what}: p99 of {each.p99} s is over {AIMS_SECONDS[blow]:g} s"
            for (blow, what), each in found.items()
            if blow in AIMS_SECONDS and each.p99 > AIMS_SECONDS[blow]
        ]

    def as_json(self) -> dict[str, Any]:
        """Everything, the single samples left out."""
        return {
            "seed": self.seed,
            "minutes": self.minutes,
            "accepted": self.accepted,
            "faults_total": self.faults.total(),
            "faults": dict(self.faults.most_common()),
            "jobs": dict(self.ends),
            "tried_again": dict(self.trouble.most_common()),
            "deaths": dict(self.deaths),
            "checkpoints": self.checkpoints,
            "recovery_seconds": _shown(distributions(self.samples, hindered=False)),
            "recovery_seconds_hindered": _shown(distributions(self.samples, hindered=True)),
            "missed": self.missed,
            "wrong": self.wrong,
        }

    def lines(self) -> Iterator[str]:
        """For a person to read."""
        yield f"seed {self.seed}, {self.minutes:g} minutes, {self.accepted} jobs accepted"
        yield f"faults: {self.faults.total()}"
        yield from (f"  {count:7} {kind}" for kind, count in self.faults.most_common())
        yield f"jobs: {dict(self.ends)}"
        yield f"calls tried again: {dict(self.trouble.most_common())}"
        yield f"processes that died by themselves while a store was away: {dict(self.deaths)}"
        for hindered in (False, True):
            heading = ", while another store was away" if hindered else ""
            yield f"seconds until work went on{heading} (n, p50, p90, p99, most):"
            found = distributions(self.samples, hindered=hindered)
            for (blow, what), each in found.items():
                numbers = f"{each.count:6} {each.p50:7} {each.p90:7} {each.p99:7} {each.most:7}"
                yield f"  {blow:20} {what:10} {numbers}"
        yield from (f"aim missed: {each}" for each in self.missed)
        yield from (f"wrong: {each}" for each in self.wrong[:SHOWN])
        yield "clean" if not self.wrong else f"{len(self.wrong)} things are wrong"


def _shown(found: Mapping[tuple[str, str], Distribution]) -> dict[str, dict[str, float]]:
    return {f"{blow}: {what}": asdict(each) for (blow, what), each in found.items()}
