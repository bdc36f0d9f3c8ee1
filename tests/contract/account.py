"""One dialect with a key at the simulator, taken through the steps of a batch."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from gateway.net.http import HttpClients
from gateway.providers import dialects
from gateway.providers.dialect import (
    BatchReport,
    BatchState,
    Credential,
    Endpoint,
    LineResult,
)
from tests.contract.simulator_process import SimulatorProcess, eventually

CHAT = Endpoint.CHAT_COMPLETIONS
MODELS = {"openai": "gpt-4o-mini", "anthropic": "claude-haiku-5-5"}
LONG_AGO = timedelta(hours=1)
Json = dict[str, Any]


def body(text: str, **fields: Any) -> Json:
    return {"model": "asked/for", "messages": [{"role": "user", "content": text}], **fields}


class Account:
    """One dialect with a key at the simulator, and the spool of a batch."""

    def __init__(self, name: str, simulator: SimulatorProcess, http: HttpClients, folder: Path):
        self.dialect = dialects(http)[name]
        self.model = MODELS[name]
        base_url = simulator.openai_url if name == "openai" else simulator.url
        self.credential = Credential(name, "house", f"sk-sim-{name}-0123456789", base_url)
        self.simulator = simulator
        self.folder = folder
        self.spool = folder / "spool"

    def call(self, call_body: Json, timeout_seconds: float = 10.0) -> Any:
        return self.dialect.call(self.credential, CHAT, self.model, call_body, timeout_seconds)

    def fill_spool(self, texts: list[str]) -> None:
        framing = self.dialect.framing
        lines = [
            self.dialect.encode_line(f"job-{number}", CHAT, self.model, body(text))
            for number, text in enumerate(texts)
        ]
        self.spool.write_bytes(framing.opening + framing.separator.join(lines) + framing.closing)

    def create(self, texts: list[str], batch_ref: str = "pbatch_1") -> BatchReport:
        self.fill_spool(texts)
        file_id = self.dialect.upload(self.credential, self.spool, f"{batch_ref}.jsonl")
        return self.dialect.create(self.credential, CHAT, batch_ref, file_id, self.spool)

    def get(self, external_id: str) -> BatchReport:
        report = self.dialect.get_batch(self.credential, external_id)
        assert report is not None
        return report

    def ended(self, external_id: str) -> BatchReport:
        def look() -> BatchReport | None:
            report = self.get(external_id)
            return report if report.state in (BatchState.ENDED, BatchState.FAILED) else None

        report: BatchReport = eventually(look)
        return report

    def listed(self) -> list[BatchReport]:
        return list(self.dialect.list_batches(self.credential, datetime.now(UTC) - LONG_AGO))

    def lines(self, report: BatchReport) -> list[bytes]:
        raw: list[bytes] = []
        for number, file in enumerate(report.result_files):
            path = self.folder / f"results-{number}"
            self.dialect.download(self.credential, file, path)
            raw += path.read_bytes().splitlines()
        return raw

    def results(self, report: BatchReport) -> dict[str, LineResult]:
        parsed = [self.dialect.parse_line(line) for line in self.lines(report)]
        assert len({line.custom_id for line in parsed}) == len(parsed)
        return {line.custom_id: line for line in parsed}
