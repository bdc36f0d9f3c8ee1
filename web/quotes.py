"""Answers `dry_run`: what a call would cost and how long it would take, without making it."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import orjson
from flask import Response
from sqlalchemy.orm import Session

from gateway.billing import balance, daily_usage
from gateway.billing.prices import format_usd
from gateway.billing.quotes import Experience, discount_percent, expected_nanos
from gateway.calls.routing import Ineligible, Route
from gateway.lanes import durations
from gateway.lanes.durations import Spread
from web.state import State


@dataclass(frozen=True, slots=True)
class Asked:
    """A call that is only asked about, with its ceilings; `batch_nanos` is None without a price.

    `lane` is the one that it would take, None if it would be refused; `undiscounted_nanos` the
    standard lane's ceiling at the provider that the batch would go to.
    """

    account_id: UUID
    route: Route
    lane: str | None
    why_not_batch: Ineligible | None
    standard_nanos: int
    batch_nanos: int | None
    undiscounted_nanos: int
    deadline_at: datetime


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of the account and the provider."""

    available_nanos: int
    experience: Experience
    spread: Spread


def answer(parts: State, asked: Asked) -> Response:
    """The quote."""
    facts = parts.readers.run(_read, asked)
    shown = quote_json(asked, facts, parts.house.policy.window)
    return Response(orjson.dumps(shown), 200, mimetype="application/json")


def _read(session: Session, asked: Asked) -> Facts:
    account_id, offer = asked.account_id, asked.route.offer
    return Facts(
        balance.available_nanos(session, account_id),
        daily_usage.experience(session, account_id, offer.provider, offer.model),
        durations.spread(session, offer.provider),
    )


def quote_json(asked: Asked, facts: Facts, window: timedelta) -> dict[str, Any]:
    """The quote as its caller gets it."""
    held = {"batch": asked.batch_nanos, "standard": asked.standard_nanos, None: 0}[asked.lane] or 0
    return {
        "object": "quote",
        "model": asked.route.name,
        "lane": asked.lane,
        "lanes": {
            "standard": {
                "open": True,
                "provider": asked.route.offer.provider,
                **_costs(asked.standard_nanos, facts.experience),
            },
            "batch": _batch_lane(asked, facts, window),
        },
        "measured_calls": facts.experience.calls,
        "deadline_at": int(asked.deadline_at.timestamp()),
        "would_be_held_usd": format_usd(held),
        "balance": {
            "available_usd": format_usd(facts.available_nanos),
            "sufficient": facts.available_nanos >= held,
        },
    }


def _batch_lane(asked: Asked, facts: Facts, window: timedelta) -> dict[str, Any]:
    why_not, ceiling = asked.why_not_batch, asked.batch_nanos
    return {
        "open": why_not is None,
        "reason": why_not,
        "provider": asked.route.offer.provider,
        **_costs(ceiling, facts.experience),
        "discount_percent": None
        if ceiling is None
        else discount_percent(asked.undiscounted_nanos, ceiling),
        "expected_completion": {
            "p50_seconds": _seconds(facts.spread.half, window),
            "p90_seconds": _seconds(facts.spread.most, window),
            "measured_batches": facts.spread.batches,
        },
    }


def _costs(ceiling_nanos: int | None, experience: Experience) -> dict[str, str | None]:
    if ceiling_nanos is None:
        return {"ceiling_usd": None, "expected_usd": None}
    return {
        "ceiling_usd": format_usd(ceiling_nanos),
        "expected_usd": format_usd(expected_nanos(ceiling_nanos, experience)),
    }


def _seconds(batch: timedelta | None, window: timedelta) -> int | None:
    """A job may wait a whole window before its batch is cut."""
    return None if batch is None else round((batch + window).total_seconds())
