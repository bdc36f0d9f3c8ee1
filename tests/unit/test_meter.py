"""A provider's meter: our keys' rows summed by day, model and lane, and nothing half understood."""

import json
from collections.abc import Callable
from datetime import date
from typing import Any

import httpx
import pytest

from gateway.net.http import HttpClients
from gateway.reconciliation.counters import CounterError
from gateway.reconciliation.meter import Meter
from gateway.reconciliation.verdicts import Tokens, Told

Row = dict[str, Any]
URL = "http://meter.test/rows"
FIRST = date(2026, 11, 21)
ROW: Row = {
    "key": "sk-ours",
    "provider": "openai",
    "model": "gpt-4o-mini",
    "lane": "batch",
    "unreported": False,
    "day": "2026-11-22",
    "calls": 2,
    "input_uncached": 10,
    "cache_read": 20,
    "cache_write_short": 3,
    "cache_write_long": 4,
    "output": 50,
    "reasoning": 5,
}


def read(answer: Callable[[], httpx.Response]) -> dict[date, dict[tuple[str, str, str], Told]]:
    http = HttpClients(transport=httpx.MockTransport(lambda _request: answer()))
    try:
        return Meter(http, URL, {"sk-ours": "openai", "sk-too": "groq"}).read(FIRST, 1)
    finally:
        http.close()


def rows(*given: object) -> Callable[[], httpx.Response]:
    return lambda: httpx.Response(200, json={"rows": list(given)})


def test_rows_of_our_keys_are_summed_by_day_model_and_lane() -> None:
    unreported = {**ROW, "unreported": True, "calls": 1, "output": 1}
    other_day = {**ROW, "day": "2026-11-21"}
    other_key = {**ROW, "key": "sk-too"}
    counted = read(rows(ROW, unreported, other_day, other_key, {**ROW, "key": "sk-stranger"}))
    where = ("openai", "gpt-4o-mini", "batch")
    assert counted == {
        date(2026, 11, 22): {
            where: Told(3, Tokens(34, 40, 51)),
            ("groq", *where[1:]): Told(2, Tokens(17, 20, 50)),
        },
        date(2026, 11, 21): {where: Told(2, Tokens(17, 20, 50))},
    }


@pytest.mark.parametrize(
    "change",
    [
        {"day": "yesterday"},
        {"day": None},
        {"output": None},
        {"output": -1},
        {"calls": "2"},
        {"model": 7},
        {"cache_write_long": 1.5},
    ],
)
def test_a_row_that_cannot_be_understood_is_not_left_out(change: Row) -> None:
    with pytest.raises(CounterError):
        read(rows(ROW, {**ROW, **change}))


def _refuse() -> httpx.Response:
    raise httpx.ConnectError("no")


@pytest.mark.parametrize(
    "answer",
    [
        lambda: httpx.Response(500),
        lambda: httpx.Response(200, content=b"<html>"),
        lambda: httpx.Response(200, content=json.dumps([ROW]).encode()),
        _refuse,
    ],
)
def test_a_meter_that_does_not_answer_as_one_is_an_error(
    answer: Callable[[], httpx.Response],
) -> None:
    with pytest.raises(CounterError) as raised:
        read(answer)
    assert "sk-" not in str(raised.value)
