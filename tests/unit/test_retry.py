"""The retry choice: pure arithmetic over an attempt, a Retry-After and a drawn jitter."""

from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.net.retry import delay_seconds, parse_retry_after

NOW = 1_795_305_600.0


def delay(attempt: int, retry_after_seconds: float | None = None, jitter: float = 0.0) -> float:
    return delay_seconds(
        attempt,
        retry_after_seconds=retry_after_seconds,
        base_seconds=0.5,
        cap_seconds=8.0,
        jitter=jitter,
    )


def test_waits_double_up_to_the_cap() -> None:
    assert [delay(attempt) for attempt in range(7)] == [0.5, 1.0, 2.0, 4.0, 8.0, 8.0, 8.0]


def test_full_jitter_halves_the_wait() -> None:
    assert delay(2, jitter=1.0) == 1.0


def test_retry_after_replaces_the_doubling_and_jitter_only_adds_to_it() -> None:
    assert delay(0, retry_after_seconds=4.0) == 4.0
    assert delay(9, retry_after_seconds=4.0, jitter=1.0) == 5.0
    assert delay(5, retry_after_seconds=0.0) == 0.0


def test_retry_after_is_capped() -> None:
    assert delay(0, retry_after_seconds=3_600.0) == 8.0


@given(
    attempt=st.integers(0, 10_000),
    retry_after=st.none() | st.floats(0, 1e9),
    jitter=st.floats(0, 1),
)
def test_no_wait_is_negative_or_beyond_the_cap(
    attempt: int, retry_after: float | None, jitter: float
) -> None:
    assert 0.0 <= delay(attempt, retry_after, jitter) <= 8.0


@given(retry_after=st.floats(0, 8), jitter=st.floats(0, 1))
def test_nobody_returns_before_a_retry_after_within_the_cap(
    retry_after: float, jitter: float
) -> None:
    assert delay(0, retry_after, jitter) >= retry_after


@pytest.mark.parametrize(("attempt", "jitter"), [(-1, 0.5), (0, 1.5), (0, -0.1)])
def test_nonsense_is_refused(attempt: int, jitter: float) -> None:
    with pytest.raises(ValueError, match="jitter lies between"):
        delay(attempt, jitter=jitter)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "0"}, 0.0),
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after-ms": "250", "retry-after": "7"}, 0.25),
        ({"retry-after-ms": "soon", "retry-after": "7"}, 7.0),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": ""}, None),
        ({"retry-after": "later"}, None),
        ({"retry-after": "99999999"}, 86_400.0),
        ({"retry-after": formatdate(NOW + 30, usegmt=True)}, 30.0),
        ({"retry-after": formatdate(NOW - 30, usegmt=True)}, None),
        ({"retry-after": "Mon, 99 Foo 2026 00:00:00 GMT"}, None),
    ],
)
def test_retry_after_is_read_in_all_its_forms(
    headers: dict[str, str], seconds: float | None
) -> None:
    assert parse_retry_after(headers, NOW) == seconds


@given(st.text(max_size=40))
def test_no_header_crashes_the_parser(value: str) -> None:
    seconds = parse_retry_after({"retry-after": value, "retry-after-ms": value}, NOW)
    assert seconds is None or 0.0 <= seconds <= 86_400.0
