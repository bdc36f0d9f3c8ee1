"""Each knob of the simulator does what it says: the life of a batch, and its lines."""

import time

import httpx
import pytest

from tests.contract import simulator_caller, simulator_process
from tests.contract.simulator_caller import ANTHROPIC, MESSAGE, Caller, seconds_of
from tests.contract.simulator_process import SimulatorProcess, eventually

process = simulator_process.process
simulator = simulator_process.simulator
caller = simulator_caller.caller


def test_a_batch_takes_its_time(simulator: SimulatorProcess, caller: Caller) -> None:
    simulator.turn(batch_validating_seconds=0.3, batch_seconds=0.6)
    started = time.monotonic()
    batch_id = caller.start(*"abcdefghij")

    assert caller.batch(batch_id)["status"] == "validating"
    eventually(lambda: 0 < caller.batch(batch_id)["request_counts"]["completed"] < 10)
    assert caller.ended(batch_id)["request_counts"]["completed"] == 10
    assert time.monotonic() - started >= 0.9


def test_a_batch_takes_its_time_for_each_line(simulator: SimulatorProcess, caller: Caller) -> None:
    simulator.turn(batch_line_ms=60)

    assert seconds_of(lambda: caller.ended(caller.start(*"abcdefghij"))) >= 0.6


@pytest.mark.parametrize("status", [400, 429, 500])
def test_lines_fail_with_the_status_that_is_wanted(
    simulator: SimulatorProcess, caller: Caller, status: int
) -> None:
    simulator.turn(line_error={"count": 1}, line_error_status=status)
    batch = caller.ended(caller.start("a", "b"))

    assert batch["request_counts"] == {"total": 2, "completed": 1, "failed": 1}
    (record,) = caller.records(batch["error_file_id"])
    assert (record["response"]["status_code"], record["error"]) == (status, None)
    assert [row["calls"] for row in simulator.meter()] == [1]


def test_a_line_that_timed_out_has_no_response(simulator: SimulatorProcess, caller: Caller) -> None:
    simulator.turn(line_error={"count": 1}, line_error_status=408)

    (record,) = caller.records(caller.ended(caller.start("a"))["error_file_id"])
    assert (record["response"], record["error"]["code"]) == (None, "request_timeout")


def test_a_message_line_fails_with_anthropics_type(
    simulator: SimulatorProcess, caller: Caller
) -> None:
    simulator.turn(line_error={"count": 1}, line_error_status=529)

    (record,) = caller.results(caller.message_batch("a"))
    assert record["result"]["error"]["error"]["type"] == "overloaded_error"


def test_lines_come_shuffled_and_complete(simulator: SimulatorProcess, caller: Caller) -> None:
    simulator.turn(shuffle=1)
    batch = caller.ended(caller.start(*"abcdefghijklmnopqrst"))

    ids = [record["custom_id"] for record in caller.records(batch["output_file_id"])]
    in_order = [f"line-{number}" for number in range(1, 21)]
    assert ids != in_order
    assert sorted(ids) == sorted(in_order)


def test_lines_come_twice_and_are_metered_once(simulator: SimulatorProcess, caller: Caller) -> None:
    simulator.turn(duplicate_lines={"count": 1})
    batch = caller.ended(caller.start("a", "b"))

    ids = [record["custom_id"] for record in caller.records(batch["output_file_id"])]
    assert ids == ["line-1", "line-1", "line-2"]
    assert [row["calls"] for row in simulator.meter()] == [2]


def test_lines_are_left_out_and_not_metered(simulator: SimulatorProcess, caller: Caller) -> None:
    simulator.turn(missing_lines={"count": 1})
    batch = caller.ended(caller.start("a", "b"))

    ids = [record["custom_id"] for record in caller.records(batch["output_file_id"])]
    assert ids == ["line-2"]
    assert batch["error_file_id"] is None
    assert [row["calls"] for row in simulator.meter()] == [1]


