"""Pictures, files, thinking and efforts on their way to Anthropic, without a network."""

from typing import Any

import pytest

from gateway.providers.anthropic_media import Untranslatable
from gateway.providers.anthropic_messages import to_messages
from tests.unit.translating import CALL, OUTPUT_LIMIT, USER, Json, calling, parts, said, translate


def picture(url: Any) -> Json:
    return {"type": "image_url", "image_url": {"url": url}}


def pdf(**file: Any) -> Json:
    return {"type": "file", "file": file}


CONTENT = "messages[0].content[1]"
IMAGE = picture("data:image/png;base64,AA==")
DOCUMENT = pdf(file_data="data:application/pdf;base64,JVBERg==", filename="terms.pdf")
THOUGHT: Json = {"type": "thinking", "thinking": "hm", "signature": "s"}


def test_a_picture_in_a_data_uri_becomes_a_base64_source() -> None:
    (turn,) = translate(parts(IMAGE, picture("data:image/JPG;name=a.jpg;base64,AA==")))["messages"]
    assert turn["content"] == [
        said("look"),
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AA=="}},
        {"type": "image", "source": {"type": "base64", "media_type": "image/jpeg", "data": "AA=="}},
    ]


def test_a_picture_on_the_web_becomes_a_url_source_and_its_detail_goes() -> None:
    part = {
        "type": "image_url",
        "image_url": {"url": "https://example.com/a.png", "detail": "high"},
        "cache_control": {"type": "ephemeral"},
    }
    (turn,) = translate(parts(part))["messages"]
    assert turn["content"][1] == {
        "type": "image",
        "source": {"type": "url", "url": "https://example.com/a.png"},
        "cache_control": {"type": "ephemeral"},
    }


def test_a_pdf_becomes_a_document_with_its_name() -> None:
    (turn,) = translate(parts(DOCUMENT))["messages"]
    source = {"type": "base64", "media_type": "application/pdf", "data": "JVBERg=="}
    assert turn["content"][1] == {"type": "document", "source": source, "title": "terms.pdf"}


def test_a_tool_may_answer_with_a_picture() -> None:
    answered = {"role": "tool", "tool_call_id": "call_1", "content": [said("see"), IMAGE]}
    turn = translate([*calling(CALL), answered])["messages"][2]
    assert [block["type"] for block in turn["content"][0]["content"]] == ["text", "image"]


def test_signed_thinking_opens_the_turn_it_belonged_to() -> None:
    hidden = {"type": "redacted_thinking", "data": "x"}
    message = {
        "role": "assistant",
        "content": "Let me see.",
        "reasoning_content": "hm",
        "thinking_blocks": [THOUGHT, hidden],
        "tool_calls": [CALL],
    }
    content = translate([USER, message])["messages"][1]["content"]
    assert content[:3] == [THOUGHT, hidden, said("Let me see.")]
    assert content[3]["type"] == "tool_use"


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"reasoning_effort": None}, {}),
        ({"reasoning_effort": "none"}, {"thinking": {"type": "disabled"}}),
        ({"reasoning_effort": "minimal"}, {"output_config": {"effort": "low"}}),
        ({"reasoning_effort": "xhigh"}, {"output_config": {"effort": "xhigh"}}),
        ({"thinking": {"type": "adaptive"}}, {"thinking": {"type": "adaptive"}}),
        (
            {"thinking": {"type": "adaptive"}, "reasoning_effort": "none"},
            {"thinking": {"type": "adaptive"}},
        ),
    ],
)
def test_an_effort_and_thinking_are_translated(fields: Json, expected: Json) -> None:
    assert translate(**fields) == {**translate(), **expected}


def test_an_effort_and_a_schema_share_the_output_config() -> None:
    schema = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}
    translated = translate(reasoning_effort="high", response_format=schema)
    assert translated["output_config"] == {
        "effort": "high",
        "format": {"type": "json_schema", "schema": {"type": "object"}},
    }


def test_who_sets_no_limit_gets_the_models_own_thinking_included() -> None:
    thinking = {"type": "enabled", "budget_tokens": 2_000}
    assert translate(thinking=thinking)["max_tokens"] == OUTPUT_LIMIT
    assert translate(thinking=thinking, max_tokens=3_000)["max_tokens"] == 3_000


def test_a_budget_for_thinking_is_added_to_a_limit_that_nobody_knows() -> None:
    body = {"messages": [USER], "thinking": {"type": "enabled", "budget_tokens": 2_000}}
    assert to_messages("claude-next", body, None)["max_tokens"] == 4_096 + 2_000


@pytest.mark.parametrize(
    ("messages", "field"),
    [
        (parts({"type": "image_url"}), f"{CONTENT}.image_url.url"),
        (parts(picture("http://example.com/a")), f"{CONTENT}.image_url.url"),
        (parts(picture("data:image/png,AA")), f"{CONTENT}.image_url.url"),
        (parts(picture("data:image/png;base64,")), f"{CONTENT}.image_url.url"),
        (parts(picture("data:image/bmp;base64,AA==")), f"{CONTENT}.image_url.url"),
        (parts(pdf(file_id="file-1")), f"{CONTENT}.file.file_id"),
        (parts({"type": "file"}), f"{CONTENT}.file.file_data"),
        (
            parts(pdf(file_data="data:text/csv;base64,AA==")),
            f"{CONTENT}.file.file_data",
        ),
        (parts({**IMAGE, "cache_control": True}), f"{CONTENT}.cache_control"),
        (
            [{"role": "system", "content": [IMAGE]}],
            "messages[0].content[0].image_url",
        ),
        (
            [{"role": "assistant", "thinking_blocks": [said("x")]}],
            "messages[0].thinking_blocks",
        ),
    ],
)
def test_a_part_that_anthropic_cannot_take_is_named(messages: list[Json], field: str) -> None:
    with pytest.raises(Untranslatable) as caught:
        translate(messages)
    assert caught.value.field == caught.value.param == field
