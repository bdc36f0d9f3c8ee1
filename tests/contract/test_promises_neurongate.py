"""What NeuronGate's API reference promises, against the running gateway.

Where this service decided otherwise:

| the page | here |
|---|---|
| keys begin with `sk-ng-` | with `sk-op-`; 32 characters follow, as there |
| accounts, keys and limits in a dashboard | by operator commands |
| deposits of USDC, USDT and ETH | credit is booked by an operator |
| prices of a fixed list | those of the catalogue and the operator's markup, in USD per 1K tokens |
| `error` holds type, message and code | and `param`, which names a field or is null |
| limits by account tier | by key, and by account |

Kept elsewhere: the SDKs for Python and Node, LangChain, LlamaIndex and the Vercel AI SDK by
`test_gateway_openai_sdk`, `test_gateway_streams` and `test_gateway_frameworks`; the 500, which no
caller can provoke, by the integration tests. A parameter that is left out is not sent on, so that
its default is the provider's.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

import httpx
import orjson
import pytest

from gateway.calls.attempts import ATTEMPTS
from tests.acceptance.deployment import Deployment, until
from tests.contract.simulator_process import echo

CHAT, MODELS = "/v1/chat/completions", "/v1/models"
MODEL = "openai/gpt-4o"
BODY: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": "Hello!"}]}
NANO_USD = Decimal("0.000000001")
# gpt-4o-mini's output at $0.60 a million tokens and the deployment's markup: $135 and $1,350.
OVER_A_DAY, OVER_A_MONTH = 200_000_000, 2_000_000_000
SETTLED_SECONDS = 20.0
Json = dict[str, Any]


@pytest.fixture
def client(gateway: Deployment) -> Iterator[httpx.Client]:
    with gateway.client(gateway.accounts[0].api_key) as made:
        yield made


@dataclass(frozen=True, slots=True)
class Newcomer:
    """An account as it is made, whose key has the default limits; another key may spend more."""

    account_id: str
    api_key: str
    raised_key: str


@pytest.fixture(scope="module")
def newcomer(standing_gateway: Deployment) -> Newcomer:
    run = standing_gateway.command
    _, made = run("accounts", "create", "newcomer", "--credit", "10000")
    _, raised = run("keys", "create", made["account_id"], "--daily-usd", "5000")
    return Newcomer(made["account_id"], made["api_key"], raised["api_key"])


def chat(client: httpx.Client, **fields: Any) -> httpx.Response:
    return client.post(CHAT, json={**BODY, **fields})


def error_of(response: httpx.Response, status: int, error_type: str) -> Json:
    """The error, which has to be of that status and type, in the page's shape."""
    assert response.status_code == status, response.text
    body: Json = response.json()
    assert body.keys() == {"error"}
    error: Json = body["error"]
    assert (error["type"], error["code"]) == (error_type, status)
    assert isinstance(error["message"], str)
    assert error["message"]
    return error


# Authentication.


@pytest.mark.promise("N8", "N9")
@pytest.mark.parametrize("header", ["Authorization", "X-API-Key"])
def test_a_key_is_passed_in_either_header(gateway: Deployment, header: str) -> None:
    key = gateway.accounts[0].api_key
    value = f"Bearer {key}" if header == "Authorization" else key
    response = httpx.get(f"{gateway.base_url}{MODELS}", headers={header: value}, trust_env=False)
    assert response.status_code == 200


@pytest.mark.promise("N7", "N10", "N30")
@pytest.mark.parametrize(("method", "path"), [("POST", CHAT), ("GET", MODELS)])
def test_every_request_needs_a_key(gateway: Deployment, method: str, path: str) -> None:
    response = httpx.request(method, f"{gateway.base_url}{path}", json=BODY, trust_env=False)
    error_of(response, 401, "unauthorized")


@pytest.mark.promise("N3", "N4")
def test_a_key_has_32_characters_behind_its_prefix(newcomer: Newcomer) -> None:
    assert re.fullmatch(r"sk-op-[0-9A-Za-z]{32}", newcomer.api_key)


# Chat completions.


@pytest.mark.promise("N2", "N11", "N23")
@pytest.mark.parametrize("model", [MODEL, "anthropic/claude-sonnet-4", "meta-llama/llama-3-70b"])
def test_the_models_that_the_page_names_answer_under_those_names(
    client: httpx.Client, model: str
) -> None:
    answer = chat(client, model=model).raise_for_status().json()
    assert answer["model"] == model
    assert echo("Hello!") in answer["choices"][0]["message"]["content"]


