"""`python -m benchmarks.ledger_storm [--operations N] [--processes N] [--transfers N] [--seed N]`.

Several processes hold, raise, charge, release, suspend, give back and deposit on the same few
accounts, one of them far more wanted than the others, and each resolves what the others hold. What
every process was told is then compared with what the books say, and `ledger verify` reads them.
Afterwards the books are filled up to a million transfers, and `ledger verify` is timed on them.
"""

import argparse
import multiprocessing
import random
import resource
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import UUID

from sqlalchemy import Engine, text

from gateway.billing import audit, ledger, raising, suspense
from gateway.billing.ledger import Charge, HoldRequest
from gateway.billing.pricing import PriceBook, amounts
from gateway.catalogue.rates import PriceSnapshot, Rates
from gateway.catalogue.usage import Usage
from local.postgres import temporary_postgres
from models import ids
from models.accounts import Account
from models.ledger import Balance
from models.migrate import migrate, sqlalchemy_url
from models.session import connect, transaction

ACCOUNTS = 40
HOT_SHARE = 0.3
"""How much of everything the first account wants."""
SET_LARGEST = 200
CREDIT_NANOS = 100_000
DEPOSIT_NANOS = 1_000_000
MARKUP_BPS = 1_000
STANDARD = Rates(
    input=2_000, cache_read=1_000, cache_write_short=2_500, cache_write_long=4_000, output=8_000
)
PRICES = PriceSnapshot(STANDARD, STANDARD.scaled(Decimal("0.5")), "storm")
HOLD_NANOS = 2_000
ACTIONS = ("hold", "raise", "resolve", "deposit", "return")
WEIGHTS = (45, 5, 40, 5, 5)

_BOOKS = text(
    """
    SELECT (SELECT count(*) FROM holds) AS held,
           (SELECT count(*) FROM holds WHERE status <> 'open') AS resolved,
           (SELECT count(*) FROM transfers WHERE kind = 'suspense_return') AS returned,
           (SELECT sum(amount_nanos) FROM transfers WHERE kind = 'deposit') AS deposited_nanos
    """
)
# More calls of the first account, as the storm leaves them: held, charged and settled.
_FILL = """
    WITH fill AS (
        SELECT uuidv7() AS id, (SELECT account_id FROM balances ORDER BY 1 LIMIT 1) AS account,
               10 * (number % 97 + 1) AS tokens
        FROM generate_series(1, :rows) AS number
    ), held AS (
        INSERT INTO holds (id, account_id, key_id, amount_nanos, status, resolved_at)
        SELECT id, account, account, 2000, 'posted', now() FROM fill
    ), moved AS (
        INSERT INTO transfers (id, kind, debit, credit, account_id, hold_id, amount_nanos)
        SELECT uuidv7(), 'charge', 'customer', 'revenue', account, id, tokens / 10 * 11 FROM fill
    ), owed AS (
        INSERT INTO transfers (id, kind, debit, credit, amount_nanos)
        SELECT uuidv7(), 'provider_cost', 'revenue', 'provider_cost', sum(tokens) FROM fill
    ), balanced AS (
        UPDATE balances
        SET debits_nanos = debits_nanos + total, credits_nanos = credits_nanos + total
        FROM (SELECT account, sum(tokens / 10 * 11) AS total FROM fill GROUP BY account) AS sums
        WHERE account_id = account
    ), given AS (
        INSERT INTO transfers (id, kind, debit, credit, account_id, amount_nanos)
        SELECT uuidv7(), 'deposit', 'cash_in', 'customer', account, sum(tokens / 10 * 11)
        FROM fill GROUP BY account
    ), spent AS (
        INSERT INTO key_spending AS spending (key_id, period, starts_on, amount_nanos)
        SELECT account, period, date_trunc(period, now() AT TIME ZONE 'UTC')::date,
               sum(tokens / 10 * 11)
        FROM fill CROSS JOIN (VALUES ('day'), ('month')) AS periods (period)
        GROUP BY account, period
        ON CONFLICT (key_id, period, starts_on)
        DO UPDATE SET amount_nanos = spending.amount_nanos + excluded.amount_nanos
    ), counted AS (
        INSERT INTO daily_usage (account_id, day, key_id, provider, model, lane, surface, calls,
                                 unpriced_calls, input_uncached, cache_read, cache_write, output,
                                 reasoning, held_nanos, paid_nanos, list_nanos)
        SELECT account, (now() AT TIME ZONE 'UTC')::date, account, 'fill', 'storm', 'batch',
               'async', count(*), 0, sum(tokens), 0, 0, 0, 0, 2000 * count(*),
               sum(tokens / 10 * 11), sum(tokens / 10 * 22)
        FROM fill GROUP BY account
    )
    INSERT INTO settlements (id, account_id, key_id, lane, provider, model, price_id, markup_bps,
                             unpriced, input_uncached, cost_nanos, charged_nanos, list_nanos)
    SELECT id, account, account, 'batch', 'storm', 'storm', :price_id, 1000, false, tokens,
           tokens, tokens / 10 * 11, tokens / 10 * 22 FROM fill
"""


