"""`ledger export`: an outsider computes every charge and balance again, from the export alone."""

import csv
import io
import json
import tracemalloc
from collections import defaultdict
from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import Any

import pytest

from gateway.billing import export, suspense
from gateway.billing.export import Table
from gateway.billing.pricing import amounts
from gateway.catalogue.usage import Usage
from models.session import transaction
from tests.integration.fake_batches import USAGE, using
from tests.integration.lane_world import (
    HOLD_NANOS,
    MARKUP_BPS,
    PRICES,
    World,
    charge_of,
    opened,
)
from tests.integration.ledger_world import Ledger
from tests.integration.web_world import Web

Row = dict[str, Any]
Books = dict[str, list[Row]]
CACHED = Usage(13, 7, 5, 3, 50, 20)
CUSTOMER = "customer"
FEE_BPS = -9_000
"""A tenth of the price: the fee of a call on the customer's own key."""


@pytest.fixture
def world(database_url: str) -> Iterator[World]:
    """Charged, cached, overrun, suspended, given back, found out, cancelled, late and waiting."""
    with opened(database_url) as world:
        world.accept(3)
        world.settle_down()
        world.accept(1)
        world.settle_down(using(CACHED))
        world.accept(3)
        world.settle_down(using(None))
        poor = world.account(HOLD_NANOS)
        world.accept(1, account=poor)
        world.settle_down(using(Usage(input_uncached=100, output=500)))
        first, second, _ = [
            row.id for row in world.rows("SELECT id FROM settlements WHERE unpriced")
        ]
        come_to = amounts(USAGE, PRICES, "batch", MARKUP_BPS)
        with transaction(world.engine) as session:
            suspense.give_back(session, [first])
            suspense.charge(session, suspense.Finding(second, USAGE, come_to))
        books = Ledger(world.engine)
        own_key = books.held(poor, 0)
        fee = amounts(USAGE, PRICES, "batch", FEE_BPS)
        books.settle(charge_of(own_key)._replace(markup_bps=FEE_BPS, amounts=fee))
        (cancelled, _) = world.accept(2)
        world.cancel(cancelled)
        world.check_books()
        yield world


def read(world: World) -> Books:
    books: Books = defaultdict(list)
    for line in export.json_lines(world.engine):
        row = json.loads(line)
        books[row.pop("table")].append(row)
    return books


def outsiders_violations(books: Books) -> Iterator[str]:
    """What does not follow, by arithmetic of its own: nothing here is the service's."""
    prices = {row["id"]: row["snapshot"] for row in books["prices"]}
    holds = {row["id"]: row for row in books["holds"]}
    moved: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for row in books["transfers"]:
        moved[row["hold_id"]][row["kind"]] += row["amount_nanos"]
    for row in books["settlements"]:
        yield from _wrong_settlement(row, prices, moved[row["id"]], holds[row["id"]])
    yield from _wrong_balances(books)


def _wrong_settlement(
    row: Row, prices: Mapping[str, Row], moved: Mapping[str, int], hold: Row
) -> Iterator[str]:
    name = row["id"]
    if row["unpriced"]:
        if moved["suspense"] != hold["amount_nanos"] or moved["charge"]:
            yield f"{name} is not in suspense"
        return
    snapshot = prices[row["price_id"]]
    markup = 1 + Fraction(row["markup_bps"], 10_000)
    cost = _price(row, snapshot[row["lane"]])
    # On a customer's own key the provider bills its owner, and only a fee is charged.
    ours = cost if row["markup_bps"] >= 0 else Fraction(0)
    wanted = (ours, cost * markup, _price(row, snapshot["standard"]) * markup)
    found = (row["cost_nanos"], row["charged_nanos"], row["list_nanos"])
    if found != tuple(map(_half_up, wanted)):
        yield f"{name} came to {found}"
    paid = moved["charge"] + moved["suspense_charge"] + moved["overrun_loss"]
    if paid != row["charged_nanos"]:
        yield f"{name} moved {paid}"
    if moved["suspense"] != moved["suspense_charge"] + moved["suspense_return"]:
        yield f"{name} left something in suspense"