@pytest.mark.promise("N13", "N20", "N21", "N22", "N24", "N25")
def test_a_completion_has_the_shape_of_the_page(client: httpx.Client) -> None:
    answer = chat(client).raise_for_status().json()
    assert answer["id"].startswith("chatcmpl-")
    assert answer["object"] == "chat.completion"
    assert isinstance(answer["created"], int)
    (choice,) = answer["choices"]
    assert (choice["index"], choice["finish_reason"]) == (0, "stop")
    assert choice["message"]["role"] == "assistant"
    assert isinstance(choice["message"]["content"], str)
    usage = answer["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"] > 0


@pytest.mark.promise("N12")
def test_system_user_and_assistant_speak(client: httpx.Client) -> None:
    roles = ("system", "user", "assistant", "user")
    messages = [{"role": role, "content": f"{role} says"} for role in roles]
    assert chat(client, messages=messages).status_code == 200


@pytest.mark.promise("N13", "N14", "N15", "N16", "N17", "N18", "N19")
@pytest.mark.parametrize(
    ("field", "taken", "refused"),
    [
        ("temperature", [0, 2], [-0.1, 2.1, "hot"]),
        ("max_tokens", [1], [0, 1.5, "many"]),
        ("top_p", [0, 1], [-0.1, 1.1]),
        ("stop", ["a", list("abcd")], [list("abcde"), 1]),
        ("frequency_penalty", [-2, 2], [-2.1, 2.1]),
        ("presence_penalty", [-2, 2], [-2.1, 2.1]),
        ("stream", [False], ["yes"]),
        ("messages", [], [[], None, [{"role": "nobody", "content": "x"}]]),
        ("model", [], [None, "", 4]),
    ],
)
def test_a_parameter_is_taken_within_its_bounds_and_refused_by_its_name_beyond_them(
    client: httpx.Client, field: str, taken: list[Any], refused: list[Any]
) -> None:
    for value in taken:
        assert chat(client, **{field: value}).status_code == 200, value
    for value in refused:
        error = error_of(chat(client, **{field: value}), 400, "bad_request")
        assert error["param"].startswith(field), value
        assert f"'{field}" in error["message"]


@pytest.mark.promise("N11", "N12", "N43")
@pytest.mark.parametrize("field", ["model", "messages"])
def test_what_is_required_is_missed_by_its_name(client: httpx.Client, field: str) -> None:
    body = {name: value for name, value in BODY.items() if name != field}
    error = error_of(client.post(CHAT, json=body), 400, "bad_request")
    assert (error["param"], error["message"]) == (field, f"'{field}' is required.")


@pytest.mark.promise("N15")
def test_max_tokens_bounds_what_is_generated(client: httpx.Client) -> None:
    answer = chat(client, max_tokens=2).raise_for_status().json()
    assert answer["usage"]["completion_tokens"] <= 2
    assert answer["choices"][0]["finish_reason"] == "length"


@pytest.mark.promise("N26", "N27", "N28", "N29")
def test_a_stream_has_the_shape_of_the_page(client: httpx.Client) -> None:
    with client.stream("POST", CHAT, json={**BODY, "stream": True}) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        *told, done, end = response.read().decode().split("\n\n")
    assert (done, end) == ("data: [DONE]", "")
    assert all(each.startswith("data: ") for each in told)
    chunks = [orjson.loads(each.removeprefix("data: ")) for each in told]
    frames = {
        tuple(chunk[name] for name in ("id", "object", "created", "model")) for chunk in chunks
    }
    ((completion_id, kind, _, model),) = frames
    assert completion_id.startswith("chatcmpl-")
    assert (kind, model) == ("chat.completion.chunk", MODEL)
    *pieces, last = [chunk["choices"][0] for chunk in chunks]
    assert {piece["finish_reason"] for piece in pieces} == {None}
    assert echo("Hello!") in "".join(piece["delta"].get("content") or "" for piece in pieces)
    assert (last["delta"], last["finish_reason"]) == ({}, "stop")


# Models and money.


@pytest.mark.promise("N30", "N31", "N32", "N33", "N34")
def test_models_are_listed_with_prices_and_windows(client: httpx.Client) -> None:
    listed = client.get(MODELS).raise_for_status().json()
    assert listed["object"] == "list"
    for model in listed["data"]:
        assert model["object"] == "model"
        assert isinstance(model["created"], int)
        assert model["id"].startswith(f"{model['owned_by']}/")
        for name in ("prompt", "completion"):
            assert re.fullmatch(r"\d+(\.\d+)?", model["pricing"][name])
    (gpt,) = [model for model in listed["data"] if model["id"] == MODEL]
    assert gpt["context_length"] == 128_000