@dataclass(frozen=True, slots=True)
class Orders:
    """What one process is to do, and to which database."""

    url: str
    process: int
    processes: int
    operations: int
    seed: int
    accounts: tuple[UUID, ...]


@dataclass(slots=True)
class Told:
    """What a process was told: operations done, by kind, and what they came to."""

    done: Counter[str] = field(default_factory=Counter)
    resolved: int = 0
    returned: int = 0
    deposited_nanos: int = 0


def hold_id(process: int, number: int) -> UUID:
    """The id of a process's n-th hold, which the other processes can name too."""
    return UUID(int=(process << 64) | number)


class Trader:
    """One process of the storm."""

    def __init__(self, orders: Orders) -> None:
        self._orders = orders
        self._rng = random.Random(orders.seed * 1_000 + orders.process)
        self._engine = connect(sqlalchemy_url(orders.url), pool_size=1, name="storm")
        self._asked = 0
        self._told = Told()

    def run(self) -> Told:
        """Goes on until this process has done its share of operations."""
        acts = {
            "hold": self._hold,
            "raise": self._raise,
            "resolve": self._resolve,
            "deposit": self._deposit,
            "return": self._return,
        }
        while self._told.done.total() < self._orders.operations:
            (action,) = self._rng.choices(ACTIONS, WEIGHTS)
            acts[action]()
        self._engine.dispose()
        return self._told

    def _account(self) -> UUID:
        if self._rng.random() < HOT_SHARE:
            return self._orders.accounts[0]
        return self._rng.choice(self._orders.accounts)

    def _some_holds(self) -> list[UUID]:
        """Recent holds of any process, so that several want to resolve the same ones."""
        newest = max(1, self._asked)
        oldest = max(0, newest - 5 * SET_LARGEST)
        return [
            hold_id(
                self._rng.randrange(self._orders.processes), self._rng.randrange(oldest, newest)
            )
            for _ in range(self._rng.randint(1, 2 * SET_LARGEST))
        ]

    def _hold(self) -> None:
        count = self._rng.randint(1, SET_LARGEST)
        expires_at = datetime.now(UTC) + timedelta(days=1)
        requests = [
            HoldRequest(
                hold_id(self._orders.process, self._asked + number),
                account := self._account(),
                account,
                self._rng.randrange(HOLD_NANOS),
                expires_at,
            )
            for number in range(count)
        ]
        self._asked += count
        with transaction(self._engine) as session:
            refused = ledger.hold(session, requests)
        self._told.done["held"] += count - len(refused)
        self._told.done["refused for want of money"] += len(refused)

    def _raise(self) -> None:
        chosen = self._some_holds()
        with transaction(self._engine) as session:
            raised = raising.raise_holds(session, dict.fromkeys(chosen, 2 * HOLD_NANOS))
        self._told.done["raised"] += len(raised)
        self._told.done["not raised"] += len(set(chosen)) - len(raised)

    def _resolve(self) -> None:
        chosen = self._some_holds()
        middle = self._rng.randint(0, len(chosen))
        charges = [self._charge(each) for each in chosen[:middle]]
        with transaction(self._engine) as session:
            won = ledger.resolve(session, charges, chosen[middle:])
        self._told.resolved += len(won)
        self._told.done["resolved"] += len(won)
        self._told.done["found resolved or unknown"] += len(set(chosen)) - len(won)

    def _charge(self, chosen: UUID) -> Charge:
        """Less than was held or more than that, and one in fifty without usage."""
        usage = Usage(input_uncached=self._rng.randrange(1_500), output=self._rng.randrange(1, 200))
        unpriced = self._rng.random() < 0.02
        return Charge(
            hold_id=chosen,
            lane="batch",
            provider="storm",
            model="storm",
            price_id=PRICES.digest,
            markup_bps=MARKUP_BPS,
            usage=Usage() if unpriced else usage,
            amounts=None if unpriced else amounts(usage, PRICES, "batch", MARKUP_BPS),
        )

    def _deposit(self) -> None:
        amount = self._rng.randrange(1, DEPOSIT_NANOS)
        with transaction(self._engine) as session:
            ledger.deposit(session, self._account(), amount, "storm")
        self._told.deposited_nanos += amount
        self._told.done["deposited"] += 1

    def _return(self) -> None:
        """Gives suspense back, where it is not back already."""
        with transaction(self._engine) as session:
            back = len(suspense.give_back(session, list(set(self._some_holds()))))
        self._told.returned += back
        self._told.done["given back"] += back


