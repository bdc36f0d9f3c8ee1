"""Each knob of the simulator does what it says: pace, refusals, broken connections."""

import time
from typing import Any

import httpx
import pytest

from tests.contract import simulator_caller, simulator_process
from tests.contract.simulator_caller import ANTHROPIC, CHAT, MESSAGE, Caller, seconds_of
from tests.contract.simulator_process import SimulatorProcess, chat_lines, eventually

process = simulator_process.process
simulator = simulator_process.simulator
caller = simulator_caller.caller


def test_latency_slows_a_call(simulator: SimulatorProcess, caller: Caller) -> None:
    simulator.turn(latency_ms=300)

    assert seconds_of(caller.chat) >= 0.3


def test_a_stream_has_its_own_pace(simulator: SimulatorProcess, caller: Caller) -> None:
    simulator.turn(first_token_ms=200, chunk_ms=30)
    arrivals = []
    started = time.monotonic()
    body = CHAT | {"stream": True}
    with caller.http.stream("POST", "/v1/chat/completions", json=body) as answer:
        for line in answer.iter_lines():
            if line.startswith("data:"):
                arrivals.append(time.monotonic() - started)

    assert arrivals[0] >= 0.2
    assert arrivals[-1] >= 0.2 + 0.03 * (len(arrivals) - 1)


def test_a_creation_dropped_before_leaves_nothing(
    simulator: SimulatorProcess, caller: Caller
) -> None:
    simulator.turn(create_drop_before={"count": 1})

    with pytest.raises(httpx.RemoteProtocolError):
        caller.start("a")
    assert simulator.batches() == []
    assert caller.ended(caller.start("a"))["status"] == "completed"


def test_a_creation_dropped_after_leaves_a_batch(
    simulator: SimulatorProcess, caller: Caller
) -> None:
    simulator.turn(create_drop_after={"count": 1})

    with pytest.raises(httpx.RemoteProtocolError):
        caller.start("a")
    (batch,) = simulator.batches()
    assert caller.ended(batch["id"])["status"] == "completed"


def test_a_creation_that_answers_500_leaves_a_batch(
    simulator: SimulatorProcess, caller: Caller
) -> None:
    simulator.turn(create_500_after={"count": 1})
    file_id = caller.upload(chat_lines(["a"])).json()["id"]

    answer = caller.create(file_id, metadata={"job": "j1"})
    assert answer.status_code == 500
    assert answer.json()["error"]["type"] == "server_error"
    (batch,) = simulator.batches()
    assert (batch["metadata"], batch["input_file_id"]) == ({"job": "j1"}, file_id)


def test_a_message_batch_can_be_dropped_after_creation(
    simulator: SimulatorProcess, caller: Caller
) -> None:
    simulator.turn(create_drop_after={"count": 1})

    with pytest.raises(httpx.RemoteProtocolError):
        caller.message_batch("a")
    (batch,) = simulator.batches()
    assert (batch["provider"], batch["lines"], batch["custom_ids"]) == ("anthropic", 1, 1)


def test_a_drop_can_be_aimed_at_an_upload(simulator: SimulatorProcess, caller: Caller) -> None:
    simulator.turn(create_drop_after={"count": 1, "operation": "file_upload"})

    with pytest.raises(httpx.RemoteProtocolError):
        caller.upload(chat_lines(["a"]))
    assert len(caller.http.get("/v1/files").json()["data"]) == 1


def test_the_list_lags_behind(simulator: SimulatorProcess, caller: Caller) -> None:
    simulator.turn(list_lag_seconds=1)
    batch_id = caller.start("a")

    assert caller.http.get("/v1/batches").json()["data"] == []
    assert caller.http.get(f"/v1/batches/{batch_id}").status_code == 404
    eventually(lambda: caller.http.get(f"/v1/batches/{batch_id}").status_code == 200)
    assert [batch["id"] for batch in caller.http.get("/v1/batches").json()["data"]] == [batch_id]


def test_an_upload_is_not_seen_at_once(simulator: SimulatorProcess, caller: Caller) -> None:
    simulator.turn(file_visibility_seconds=0.8)
    file_id = caller.upload(chat_lines(["a"])).json()["id"]

    refused = caller.create(file_id)
    assert refused.status_code == 400
    assert f"Cannot find file {file_id}" in refused.json()["error"]["message"]
    eventually(lambda: caller.create(file_id).status_code == 200)


def test_rate_limits_strike_where_they_are_meant_to(
    simulator: SimulatorProcess, caller: Caller
) -> None:
    def statuses() -> list[int]:
        upload = caller.upload(chat_lines(["a"]))
        create = caller.create(upload.json().get("id", file_id))
        poll = caller.http.get("/v1/batches")
        return [answer.status_code for answer in (caller.chat(), upload, create, poll)]

    file_id = caller.upload(chat_lines(["a"])).json()["id"]
    for position, knob in enumerate(
        ("rate_limit", "rate_limit_upload", "rate_limit_create", "rate_limit_poll")
    ):
        simulator.turn(**{knob: {"count": 1}})
        assert statuses() == [429 if index == position else 200 for index in range(4)]
        assert statuses() == [200] * 4


