from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from gateway.calls.errors import CostAboveMaximum, InvalidField
from gateway.calls.options import (
    DEFAULT_DEADLINE,
    LONGEST_DEADLINE,
    Options,
    check_cost,
    idempotency_key,
    take_options,
)

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
BODY = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hi"}]}
OURS = {
    "prefer_async": True,
    "require_async": False,
    "deadline": "6h",
    "custom_id": "row-1",
    "metadata": {"team": "blue"},
    "webhook": {"url": "https://example.com/hook"},
    "max_cost_usd": "0.25",
    "escalate": False,
}


def take(
    fields: Mapping[str, Any], prefer: str | None = None, *, allow_private: bool = False
) -> Options:
    return take_options(dict(fields), prefer, NOW, allow_private=allow_private)


def refusal(fields: Mapping[str, Any], prefer: str | None = None) -> InvalidField:
    with pytest.raises(InvalidField) as caught:
        take(fields, prefer)
    return caught.value


def test_our_fields_are_read_and_none_of_them_stays_in_the_body() -> None:
    body = {**BODY, **OURS}
    options = take_options(body, None, NOW, allow_private=False)
    assert body == BODY
    assert options == Options(
        prefer_async=True,
        require_async=False,
        deadline_at=NOW + timedelta(hours=6),
        custom_id="row-1",
        metadata={"team": "blue"},
        webhook={"url": "https://example.com/hook"},
        max_cost_nanos=250_000_000,
        escalate=False,
    )


def test_a_call_that_says_nothing_is_synchronous_and_has_the_default_deadline() -> None:
    options = take(BODY)
    assert not options.wants_async
    assert options.deadline_at == NOW + DEFAULT_DEADLINE == NOW + timedelta(hours=72)
    assert (options.custom_id, options.metadata, options.webhook) == (None, None, None)
    assert (options.max_cost_nanos, options.escalate) == (None, True)


@pytest.mark.parametrize("field", ["prefer_async", "require_async"])
def test_either_flag_asks_for_a_job(field: str) -> None:
    assert take({field: True}).wants_async
    assert not take({field: False}).wants_async
    assert not take({field: None}).wants_async


@pytest.mark.parametrize("value", [1, 0, "true", [], {}, 1.0])
@pytest.mark.parametrize("field", ["prefer_async", "require_async"])
def test_a_flag_that_is_no_boolean_is_refused_by_its_name(field: str, value: object) -> None:
    assert refusal({field: value}).param == field


def test_metadata_is_the_providers_on_an_ordinary_call() -> None:
    body = {**BODY, "metadata": {"anything": ["goes", 1]}}
    assert take_options(body, None, NOW, allow_private=False).metadata is None
    assert body["metadata"] == {"anything": ["goes", 1]}


@pytest.mark.parametrize(
    "header",
    [
        "respond-async",
        "Respond-Async",
        "  respond-async  ",
        "return=minimal, respond-async",
        "respond-async, handling=lenient",
        "respond-async;foo=bar",
        'respond-async; foo="a b"',
        'respond-async=""',
    ],
)
def test_the_prefer_header_asks_for_a_job(header: str) -> None:
    assert take(BODY, header).prefer_async


@pytest.mark.parametrize(
    "header", [None, "", ",", "respond-asynchronously", "return=respond-async", "wait=5", "x;y"]
)
def test_other_preferences_are_ignored(header: str | None) -> None:
    assert not take(BODY, header).wants_async


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("respond-async, wait=10", 10),
        ("wait=10,respond-async", 10),
        ('Wait = "3"; x=1, respond-async', 3),
        ("respond-async, wait=10, wait=5", 10),
        ("respond-async, wait=3600", 25),
        ("respond-async, wait=0", 0),
        ("respond-async, wait=soon", 0),
        ("respond-async, wait=-1", 0),
        ("respond-async", 0),
        ("wait=10", 0),
    ],
)
def test_a_caller_says_how_long_it_waits_before_the_call_becomes_a_job(
    header: str, seconds: int
) -> None:
    options = take(BODY, header)
    assert (options.wait_seconds, options.wants_async) == (seconds, "respond-async" in header)