def storm(orders: Orders) -> Told:
    """One process's part, for a pool of processes."""
    return Trader(orders).run()


def open_accounts(engine: Engine) -> tuple[tuple[UUID, ...], int]:
    """Fresh accounts with a little credit each, and the sum of it."""
    accounts = tuple(ids.new() for _ in range(ACCOUNTS))
    with transaction(engine) as session:
        PriceBook().store(session, PRICES)
        session.add_all(Account(id=each, name="storm", webhook_secret=b"") for each in accounts)
        session.flush()
        session.add_all(Balance(account_id=each) for each in accounts)
        session.flush()
        for each in accounts:
            ledger.deposit(session, each, CREDIT_NANOS, "opening credit")
    return accounts, ACCOUNTS * CREDIT_NANOS


def compare(engine: Engine, told: list[Told], credit_nanos: int) -> None:
    """What the processes were told against what is written; RuntimeError where they differ."""
    with transaction(engine) as session:
        books = session.execute(_BOOKS).one()._asdict()
    said = {
        "held": sum(each.done["held"] for each in told),
        "resolved": sum(each.resolved for each in told),
        "returned": sum(each.returned for each in told),
        "deposited_nanos": credit_nanos + sum(each.deposited_nanos for each in told),
    }
    if books != said:
        raise RuntimeError(f"the processes were told {said}, and the books say {books}")


def fill(engine: Engine, transfers: int) -> int:
    """Charges more calls until there are that many transfers; how many there are."""
    count = text("SELECT count(*) FROM transfers")
    with transaction(engine) as session:
        missing = transfers - session.execute(count).scalar_one()
        session.execute(text("SET LOCAL statement_timeout = 0"))
        if missing > 0:
            session.execute(text(_FILL), {"rows": missing, "price_id": PRICES.digest})
        total: int = session.execute(count).scalar_one()
    with engine.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT").execute(text("ANALYZE"))
    return total


def verified(url: str) -> tuple[audit.Report, float, float]:
    """The report, the seconds it took and this process's peak memory in MB."""
    engine = connect(sqlalchemy_url(url), pool_size=1, name="verify")
    began = time.perf_counter()
    report = audit.verify(engine)
    seconds = time.perf_counter() - began
    engine.dispose()
    return report, seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def verify_alone(url: str) -> tuple[float, float]:
    """Verifies in a process of its own, whose memory is that of nothing else."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        report, seconds, megabytes = pool.submit(verified, url).result()
    if not report.is_clean:
        raise RuntimeError(f"the books are off: {report}")
    return seconds, megabytes


def main() -> None:
    """Prints the figures; fails if the books are off."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--operations", type=int, default=1_000_000)
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--transfers", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with temporary_postgres() as postgres:
        url = postgres.create_database("storm")
        migrate(url)
        engine = connect(sqlalchemy_url(url), pool_size=1, name="storm")
        accounts, credit_nanos = open_accounts(engine)
        share = -(-options.operations // options.processes)
        orders = [
            Orders(url, number, options.processes, share, options.seed, accounts)
            for number in range(options.processes)
        ]
        began = time.perf_counter()
        with ProcessPoolExecutor(options.processes, multiprocessing.get_context("spawn")) as pool:
            told = list(pool.map(storm, orders))
        seconds = time.perf_counter() - began
        compare(engine, told, credit_nanos)
        done = sum((each.done for each in told), Counter[str]())
        print(f"{done.total():,} operations in {seconds:.0f} s by {options.processes} processes")
        for name, count in done.most_common():
            print(f"  {count:12,} {name}")
        seconds, _ = verify_alone(url)
        print(f"the books agree with what every process was told, and are clean ({seconds:.1f} s)")
        transfers = fill(engine, options.transfers)
        seconds, megabytes = verify_alone(url)
        print(f"ledger verify over {transfers:,} transfers: {seconds:.1f} s, {megabytes:.0f} MB")
        print("  (aims: 60 s and 200 MB)")
        engine.dispose()


if __name__ == "__main__":
    main()
