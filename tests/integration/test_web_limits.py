"""Request limits at the door, counted in a real Redis, and without it."""

import random
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import gevent
import pytest
import redis
from werkzeug.test import TestResponse

from gateway.access.keys import Identity
from gateway.access.limits import Bucket, Count, LocalCounts, RedisCounts, buckets_of
from models import ids
from tests.integration.web_world import CHAT, CHAT_BODY, Customer, Web, at_once, error_of, job_path
from web import limits
from web.limits import READ_ROUTES, TIMEOUT_SECONDS, Limiter

MODELS = "/v1/models"
NOON = 1_790_000_000.0


def get(web: Web, customer: Customer, path: str = MODELS) -> TestResponse:
    return web.client(customer).get(path)


def shown(response: TestResponse) -> tuple[str, str]:
    return (
        response.headers["x-ratelimit-limit-requests"],
        response.headers["x-ratelimit-remaining-requests"],
    )


@pytest.mark.promise("N37", "N41", "M27")
def test_the_sixty_first_call_of_a_minute_is_refused_and_told_when_to_come_back(web: Web) -> None:
    customer = web.customer(requests_per_minute=None)
    answers = at_once([lambda: get(web, customer) for _ in range(61)])
    (refused,) = [answer for answer in answers if answer.status_code == 429]
    error = error_of(refused)
    assert error["type"] == "rate_limit_exceeded"
    assert error["message"] == (
        f"Rate limit exceeded. Please retry after {refused.headers['Retry-After']} seconds."
    )
    assert 1 <= int(refused.headers["Retry-After"]) <= 60
    assert "x-should-retry" not in refused.headers
    assert shown(refused) == ("60", "0")


def test_a_model_answer_says_how_much_is_left(web: Web) -> None:
    customer = web.customer(requests_per_minute=7)
    answer = web.client(customer).post(CHAT, json=CHAT_BODY)
    assert answer.status_code == 200
    assert shown(answer) == ("7", "6")
    assert answer.headers["x-ratelimit-reset-requests"] in ("59s", "60s")


def test_polls_do_not_use_up_the_limit_of_calls(web: Web) -> None:
    customer = web.customer(requests_per_minute=2)
    job_id = web.submit(customer)
    polls = [
        job_path(job_id),
        job_path(job_id, "/result"),
        f"/v1/jobs?ids=job_{job_id.hex}",
        f"/v1/chat/completions/chatcmpl-{job_id.hex}",
    ]
    for path in polls:
        assert shown(get(web, customer, path))[0] == "600", path
    assert shown(get(web, customer, "/v1/jobs")) == ("2", "0")
    assert get(web, customer).status_code == 429
    assert get(web, customer, polls[0]).status_code == 200


def test_every_route_that_counts_as_a_poll_exists(web: Web) -> None:
    assert {rule.rule for rule in web.app.url_map.iter_rules()} >= READ_ROUTES


def test_what_needs_no_key_has_no_limit(web: Web) -> None:
    answer = web.client(None).get("/health")
    assert "x-ratelimit-limit-requests" not in answer.headers


def test_keys_of_one_account_share_its_bucket(web: Web) -> None:
    account = ids.new()
    verdicts = [
        web.state.limiter.judge(
            buckets_of(Identity(account, ids.new(), None, None, None, None), reading=False)
        )
        for _ in range(601)
    ]
    assert [verdict.admitted for verdict in verdicts] == [True] * 600 + [False]
    assert verdicts[-1].remaining == 60


def test_redis_and_memory_count_alike(redis_url: str) -> None:
    rng = random.Random(11)
    buckets = [Bucket("a", 3), Bucket("b", 5), Bucket("c", 40)]
    with redis.Redis.from_url(redis_url) as client:
        stores = (RedisCounts(client), LocalCounts())
        now = NOON
        for _ in range(60):
            now += rng.choice([0, 0.3, 1, 7, 70])
            calls = [rng.sample(buckets, rng.randint(1, 3)) for _ in range(rng.randint(1, 6))]
            in_redis, in_memory = (store.take(calls, now) for store in stores)
            assert in_redis == in_memory
        assert all(client.ttl(key) <= 60 for key in client.scan_iter())


def test_a_redis_that_has_hung_up_meanwhile_is_dialled_anew(redis_url: str) -> None:
    calls = [[Bucket("kept", 3)]]
    with (
        redis.Redis.from_url(redis_url, client_name="counts") as client,
        redis.Redis.from_url(redis_url) as other,
    ):
        counts = RedisCounts(client)
        counts.take(calls, NOON)
        (kept,) = [each["id"] for each in other.client_list() if each["name"] == "counts"]
        other.client_kill_filter(_id=kept)
        assert counts.take(calls, NOON) == [[Count(1, int(NOON))]]


@contextmanager
def silent_redis() -> Iterator[str]:
    """A server that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        yield f"redis://127.0.0.1:{server.getsockname()[1]}/0"


@pytest.fixture
def alone(web: Web) -> Iterator[Limiter]:
    """A limiter whose Redis hangs."""
    with silent_redis() as url:
        given = web.settings.model_copy(update={"redis_url": type(web.settings.redis_url)(url)})
        yield limits.limiter(given)


def judged_in(
    limiter: Limiter, calls: int, buckets: tuple[Bucket, ...]
) -> tuple[list[bool], float]:
    """Which of so many simultaneous calls are let in, and how long all of them took."""
    began = time.monotonic()
    judge: list[Callable[[], bool]] = [lambda: limiter.judge(buckets).admitted] * calls
    return at_once(judge), time.monotonic() - began


def test_a_redis_that_hangs_costs_the_first_calls_a_moment_and_the_others_nothing(
    alone: Limiter,
) -> None:
    admitted, seconds = judged_in(alone, 50, (Bucket("k", 30),))
    assert sum(admitted) == 30
    # One after the other they would wait for fifty times as long.
    assert seconds < 10 * TIMEOUT_SECONDS
    assert not alone.is_shared()
    admitted, seconds = judged_in(alone, 50, (Bucket("other", 30),))
    assert sum(admitted) == 30
    assert seconds < TIMEOUT_SECONDS


class Flaky:
    """A Redis that is out of memory, or not."""

    def __init__(self) -> None:
        self.full = True
        self.counts = LocalCounts()

    def take(self, calls: Sequence[Sequence[Bucket]], now: float) -> list[list[Count]]:
        if self.full:
            raise redis.ResponseError("OOM command not allowed when used memory > 'maxmemory'.")
        return self.counts.take(calls, now)

    def answer(self) -> bool:
        return not self.full


def test_redis_counts_again_once_it_answers() -> None:
    flaky = Flaky()
    limiter = Limiter(flaky, flaky.answer, cool_down_seconds=0.0)
    limiter.judge((Bucket("k", 5),))
    assert (len(flaky.counts), limiter.is_shared()) == (0, False)
    flaky.full = False
    assert not limiter.is_shared()
    gevent.sleep(0)
    assert limiter.is_shared()
    limiter.judge((Bucket("k", 5),))
    assert len(flaky.counts) == 1


def test_a_process_that_counts_alone_is_degraded_and_says_so(web: Web) -> None:
    flaky = Flaky()
    web.with_limiter(Limiter(flaky, flaky.answer))
    customer = web.customer(requests_per_minute=1)
    assert [get(web, customer).status_code for _ in range(2)] == [200, 429]
    ready = web.client(None).get("/ready").get_json()
    assert (ready["status"], ready["checks"]["redis"]) == ("degraded", "degraded")