@pytest.mark.parametrize(("value", "expected"), [(True, True), (False, False), (None, False)])
def test_a_caller_may_only_want_to_know_what_a_call_would_cost(
    value: object, expected: bool
) -> None:
    assert take({"dry_run": value}).dry_run is expected


@pytest.mark.parametrize("value", ["true", 1, {}])
def test_a_dry_run_is_asked_for_with_a_boolean(value: object) -> None:
    assert refusal({"dry_run": value}).param == "dry_run"


@pytest.mark.parametrize("field", ["deadline", "completion_window"])
@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (90, timedelta(seconds=90)),
        (0.5, timedelta(seconds=0.5)),
        ("90", timedelta(seconds=90)),
        ("90s", timedelta(seconds=90)),
        ("15m", timedelta(minutes=15)),
        ("1.5h", timedelta(minutes=90)),
        ("6h", timedelta(hours=6)),
        (" 24h ", timedelta(hours=24)),
        ("30d", timedelta(days=30)),
        ("2026-03-01T13:00:00Z", timedelta(hours=1)),
        ("2026-03-01T13:00:00.500+00:00", timedelta(hours=1, seconds=0.5)),
        ("2026-03-01T16:00:00+03:00", timedelta(hours=1)),
        ("2026-03-01t13:00:00z", timedelta(hours=1)),
    ],
)
def test_a_deadline_may_be_seconds_a_duration_or_a_time(
    field: str, value: object, expected: timedelta
) -> None:
    assert take({field: value}).deadline_at == NOW + expected


@pytest.mark.parametrize("field", ["deadline", "completion_window"])
@pytest.mark.parametrize(
    "value",
    [
        True,
        [],
        {},
        "",
        "soon",
        "6 hours",
        "6H",
        "h",
        "-5",
        "1e3",
        "٣h",
        "2026-03-01T13:00:00",  # no offset
        "2026-02-30T13:00:00Z",
        0,
        -1,
        "0s",
        "31d",
        1e300,
        10**18,
        "999999999d",
        "2026-03-01T12:00:00Z",  # now
        "2020-01-01T00:00:00Z",
        "9999-12-31T23:59:59-14:00",
        "0001-01-01T00:00:00+14:00",
    ],
)
def test_a_bad_deadline_is_refused_by_the_name_it_came_under(field: str, value: object) -> None:
    assert refusal({field: value}).param == field


def test_the_longest_deadline_is_taken() -> None:
    assert take({"deadline": "30d"}).deadline_at == NOW + LONGEST_DEADLINE


def test_a_deadline_and_its_alias_exclude_each_other() -> None:
    assert refusal({"deadline": "1h", "completion_window": "1h"}).param == "deadline"


@pytest.mark.parametrize("value", ["a", "ä" * 512, "with space", "\u202e"])
def test_a_custom_id_is_any_text_up_to_512_characters(value: str) -> None:
    assert take({"custom_id": value}).custom_id == value


@pytest.mark.parametrize("value", ["", "a" * 513, "a\x00b", 5, True, ["a"], {}])
def test_a_bad_custom_id_is_refused_by_its_name(value: object) -> None:
    assert refusal({"custom_id": value}).param == "custom_id"


def test_metadata_takes_sixteen_pairs_of_64_and_512_characters() -> None:
    pairs = {f"{number:064d}": "v" * 512 for number in range(16)}
    assert take({"prefer_async": True, "metadata": pairs}).metadata == pairs
    assert take({"prefer_async": True, "metadata": {"": ""}}).metadata == {"": ""}
    assert take({"prefer_async": True, "metadata": {}}).metadata is None
    assert take({"prefer_async": True, "metadata": None}).metadata is None


