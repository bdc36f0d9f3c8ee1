from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.calls.jobs import JobView
from gateway.catalogue.catalogue import Model, Offer
from gateway.catalogue.rates import PriceSnapshot, Rates
from models.states import HoldState, JobStatus
from web.serialisers import accepted_json, job_json, list_json, model_json, unix, usd

JOB_ID = UUID("01900000-0000-7000-8000-00000000000a")
BATCH_ID = UUID("01900000-0000-7000-8000-00000000000b")
HEX = JOB_ID.hex
QUEUED = JobView(
    id=JOB_ID,
    status=JobStatus.QUEUED,
    endpoint="/v1/chat/completions",
    model="openai/gpt-4o-mini",
    custom_id=None,
    metadata={},
    created_at=datetime(2026, 1, 1, tzinfo=UTC),
    submitted_at=None,
    completed_at=None,
    deadline_at=datetime(2026, 1, 4, tzinfo=UTC),
    batch_id=None,
    provider="openai",
    lane="batch",
    attempts=1,
    standard_at=None,
    standard_reason=None,
    hold_status=HoldState.OPEN,
    estimated_nanos=2_100_000,
    unpriced=False,
    charged_nanos=None,
    list_nanos=None,
    texts_deleted=False,
    http_status=None,
    result=None,
)
COMPLETED = replace(
    QUEUED,
    status=JobStatus.COMPLETED,
    batch_id=BATCH_ID,
    submitted_at=datetime(2026, 1, 1, 0, 5, tzinfo=UTC),
    completed_at=datetime(2026, 1, 1, 1, tzinfo=UTC),
    custom_id="row-1",
    metadata={"team": "blue"},
    attempts=2,
    hold_status=HoldState.POSTED,
    charged_nanos=1_050_000,
    list_nanos=2_100_000,
    http_status=200,
    result=b'{"id":"chatcmpl-1","choices":[]}',
)
FAILED = replace(
    QUEUED,
    status=JobStatus.FAILED,
    completed_at=datetime(2026, 1, 1, 1, tzinfo=UTC),
    hold_status=HoldState.VOIDED,
    http_status=400,
    result=b'{"type":"bad_request","message":"no","code":400}',
)


def shown(value: object) -> Any:
    return orjson.loads(orjson.dumps(value))


def test_a_queued_job_is_shown_to_the_letter() -> None:
    assert shown(job_json(QUEUED)) == {
        "id": f"job_{HEX}",
        "object": "job",
        "status": "queued",
        "lane": "batch",
        "endpoint": "/v1/chat/completions",
        "model": "openai/gpt-4o-mini",
        "completion_id": f"chatcmpl-{HEX}",
        "custom_id": None,
        "metadata": {},
        "created_at": 1767225600,
        "submitted_at": None,
        "completed_at": None,
        "deadline_at": 1767484800,
        "batch": None,
        "cost": {
            "state": "held",
            "estimated_usd": "0.0021",
            "billed_usd": None,
            "list_usd": None,
            "savings_usd": None,
        },
        "escalated": False,
        "escalation": None,
        "attempts": 1,
        "result": None,
        "error": None,
    }


def test_a_completed_job_shows_its_batch_its_money_and_its_result() -> None:
    job = shown(job_json(COMPLETED))
    assert job["batch"] == {"id": f"pbatch_{BATCH_ID.hex}", "provider": "openai"}
    assert job["cost"] == {
        "state": "settled",
        "estimated_usd": "0.0021",
        "billed_usd": "0.00105",
        "list_usd": "0.0021",
        "savings_usd": "0.00105",
    }
    assert (job["submitted_at"], job["completed_at"]) == (1767225900, 1767229200)
    assert (job["custom_id"], job["metadata"], job["attempts"]) == ("row-1", {"team": "blue"}, 2)
    assert job["result"] == {"id": "chatcmpl-1", "choices": []}
    assert job["error"] is None


def test_a_failed_job_shows_its_error_and_what_it_no_longer_holds() -> None:
    job = shown(job_json(FAILED))
    assert job["result"] is None
    assert job["error"] == {"type": "bad_request", "message": "no", "code": 400}
    assert job["cost"]["state"] == "released"
    assert job["cost"]["billed_usd"] is None


def test_a_job_whose_usage_nobody_reported_is_unpriced() -> None:
    job = replace(COMPLETED, unpriced=True, charged_nanos=None, list_nanos=None)
    assert shown(job_json(job))["cost"] == {
        "state": "unpriced",
        "estimated_usd": "0.0021",
        "billed_usd": None,
        "list_usd": None,
        "savings_usd": None,
    }