@pytest.mark.promise("N6", "N33")
def test_the_balance_is_debited_for_each_request_at_the_listed_price(
    gateway: Deployment, newcomer: Newcomer
) -> None:
    def debited() -> int:
        with gateway.database() as connection:
            row = connection.execute(
                "SELECT debits_nanos FROM balances WHERE account_id = %s",
                (newcomer.account_id.removeprefix("acct_"),),
            ).fetchone()
        assert row is not None
        nanos: int = row[0]
        return nanos

    before = debited()
    with gateway.client(newcomer.raised_key) as client:
        response = chat(client)
        prices = client.get(f"{MODELS}/{MODEL}").json()["pricing"]
    usage = response.raise_for_status().json()["usage"]
    listed = (
        usage["prompt_tokens"] * Decimal(prices["prompt"])
        + usage["completion_tokens"] * Decimal(prices["completion"])
    ) / 1000
    charged = Decimal(response.headers["x-cost-usd"])
    assert charged == listed.quantize(NANO_USD, ROUND_HALF_UP) > 0
    expected = before + int(charged / NANO_USD)
    until(lambda: debited() == expected, SETTLED_SECONDS, "the balance is debited")


# Limits.


@pytest.mark.promise("N38", "N39", "N40", "N47")
def test_a_key_may_spend_100_dollars_a_day_unless_it_is_told_otherwise_and_1000_a_month(
    gateway: Deployment, newcomer: Newcomer
) -> None:
    for key, tokens, period in (
        (newcomer.api_key, OVER_A_DAY, "daily"),
        (newcomer.raised_key, OVER_A_MONTH, "monthly"),
    ):
        with gateway.client(key) as client:
            refused = chat(client, model="gpt-4o-mini", max_tokens=tokens)
            error = error_of(refused, 429, "rate_limit_exceeded")
            assert period in error["message"]
            assert int(refused.headers["retry-after"]) > 0
    with gateway.client(newcomer.raised_key) as client:
        assert chat(client, model="gpt-4o-mini", max_tokens=OVER_A_DAY).status_code != 429


@pytest.mark.promise("N35", "N37", "N40", "N41", "N47")
def test_a_key_makes_60_requests_a_minute_and_is_told_when_it_may_make_the_next(
    gateway: Deployment, newcomer: Newcomer
) -> None:
    with gateway.client(newcomer.api_key) as client:
        answers = [client.get(MODELS)]
        assert answers[0].headers["x-ratelimit-limit-requests"] == "60"
        while answers[-1].status_code == 200 and len(answers) <= 60:
            answers.append(client.get(MODELS))
    error = error_of(answers[-1], 429, "rate_limit_exceeded")
    seconds = int(answers[-1].headers["retry-after"])
    assert error["message"] == f"Rate limit exceeded. Please retry after {seconds} seconds."
    assert 1 <= seconds <= 60


# Errors.


@pytest.mark.promise("N42", "N43")
def test_a_body_that_is_malformed_is_a_bad_request(client: httpx.Client) -> None:
    error_of(client.post(CHAT, content=b'{"model":'), 400, "bad_request")


@pytest.mark.promise("N42", "N44")
def test_an_invalid_key_is_told_so_in_the_words_of_the_page(gateway: Deployment) -> None:
    with gateway.client("sk-ng-your-api-key") as stranger:
        error = error_of(stranger.get(MODELS), 401, "unauthorized")
    assert error["message"] == "Invalid API key. Please check your key and try again."


@pytest.mark.promise("N45")
def test_a_balance_that_is_too_low_is_insufficient_funds(client: httpx.Client) -> None:
    error_of(chat(client, max_tokens=10**12), 402, "insufficient_funds")


@pytest.mark.promise("N46")
@pytest.mark.parametrize("path", [MODELS + "/gpt-nothing", "/v1/jobs/job_1", "/v1/nothing"])
def test_a_resource_that_does_not_exist_is_not_found(client: httpx.Client, path: str) -> None:
    error_of(client.get(path), 404, "not_found")


@pytest.mark.promise("N46")
def test_a_model_that_does_not_exist_is_not_found(client: httpx.Client) -> None:
    error_of(chat(client, model="openai/gpt-nothing"), 404, "not_found")


@pytest.mark.promise("N49")
def test_an_error_of_the_provider_is_an_upstream_error(
    gateway: Deployment, client: httpx.Client
) -> None:
    gateway.simulator.turn(server_error={"count": ATTEMPTS})
    error_of(chat(client), 502, "upstream_error")
