"""No route tells anybody anything about what is somebody else's. Generated from the URL map."""

from collections.abc import Iterator, Mapping
from uuid import UUID

import orjson
import pytest
from werkzeug.routing import Rule
from werkzeug.test import TestResponse

from models import ids
from models.ids import Prefix
from models.states import JobStatus
from tests.integration.web_world import Customer, Web
from web.documented import operation_of

ID_ARGUMENTS = {
    "job_id": Prefix.JOB,
    "completion_id": Prefix.COMPLETION,
    "endpoint_id": Prefix.WEBHOOK_ENDPOINT,
    "delivery_id": Prefix.DELIVERY,
    "key_id": Prefix.KEY,
}
ENDPOINT = {"name": "telling", "url": "http://127.0.0.1:9/", "event_types": ["job.completed"]}
BODIES = {
    "/v1/webhook_endpoints/<endpoint_id>": {"enabled": False},
    "/v1/webhook_endpoints/<endpoint_id>/test": {"event_type": "job.completed"},
    "/v1/webhook_endpoints/<endpoint_id>/recover": {"since": 0},
    "/v1/keys/<key_id>": {"name": "taken over"},
    "/v1/keys/<key_id>/rotate": {"overlap_seconds": 0},
}
"""What a stranger would send to do harm."""
NOT_OWNED = {"name", "provider"}
"""Arguments that name what belongs to nobody: models and providers."""
ABOUT_THE_CALLER = {
    "X-Request-Id",
    "x-ratelimit-remaining-requests",
    "x-ratelimit-reset-requests",
}
"""Headers that differ between any two calls."""
KEPT = (
    "SELECT to_jsonb(webhook_endpoints) FROM webhook_endpoints ORDER BY id",
    "SELECT to_jsonb(api_keys) - 'last_used_at' FROM api_keys ORDER BY id",
    "SELECT to_jsonb(audit_log) FROM audit_log ORDER BY id",
)
"""What a stranger changes nothing of."""
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")


def rules_with_an_id(web: Web) -> Iterator[tuple[Rule, str]]:
    """Every route to something owned, and the name of its argument."""
    for rule in web.app.url_map.iter_rules():
        for argument in rule.arguments - NOT_OWNED:
            yield rule, argument


def path_of(web: Web, rule: Rule, argument: str, value: UUID) -> str:
    adapter = web.app.url_map.bind("localhost")
    return adapter.build(rule.endpoint, {argument: ids.show(ID_ARGUMENTS[argument], value)})


def owned(web: Web, customer: Customer, **fields: str) -> dict[str, UUID]:
    """Something of the customer's for each argument of a route; the job has not ended."""
    answer = web.client(customer).post("/v1/webhook_endpoints", json=ENDPOINT)
    endpoint_id = ids.parse(Prefix.WEBHOOK_ENDPOINT, answer.get_json()["id"])
    assert endpoint_id is not None
    web.end(web.submit(customer))
    (delivery_id,) = web.column("SELECT id FROM deliveries")
    job_id = web.submit(customer, **fields)
    return {
        "job_id": job_id,
        "completion_id": job_id,
        "endpoint_id": endpoint_id,
        "delivery_id": delivery_id,
        "key_id": customer.key_id,
    }


def queries_with(web: Web, rule: Rule, method: str, foreign: Mapping[str, UUID]) -> Iterator[str]:
    """A foreign id in each query parameter that a method of a route is documented to take."""
    operation = operation_of(web.app.view_functions[rule.endpoint])
    if operation is None or method not in (rule.methods or ()) or method == "HEAD":
        return
    for parameter in operation.parameters:
        if parameter.place == "query":
            for argument, value in foreign.items():
                yield f"?{parameter.name}={ids.show(ID_ARGUMENTS[argument], value)}"


def without_the_caller(response: TestResponse) -> tuple[int, bytes, list[tuple[str, str]]]:
    headers = [each for each in response.headers if each[0] not in ABOUT_THE_CALLER]
    return response.status_code, response.data, headers


def test_every_argument_of_a_route_is_known_here(web: Web) -> None:
    arguments = {argument for rule in web.app.url_map.iter_rules() for argument in rule.arguments}
    assert arguments == {*ID_ARGUMENTS, *NOT_OWNED}


@pytest.mark.parametrize("ended", [False, True])
def test_what_is_somebody_elses_is_as_if_it_were_not_there(
    web: Web, customer: Customer, ended: bool
) -> None:
    stranger = web.client(web.customer())
    foreign, nothing = owned(web, customer), ids.new()
    if ended:
        web.end(foreign["job_id"])
    before = [web.column(query) for query in KEPT]
    tried = 0
    for rule, argument in rules_with_an_id(web):
        assert rule.methods is not None
        for method in sorted(rule.methods - {"OPTIONS"}):
            answers = [
                stranger.open(
                    path_of(web, rule, argument, value), method=method, json=BODIES.get(rule.rule)
                )
                for value in (foreign[argument], nothing)
            ]
            assert answers[0].status_code == 404, (rule.rule, method)
            assert without_the_caller(answers[0]) == without_the_caller(answers[1])
            tried += 1
    assert tried >= 20
    statuses = web.column("SELECT status FROM jobs ORDER BY id")
    assert statuses == ["completed", "completed" if ended else "queued"]
    assert web.count("job_bodies") == 2
    assert [web.column(query) for query in KEPT] == before
    assert set(web.column("SELECT attempts_before + attempts FROM deliveries")) == {0}


def test_no_method_of_any_route_answers_somebody_elses_job(web: Web, customer: Customer) -> None:
    stranger = web.client(web.customer())
    foreign = owned(web, customer, custom_id="a-telling-name")
    web.end(foreign["job_id"], JobStatus.COMPLETED)
    told = [*(value.hex.encode() for value in foreign.values()), b"a-telling-name"]
    for rule in web.app.url_map.iter_rules():
        arguments = rule.arguments - NOT_OWNED
        paths = [path_of(web, rule, each, foreign[each]) for each in arguments] or [rule.rule]
        for path in paths:
            for method in METHODS:
                for query in ["", *queries_with(web, rule, method, foreign)]:
                    response = stranger.open(path + query, method=method)
                    assert not any(each in response.data for each in told), (path, method)
                    assert response.status_code < 500


def test_an_idempotency_key_is_ones_own(web: Web, customer: Customer) -> None:
    other = web.customer()
    headers = {"Idempotency-Key": "k"}
    body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hi"}]}
    waiting = {**body, "prefer_async": True}
    mine = web.client(customer).post("/v1/chat/completions", json=waiting, headers=headers)
    theirs = web.client(other).post("/v1/chat/completions", json=waiting, headers=headers)
    assert (mine.status_code, theirs.status_code) == (202, 202)
    assert "Idempotent-Replayed" not in theirs.headers
    assert orjson.loads(mine.data)["id"] != orjson.loads(theirs.data)["id"]


def test_lists_and_filters_find_only_ones_own(web: Web, customer: Customer) -> None:
    mine = web.submit(customer, metadata={"run": "1"})
    web.submit(web.customer(), metadata={"run": "1"})
    for query in ("", "?status=queued", "?metadata[run]=1", "?model=openai/gpt-4o-mini"):
        listed = web.client(customer).get(f"/v1/jobs{query}").get_json()["data"]
        assert [job["id"] for job in listed] == [ids.show(Prefix.JOB, mine)]
