"""What the simulator tells an auditor."""

from tests.contract import simulator_caller, simulator_process
from tests.contract.simulator_caller import Caller
from tests.contract.simulator_process import SimulatorProcess

process = simulator_process.process
simulator = simulator_process.simulator
caller = simulator_caller.caller


def test_the_meter_adds_up_to_what_callers_were_told(
    simulator: SimulatorProcess, caller: Caller
) -> None:
    other = Caller(simulator.url, "sk-other")
    told = [caller.chat(n=2).json()["usage"], caller.chat().json()["usage"]]
    other.chat(model="gpt-4o")
    other.http.close()
    batch = caller.ended(caller.start("a", "b"))

    rows = {(row["key"], row["model"], row["lane"]): row for row in simulator.meter()}
    assert rows.keys() == {
        ("sk-sim", "gpt-4o-mini", "standard"),
        ("sk-sim", "gpt-4o-mini", "batch"),
        ("sk-other", "gpt-4o", "standard"),
    }
    standard = rows["sk-sim", "gpt-4o-mini", "standard"]
    assert standard["calls"] == 2
    assert standard["input_uncached"] == sum(usage["prompt_tokens"] for usage in told)
    assert standard["output"] == sum(usage["completion_tokens"] for usage in told)
    batched = rows["sk-sim", "gpt-4o-mini", "batch"]
    assert batched["input_uncached"] + batched["output"] == batch["usage"]["total_tokens"]


def test_served_lines_are_paged_by_cursor(caller: Caller) -> None:
    batch_id = caller.start("a", "b")
    caller.ended(batch_id)
    caller.chat()

    first = caller.http.get("/_sim/lines", params={"limit": 2}).json()
    rest = caller.http.get("/_sim/lines", params={"limit": 2, "after": first["next"]}).json()
    seen = [(row["custom_id"], row["batch_id"], row["lane"]) for row in first["rows"]]
    assert seen == [("line-1", batch_id, "batch"), ("line-2", batch_id, "batch")]
    assert [(row["custom_id"], row["lane"]) for row in rest["rows"]] == [(None, "standard")]
    assert not rest["has_more"]


def test_batches_of_the_same_lines_can_be_told_by_their_digest(
    simulator: SimulatorProcess, caller: Caller
) -> None:
    for texts in ("ab", "ab", "abc"):
        caller.message_batch(*texts)

    first, second, third = (batch["custom_ids_sha256"] for batch in simulator.batches())
    assert first == second != third