def test_strangers_appear_among_the_lines(simulator: SimulatorProcess, caller: Caller) -> None:
    simulator.turn(unknown_lines={"count": 2})
    batch = caller.ended(caller.start("a", "b"))

    ids = [record["custom_id"] for record in caller.records(batch["output_file_id"])]
    assert [name.partition("-")[0] for name in ids] == ["line", "unknown", "line", "unknown"]
    simulator.turn(unknown_lines={"count": 1})
    kinds = [record["result"]["type"] for record in caller.results(caller.message_batch("a"))]
    assert kinds == ["succeeded", "succeeded"]
    assert sum(row["calls"] for row in simulator.meter()) == 3


def test_a_batch_expires_with_a_part_of_its_lines_done(
    simulator: SimulatorProcess, caller: Caller
) -> None:
    simulator.turn(expire_after_fraction=0.5)
    batch = caller.ended(caller.start(*"abcd"))

    assert batch["status"] == "expired"
    assert batch["expired_at"] is not None
    assert len(caller.records(batch["output_file_id"])) == 2
    left = caller.records(batch["error_file_id"])
    assert [record["error"]["code"] for record in left] == ["batch_expired"] * 2
    assert [row["calls"] for row in simulator.meter()] == [2]


def test_a_message_batch_expires_too(simulator: SimulatorProcess, caller: Caller) -> None:
    simulator.turn(expire_after_fraction=0.25)
    batch = caller.message_batch(*"abcd")

    assert (batch["request_counts"]["succeeded"], batch["request_counts"]["expired"]) == (1, 3)
    kinds = [record["result"]["type"] for record in caller.results(batch)]
    assert kinds == ["succeeded", "expired", "expired", "expired"]


def test_named_lines_fail_the_whole_batch(simulator: SimulatorProcess, caller: Caller) -> None:
    simulator.turn(
        validation_failure={"count": 1, "lines": [2, 3]}, validation_code="model_not_found"
    )
    batch = caller.ended(caller.start(*"abc"))

    assert (batch["status"], batch["output_file_id"]) == ("failed", None)
    found = [(error["code"], error["line"]) for error in batch["errors"]["data"]]
    assert found == [("model_not_found", 2), ("model_not_found", 3)]
    assert caller.ended(caller.start(*"abc"))["status"] == "completed"


def test_a_full_queue_fails_the_batch_later_and_is_released_later(
    simulator: SimulatorProcess, caller: Caller
) -> None:
    simulator.turn(token_limit={"gpt-4o-mini": 60}, batch_seconds=1, quota_release_seconds=1)
    first, second = caller.start("a"), caller.start("b")

    assert caller.ended(second)["errors"]["data"][0]["code"] == "token_limit_exceeded"
    assert caller.ended(first)["status"] == "completed"
    assert caller.ended(caller.start("c"))["status"] == "failed"
    time.sleep(1)
    assert caller.ended(caller.start("d"))["status"] == "completed"


def test_usage_is_missing_and_metered_as_unreported(
    simulator: SimulatorProcess, caller: Caller
) -> None:
    simulator.turn(missing_usage={"count": 2})

    assert "usage" not in caller.chat().json()
    (record,) = caller.records(caller.ended(caller.start("a"))["output_file_id"])
    assert "usage" not in record["response"]["body"]
    assert {(row["lane"], row["unreported"]) for row in simulator.meter()} == {
        ("standard", True),
        ("batch", True),
    }


def test_usage_is_negative(simulator: SimulatorProcess, caller: Caller) -> None:
    simulator.turn(negative_usage={"count": 2})

    assert caller.chat().json()["usage"]["prompt_tokens"] < 0
    answer = caller.http.post("/v1/messages", json=MESSAGE, headers=ANTHROPIC)
    assert answer.json()["usage"]["output_tokens"] < 0
    assert all(row["unreported"] and row["output"] > 0 for row in simulator.meter())


def test_a_completed_batch_has_no_files_for_a_moment(
    simulator: SimulatorProcess, caller: Caller
) -> None:
    simulator.turn(null_file_ids_moment_seconds=0.8)
    batch_id = caller.start("a")

    assert caller.ended(batch_id)["output_file_id"] is None
    eventually(lambda: caller.batch(batch_id)["output_file_id"])


