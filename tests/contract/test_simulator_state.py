"""The simulator over a restart, and under much work."""

import json
import re
from pathlib import Path
from typing import Any

import httpx

from tests.contract.simulator_process import SimulatorProcess, chat_lines, eventually

HEADERS = {"authorization": "Bearer sk-sim"}


def upload(url: str, lines: bytes) -> str:
    answer = httpx.post(
        f"{url}/v1/files",
        headers=HEADERS,
        data={"purpose": "batch"},
        files={"file": ("in.jsonl", lines)},
        timeout=30,
    )
    file_id: str = answer.raise_for_status().json()["id"]
    return file_id


def create(url: str, file_id: str) -> str:
    body = {
        "input_file_id": file_id,
        "endpoint": "/v1/chat/completions",
        "completion_window": "24h",
    }
    answer = httpx.post(f"{url}/v1/batches", headers=HEADERS, json=body)
    batch_id: str = answer.raise_for_status().json()["id"]
    return batch_id


def get(url: str, path: str) -> Any:
    return httpx.get(f"{url}{path}", headers=HEADERS).raise_for_status()


def test_a_restart_goes_on_where_the_batch_was(tmp_path: Path) -> None:
    arguments = ["--state", str(tmp_path / "state"), "--knob", "batch_validating_seconds=0"]
    with SimulatorProcess(*arguments, "--knob", "batch_seconds=3") as first:
        batch_id = create(first.url, upload(first.url, chat_lines(["x"] * 200)))
        eventually(lambda: 0 < first.batches()[0]["completed"] < 200)
        assert first.stop() == 0

    with SimulatorProcess(*arguments, "--knob", "batch_seconds=0") as second:
        path = f"/v1/batches/{batch_id}"
        eventually(lambda: get(second.url, path).json()["status"] == "completed")
        output = get(second.url, path).json()["output_file_id"]
        lines = get(second.url, f"/v1/files/{output}/content").content.splitlines()
        served = [row["custom_id"] for row in second.lines()]
        metered = [row["calls"] for row in second.meter()]

    ids = [json.loads(line)["custom_id"] for line in lines]
    assert ids == served == [f"line-{number}" for number in range(1, 201)]
    assert metered == [200]


def test_a_killed_simulator_forgets_no_batch(tmp_path: Path) -> None:
    arguments = ["--state", str(tmp_path / "state"), "--knob", "batch_validating_seconds=0"]
    with SimulatorProcess(*arguments, "--knob", "batch_seconds=0") as first:
        done = create(first.url, upload(first.url, chat_lines(["a"])))
        eventually(lambda: get(first.url, f"/v1/batches/{done}").json()["status"] == "completed")
        first.turn(batch_seconds=60)
        running = create(first.url, upload(first.url, chat_lines(["b"])))
        first.kill()

    with SimulatorProcess(*arguments, "--knob", "batch_seconds=0") as second:
        path = f"/v1/batches/{running}"
        eventually(lambda: get(second.url, path).json()["status"] == "completed")
        for batch_id in (done, running):
            output = get(second.url, f"/v1/batches/{batch_id}").json()["output_file_id"]
            lines = get(second.url, f"/v1/files/{output}/content").content.splitlines()
            assert [json.loads(line)["custom_id"] for line in lines] == ["line-1"]


def test_knobs_of_the_command_line_survive_a_reset() -> None:
    with SimulatorProcess("--knob", 'rate_limit={"count":1}') as simulator:
        simulator.reset()
        statuses = [httpx.get(f"{simulator.url}/_sim/knobs").json()["rate_limit"]["count"]]

    assert statuses == [1]


def test_a_large_batch_does_not_grow_the_process() -> None:
    def resident_kilobytes(process_id: int) -> int:
        status = Path(f"/proc/{process_id}/status").read_text()
        found = re.search(r"VmHWM:\s+(\d+) kB", status)
        return int(found[1]) if found else 0

    texts = [f"{number}" + "x" * 5000 for number in range(8_000)]
    lines = chat_lines(texts)
    with SimulatorProcess("--knob", "batch_seconds=0") as simulator:
        before = resident_kilobytes(simulator.process_id)
        batch_id = create(simulator.url, upload(simulator.url, lines))
        path = f"/v1/batches/{batch_id}"
        eventually(lambda: get(simulator.url, path).json()["status"] == "completed", 50)
        grown = resident_kilobytes(simulator.process_id) - before

    assert len(lines) > 40_000_000
    assert grown < 15_000