def test_a_rate_limit_may_tell_how_long(simulator: SimulatorProcess, caller: Caller) -> None:
    simulator.turn(rate_limit=1, retry_after=7)
    assert caller.chat().headers["retry-after"] == "7"

    simulator.turn(retry_after=None)
    assert "retry-after" not in caller.chat().headers


def test_a_rate_limit_may_mean_money(simulator: SimulatorProcess, caller: Caller) -> None:
    simulator.turn(rate_limit=1, rate_limit_code="insufficient_quota")

    assert caller.chat().json()["error"]["code"] == "insufficient_quota"


@pytest.mark.parametrize("status", [500, 503, 529])
def test_server_errors_have_the_status_that_is_wanted(
    simulator: SimulatorProcess, caller: Caller, status: int
) -> None:
    simulator.turn(server_error={"count": 2}, server_error_status=status)

    assert caller.chat().status_code == status
    answer = caller.http.post("/v1/messages", json=MESSAGE, headers=ANTHROPIC)
    assert (answer.status_code, answer.json()["type"]) == (status, "error")
    assert caller.chat().status_code == 200


def test_calls_hang_as_long_as_they_are_told(simulator: SimulatorProcess, caller: Caller) -> None:
    simulator.turn(hang_seconds=0.8, hang={"count": 1, "operation": "chat"})

    assert seconds_of(lambda: caller.http.get("/v1/models")) < 0.8
    assert seconds_of(caller.chat) >= 0.8
    simulator.turn(hang=None)
    assert seconds_of(lambda: caller.http.get("/v1/models")) >= 0.8


def test_an_answer_drips(simulator: SimulatorProcess, caller: Caller) -> None:
    simulator.turn(drip={"count": 1}, drip_seconds=0.002)
    sizes = []
    with caller.http.stream("POST", "/v1/chat/completions", json=CHAT) as answer:
        for piece in answer.iter_raw():
            sizes.append(len(piece))

    assert sum(sizes) == int(answer.headers["content-length"])
    assert len(sizes) > sum(sizes) / 4


@pytest.mark.parametrize("stream", [False, True])
def test_half_an_answer_ends_in_a_closed_connection(
    simulator: SimulatorProcess, caller: Caller, stream: bool
) -> None:
    simulator.turn(half_response={"count": 1})

    with pytest.raises(httpx.RemoteProtocolError):
        caller.chat(stream=stream)
    (row,) = simulator.meter()
    assert (row["calls"], row["unreported"]) == (1, True)
    assert caller.chat().status_code == 200


def test_unknown_fields_pass_if_they_are_let(simulator: SimulatorProcess, caller: Caller) -> None:
    assert caller.chat(nonsense=1).status_code == 400
    simulator.turn(reject_unknown_fields=False)
    assert caller.chat(nonsense=1).status_code == 200


def test_chance_is_seeded(simulator: SimulatorProcess, caller: Caller) -> None:
    def statuses() -> list[int]:
        simulator.turn(rate_limit=0.5, seed=7)
        return [caller.chat().status_code for _ in range(20)]

    first = statuses()
    assert set(first) == {200, 429}
    assert statuses() == first


def test_it_counts_how_often_each_fault_has_struck(
    simulator: SimulatorProcess, caller: Caller
) -> None:
    simulator.turn(rate_limit={"count": 2}, server_error=0)
    for _ in range(3):
        caller.chat()

    assert caller.http.get("/_sim/faults").json() == {"rate_limit": 2}


@pytest.mark.parametrize(
    "knobs",
    [{"no_such_knob": 1}, {"latency_ms": -1}, {"shuffle": {"often": 1}}, {"seed": "x"}],
)
def test_a_wrong_knob_is_refused_and_turns_nothing(caller: Caller, knobs: dict[str, Any]) -> None:
    answer = caller.http.post("/_sim/knobs", json={"chunk_ms": 5} | knobs)

    assert answer.status_code == 400
    assert caller.http.get("/_sim/knobs").json()["chunk_ms"] == 0


def test_null_puts_a_knob_back(simulator: SimulatorProcess, caller: Caller) -> None:
    simulator.turn(rate_limit=1, latency_ms=50)
    simulator.turn(rate_limit=None, latency_ms=None)

    knobs = caller.http.get("/_sim/knobs").json()
    assert (knobs["rate_limit"], knobs["latency_ms"]) == (0, 0)
    assert caller.chat().status_code == 200


def test_an_unknown_route_has_an_error_body(caller: Caller) -> None:
    answer = caller.http.get("/v1/nowhere")

    assert answer.status_code == 404
    assert answer.json()["error"].keys() == {"message", "type", "param", "code"}