def test_an_accepted_chat_has_one_choice_whose_content_is_null() -> None:
    assert shown(accepted_json(QUEUED)) == {
        "id": f"chatcmpl-{HEX}",
        "object": "chat.completion",
        "created": 1767225600,
        "model": "openai/gpt-4o-mini",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": None},
                "finish_reason": None,
            }
        ],
        "usage": None,
        "status": "queued",
        "job": shown(job_json(QUEUED)),
    }


def test_accepted_embeddings_are_the_job_with_one_empty_vector() -> None:
    job = replace(QUEUED, endpoint="/v1/embeddings")
    assert shown(accepted_json(job)) == {
        **shown(job_json(job)),
        "data": [{"object": "embedding", "index": 0, "embedding": []}],
        "usage": None,
    }


def test_a_page_names_its_ends() -> None:
    page = list_json([{"id": "a"}, {"id": "b"}], has_more=True)
    assert page == {
        "object": "list",
        "data": [{"id": "a"}, {"id": "b"}],
        "first_id": "a",
        "last_id": "b",
        "has_more": True,
    }
    empty = list_json([], has_more=False)
    assert (empty["first_id"], empty["last_id"]) == (None, None)


@pytest.mark.parametrize(
    ("nanos", "text"),
    [
        (0, "0"),
        (1, "0.000000001"),
        (2_100_000, "0.0021"),
        (10**9, "1"),
        (25 * 10**9, "25"),
        (1_500_000_000, "1.5"),
        (-2_100_000, "-0.0021"),
        (None, None),
    ],
)
def test_money_is_the_shortest_decimal_string(nanos: int | None, text: str | None) -> None:
    assert usd(nanos) == text


def test_times_are_whole_unix_seconds() -> None:
    assert unix(datetime(2026, 1, 1, 0, 0, 0, 999_999, tzinfo=UTC)) == 1767225600
    assert unix(None) is None


def model(input_pico: int, output_pico: int, batch_pico: int | None) -> Model:
    def rates(pico_in: int, pico_out: int) -> Rates:
        return Rates(
            input=pico_in,
            cache_read=pico_in,
            cache_write_short=pico_in,
            cache_write_long=pico_in,
            output=pico_out,
        )

    batch = None if batch_pico is None else rates(batch_pico, batch_pico)
    prices = PriceSnapshot(rates(input_pico, output_pico), batch, "test")
    return Model(
        id="maker/m",
        maker="maker",
        name="M",
        kind="chat",
        created=5,
        context_length=128_000,
        max_output_tokens=None,
        features=("streaming", "batch"),
        offers=(Offer("openai", "m", prices),),
    )


def test_a_model_has_openais_fields_and_prices_a_thousand_tokens() -> None:
    assert model_json(model(2_500_000, 10_000_000, 1_250_000), 0) == {
        "id": "maker/m",
        "object": "model",
        "created": 5,
        "owned_by": "maker",
        "name": "M",
        "pricing": {
            "prompt": "0.0025",
            "completion": "0.01",
            "batch_prompt": "0.00125",
            "batch_completion": "0.00125",
            "unit": "usd_per_1k_tokens",
        },
        "context_length": 128_000,
        "max_output_tokens": None,
        "supported_features": ["streaming", "batch"],
    }


def test_a_model_without_a_batch_price_says_so() -> None:
    pricing = model_json(model(1, 0, None), 0)["pricing"]
    assert (pricing["batch_prompt"], pricing["batch_completion"]) == (None, None)
    assert (pricing["prompt"], pricing["completion"]) == ("0.000000001", "0")


def test_listed_prices_are_what_is_charged_markup_included() -> None:
    pricing = model_json(model(2_500_000, 10_000_000, 1_250_000), 1_250)["pricing"]
    assert (pricing["prompt"], pricing["batch_prompt"]) == ("0.0028125", "0.00140625")


@given(st.integers(0, 10**12), st.integers(0, 10**6))
def test_a_price_is_exact_whatever_the_rate_and_the_markup(pico: int, markup_bps: int) -> None:
    price = model_json(model(pico, pico, None), markup_bps)["pricing"]["prompt"]
    whole, _, fraction = price.partition(".")
    assert int(whole + fraction.ljust(16, "0")) == pico * 1000 * (10_000 + markup_bps)
    assert not fraction.endswith("0")