@pytest.mark.parametrize(
    ("value", "param"),
    [
        ({str(number): "" for number in range(17)}, "metadata"),
        ({"k" * 65: "v"}, "metadata"),
        ({"a\x00": "v"}, "metadata"),
        ({"a": "v" * 513}, "metadata.a"),
        ({"a": "\x00"}, "metadata.a"),
        ({"fine": "v", "a": 1}, "metadata.a"),
        ({"a": None}, "metadata.a"),
        ({"a": {"b": "c"}}, "metadata.a"),
        ([], "metadata"),
        ("a=b", "metadata"),
        (False, "metadata"),
    ],
)
def test_bad_metadata_is_refused_by_its_path(value: object, param: str) -> None:
    assert refusal({"prefer_async": True, "metadata": value}).param == param


def test_a_callback_url_is_a_webhook_for_every_event() -> None:
    url = "https://example.com/hook"
    assert take({"callback_url": url}).webhook == {"url": url}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"webhook": "https://example.com"}, "webhook"),
        ({"webhook": {}}, "webhook.url"),
        ({"webhook": {"url": 1}}, "webhook.url"),
        ({"webhook": {"url": "http://127.0.0.1/hook"}}, "webhook.url"),
        ({"webhook": {"url": "https://example.com", "events": []}}, "webhook.events"),
        ({"webhook": {"url": "https://example.com", "events": ["x"]}}, "webhook.events"),
        (
            {"webhook": {"url": "https://example.com", "include_result": 1}},
            "webhook.include_result",
        ),
        ({"webhook": {"url": "https://example.com", "secret": "s"}}, "webhook.secret"),
        ({"callback_url": 1}, "callback_url"),
        ({"callback_url": "https://10.0.0.1"}, "callback_url"),
        ({"callback_url": "ftp://example.com"}, "callback_url"),
        ({"callback_url": "https://example.com", "webhook": {}}, "webhook"),
    ],
)
def test_a_bad_webhook_is_refused_by_its_path(fields: dict[str, Any], param: str) -> None:
    assert refusal(fields).param == param


def test_a_private_webhook_is_taken_where_that_is_allowed() -> None:
    webhook = {"url": "http://127.0.0.1:9/hook", "events": ["job.completed"]}
    assert take({"webhook": webhook}, allow_private=True).webhook == webhook


@pytest.mark.parametrize("header", ["a", "x" * 255, "550e8400-e29b-41d4-a716-446655440000", "é"])
def test_an_idempotency_key_is_up_to_255_printable_characters(header: str) -> None:
    assert idempotency_key(header) == header


def test_no_idempotency_key_is_none() -> None:
    assert idempotency_key(None) is None


@pytest.mark.parametrize("header", ["", "x" * 256, "a\x00b", "a\tb", "\x7f"])
def test_a_bad_idempotency_key_is_refused_by_its_name(header: str) -> None:
    with pytest.raises(InvalidField) as caught:
        idempotency_key(header)
    assert caught.value.param == "Idempotency-Key"


@pytest.mark.parametrize(
    ("said", "nanos"),
    [
        ("0.0021", 2_100_000),
        ("0", 0),
        (0.1, 100_000_000),
        (1e-9, 1),
        (3, 3_000_000_000),
        ("9223372036.854775807", 2**63 - 1),
    ],
)
def test_a_most_that_a_call_may_cost_is_read_to_the_nano(said: object, nanos: int) -> None:
    assert take({**BODY, "max_cost_usd": said}).max_cost_nanos == nanos


@pytest.mark.parametrize(
    "said", ["", "-1", "1e3", " 1", "1.0000000001", 1e-10, -0.5, True, 10**11, [], {"usd": "1"}]
)
def test_a_most_that_is_no_amount_of_dollars_is_refused_by_its_name(said: object) -> None:
    assert refusal({**BODY, "max_cost_usd": said}).param == "max_cost_usd"


@pytest.mark.parametrize("said", [0, "false", []])
def test_escalate_is_true_or_false(said: object) -> None:
    assert refusal({**BODY, "escalate": said}).param == "escalate"


def test_a_ceiling_above_the_most_that_a_call_may_cost_is_refused() -> None:
    options = take({**BODY, "max_cost_usd": "0.002"})
    check_cost(options, 2_000_000)
    with pytest.raises(CostAboveMaximum) as caught:
        check_cost(options, 2_000_001)
    assert caught.value.param == "max_cost_usd"
    check_cost(take(BODY), 2**63 - 1)