def _price(row: Row, rates: Row) -> Fraction:
    """Nano-USD, exact; the rates of a tier hold for a whole call with more input than it says."""
    given = sum(
        row[name]
        for name in ("input_uncached", "cache_read", "cache_write_short", "cache_write_long")
    )
    for tier in rates["tiers"]:
        if given > tier["above_input_tokens"]:
            rates = {**rates, **tier}
    pico = (
        row["input_uncached"] * rates["input"]
        + sum(
            row[name] * rates[name]
            for name in ("cache_read", "cache_write_short", "cache_write_long")
        )
        + row["output"] * rates["output"]
    )
    return Fraction(pico, 1000)


def _half_up(exact: Fraction) -> int:
    return int(exact + Fraction(1, 2))


def _wrong_balances(books: Books) -> Iterator[str]:
    sums: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
    for row in books["transfers"]:
        for place, side in enumerate(("credit", "debit")):
            if row[side] == CUSTOMER:
                sums[row["account_id"]][place] += row["amount_nanos"]
    for row in books["holds"]:
        if row["status"] == "open":
            sums[row["account_id"]][2] += row["amount_nanos"]
    for row in books["balances"]:
        found = [row["credits_nanos"], row["debits_nanos"], row["held_nanos"]]
        if found != sums[row["account_id"]]:
            yield f"account {row['account_id']} has {found}"


def test_every_charge_and_balance_follows_from_the_export_alone(world: World) -> None:
    books = read(world)
    assert {table: len(rows) for table, rows in books.items()} == {
        table.value: len(world.rows(f"SELECT 1 FROM {table.value}")) for table in Table
    }
    assert list(outsiders_violations(books)) == []
    kinds = {row["kind"] for row in books["transfers"]}
    assert {"charge", "overrun_loss", "suspense", "suspense_return", "suspense_charge"} <= kinds
    assert sum(row["unpriced"] for row in books["settlements"]) == 2


SPOILT = {
    "settlements": ("input_uncached", "output", "charged_nanos", "cost_nanos", "list_nanos"),
    "transfers": ("amount_nanos",),
    "balances": ("credits_nanos", "debits_nanos", "held_nanos"),
}


def test_an_outsider_sees_whatever_is_wrong(world: World) -> None:
    books = read(world)
    for table, names in SPOILT.items():
        for row in books[table]:
            # What the house owes its provider, and calls without usage, have no such sums.
            if row.get("unpriced") or row.get("kind") == "provider_cost":
                continue
            for name in names:
                row[name] += 100  # More than what a fee is rounded by.
                assert list(outsiders_violations(books)), (table, name, row)
                row[name] -= 100
    assert list(outsiders_violations(books)) == []


def test_the_tables_are_the_same_as_csv(world: World) -> None:
    books = read(world)
    for table in Table:
        lines = b"".join(export.csv_lines(world.engine, table)).decode()
        rows = list(csv.DictReader(io.StringIO(lines, newline="")))
        assert [_as_csv(row) for row in books[table.value]] == rows


def _as_csv(row: Row) -> dict[str, str]:
    return {
        name: ""
        if value is None
        else json.dumps(value, separators=(",", ":")).lower()
        if isinstance(value, bool)
        else json.dumps(value, separators=(",", ":"))
        if isinstance(value, dict)
        else str(value)
        for name, value in row.items()
    }


def test_memory_does_not_grow_with_the_books(world: World) -> None:
    world.run(
        "INSERT INTO transfers (id, kind, debit, credit, account_id, amount_nanos, note) "
        "SELECT uuidv7(), 'deposit', 'cash_in', 'customer', account_id, 1, repeat('n', 500) "
        "FROM (SELECT account_id FROM balances LIMIT 1) AS one, generate_series(1, 10000)"
    )
    tracemalloc.start()
    try:
        size = sum(len(line) for line in export.json_lines(world.engine))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert size > 7_500_000
    assert peak < 4_000_000


def test_the_command_writes_lines_to_stdout(web: Web) -> None:
    web.customer(credit_usd=1)
    runner = web.app.test_cli_runner()
    lines = runner.invoke(args=["ledger", "export"]).stdout.splitlines()
    assert [json.loads(line)["table"] for line in lines] == ["transfers", "balances"]
    shown = runner.invoke(args=["ledger", "export", "--csv", "balances"]).stdout.splitlines()
    assert shown[0] == "account_id,credits_nanos,debits_nanos,held_nanos"
    assert shown[1].endswith(",1000000000,0,0")
