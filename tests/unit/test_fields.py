"""Reading fields of JSON that somebody else wrote."""

import pytest

from gateway.providers.fields import LARGEST_COUNT, count
from gateway.providers.usage import anthropic_usage, openai_usage


@pytest.mark.parametrize("value", [0, 1, LARGEST_COUNT])
def test_a_whole_number_is_a_count(value: int) -> None:
    assert count(value) == value


@pytest.mark.parametrize("value", [-1, LARGEST_COUNT + 1, 10**30, 1.0, True, "1", None, [1]])
def test_anything_else_is_none(value: object) -> None:
    assert count(value) is None


def test_a_usage_beyond_all_columns_was_not_reported() -> None:
    huge = LARGEST_COUNT + 1
    assert openai_usage({"usage": {"prompt_tokens": huge, "completion_tokens": 1}}) is None
    assert anthropic_usage({"usage": {"input_tokens": 1, "output_tokens": huge}}) is None