def test_a_clean_batch_has_an_empty_error_file_id(
    simulator: SimulatorProcess, caller: Caller
) -> None:
    simulator.turn(empty_string_error_file_id=1)

    assert caller.ended(caller.start("a"))["error_file_id"] == ""


def test_every_line_fails(simulator: SimulatorProcess, caller: Caller) -> None:
    simulator.turn(error_only={"count": 1})
    batch = caller.ended(caller.start("a", "b"))

    assert (batch["status"], batch["output_file_id"]) == ("completed", None)
    assert batch["request_counts"] == {"total": 2, "completed": 0, "failed": 2}
    assert len(caller.records(batch["error_file_id"])) == 2
    assert simulator.meter() == []


def test_a_download_is_cut_short(simulator: SimulatorProcess, caller: Caller) -> None:
    batch = caller.ended(caller.start(*"abcdef"))
    simulator.turn(truncate_download={"count": 1})

    with pytest.raises(httpx.RemoteProtocolError, match="expected"):
        caller.content(batch["output_file_id"])
    assert len(caller.records(batch["output_file_id"])) == 6


def test_results_hold_all_kinds_of_garbage(simulator: SimulatorProcess, caller: Caller) -> None:
    simulator.turn(garbage_lines=1)
    content = caller.content(caller.ended(caller.start(*"abcde"))["output_file_id"])

    assert b"\xef\xbb\xbf{" in content
    assert b"\\ud800echo:" in content
    assert b"\\u0000echo:" in content
    lines = content.splitlines()
    assert lines.count(b"") == 1
    assert sum(line.endswith(b'"error":null}') for line in lines) == 5
    assert len(lines) == 7
    # Of the one that nobody can read, nobody can tell the usage.
    assert {row["unreported"]: row["calls"] for row in simulator.meter()} == {False: 4, True: 1}


def test_a_completed_batch_seems_to_run_again_once(
    simulator: SimulatorProcess, caller: Caller
) -> None:
    batch_id = caller.start("a")
    caller.ended(batch_id)
    simulator.turn(status_regress={"count": 1})

    seen = caller.batch(batch_id)
    assert (seen["status"], seen["output_file_id"]) == ("in_progress", None)
    assert caller.batch(batch_id)["status"] == "completed"


def test_a_batch_is_stuck_until_it_is_cancelled_or_released(
    simulator: SimulatorProcess, caller: Caller
) -> None:
    simulator.turn(stuck_validating={"count": 2})
    first, second = caller.start("a"), caller.start("b")

    time.sleep(0.2)
    assert {caller.batch(batch)["status"] for batch in (first, second)} == {"validating"}
    caller.http.post(f"/v1/batches/{first}/cancel").raise_for_status()
    assert caller.ended(first)["status"] == "cancelled"
    simulator.turn(stuck_validating=None)
    assert caller.ended(second)["status"] == "completed"
    # Nobody has looked into the first one's file: there is no digest of its lines.
    digests = {row["id"]: row["custom_ids_sha256"] for row in simulator.batches()}
    assert (digests[first], digests[second] is None) == (None, False)


def test_a_cancellation_loses_the_race(simulator: SimulatorProcess, caller: Caller) -> None:
    simulator.turn(cancel_race=1, batch_seconds=30)
    batch_id = caller.start("a", "b")
    eventually(lambda: caller.batch(batch_id)["status"] == "in_progress")

    answer = caller.http.post(f"/v1/batches/{batch_id}/cancel")
    assert answer.json()["status"] == "cancelling"
    batch = caller.ended(batch_id)
    assert (batch["status"], len(caller.records(batch["output_file_id"]))) == ("completed", 2)


def test_files_past_their_retention_are_not_found(
    simulator: SimulatorProcess, caller: Caller
) -> None:
    batch = caller.ended(caller.start("a"))
    messages = caller.message_batch("a")
    simulator.turn(retention_expired=1)

    content = caller.http.get(f"/v1/files/{batch['output_file_id']}/content")
    results = caller.http.get(messages["results_url"], headers=ANTHROPIC)
    assert (content.status_code, results.status_code) == (404, 404)
