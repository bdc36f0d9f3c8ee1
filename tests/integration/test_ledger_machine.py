"""The ledger against a model of it, in any order that Hypothesis thinks of."""

from uuid import UUID

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from tests.integration.ledger_world import Ledger, Money, costing, opened

AMOUNTS = st.integers(0, 12).map(lambda number: number * 11)


class LedgerMachine(RuleBasedStateMachine):
    """Two accounts; `open` and `expected` are what the books must come to."""

    accounts = Bundle("accounts")
    holds = Bundle("holds")

    def __init__(self, books: Ledger) -> None:
        super().__init__()
        self.books = books
        self.expected: dict[UUID, Money] = {}
        self.open: dict[UUID, tuple[UUID, int]] = {}
        self.suspended: dict[UUID, tuple[UUID, int]] = {}

    @initialize(target=accounts, credit=st.lists(AMOUNTS, min_size=2, max_size=2))
    def begin(self, credit: list[int]) -> object:
        made = [self.books.account(amount) for amount in credit]
        self.expected = {
            account: Money(amount, 0, 0) for account, amount in zip(made, credit, strict=True)
        }
        return multiple(*made)

    @rule(account=accounts, amount=AMOUNTS.filter(bool))
    def deposit(self, account: UUID, amount: int) -> None:
        self.books.deposit(account, amount)
        self._move(account, credits=amount)

    @rule(target=holds, account=accounts, amount=AMOUNTS)
    def hold(self, account: UUID, amount: int) -> UUID:
        request = self.books.request(account, amount)
        granted = self.books.hold(request)
        if amount <= self.expected[account].available:
            assert granted == {request.id}
            self.open[request.id] = (account, amount)
            self._move(account, held=amount)
        else:
            assert granted == set()
        return request.id

    @rule(chosen=st.lists(holds, max_size=4))
    def void(self, chosen: list[UUID]) -> None:
        still_open = set(chosen) & self.open.keys()
        assert self.books.void(*chosen) == still_open
        for hold_id in still_open:
            self._release(hold_id)

    @rule(chosen=holds, amount=AMOUNTS)
    def raise_hold(self, chosen: UUID, amount: int) -> None:
        raised = self.books.raise_holds({chosen: amount})
        if chosen not in self.open:
            assert raised == set()
            return
        account, held = self.open[chosen]
        more = max(0, amount - held)
        assert raised == ({chosen} if more <= self.expected[account].available else set())
        if raised:
            self.open[chosen] = (account, held + more)
            self._move(account, held=more)

    @rule(charges=st.lists(st.tuples(holds, AMOUNTS | st.none()), max_size=4))
    def settle(self, charges: list[tuple[UUID, int | None]]) -> None:
        first: dict[UUID, int | None] = {}
        for hold_id, amount in charges:
            if hold_id in self.open:
                first.setdefault(hold_id, amount)
        settled = self.books.settle(*[costing(hold_id, amount) for hold_id, amount in charges])
        assert settled == first.keys()
        self._expect(first)

    def _expect(self, first: dict[UUID, int | None]) -> None:
        """Own holds pay first; then overruns, in order, draw what is available."""
        overruns = []
        for hold_id, amount in first.items():
            account, held = self._release(hold_id)
            charged = held if amount is None else amount
            if amount is None:
                self.suspended[hold_id] = (account, held)
            self._move(account, debits=min(charged, held))
            overruns.append((account, max(0, charged - held)))
        for account, overrun in overruns:
            self._move(account, debits=min(overrun, self.expected[account].available))

    @rule(chosen=holds)
    def return_suspense(self, chosen: UUID) -> None:
        if chosen in self.suspended:
            self.books.return_suspense(chosen)
            account, amount = self.suspended.pop(chosen)
            self._move(account, credits=amount)

    @invariant()
    def balances_are_as_expected_and_never_below_zero(self) -> None:
        for account, money in self.expected.items():
            assert self.books.money(account) == money
            assert money.available >= 0

    def teardown(self) -> None:
        self.books.check_books()

    def _release(self, hold_id: UUID) -> tuple[UUID, int]:
        account, amount = self.open.pop(hold_id)
        self._move(account, held=-amount)
        return account, amount

    def _move(self, account: UUID, *, credits: int = 0, debits: int = 0, held: int = 0) -> None:
        money = self.expected[account]
        self.expected[account] = Money(
            money.credits + credits, money.debits + debits, money.held + held
        )


def test_any_sequence_of_movements_leaves_the_books_as_a_model_of_them(database_url: str) -> None:
    with opened(database_url) as books:

        class Machine(LedgerMachine):
            def __init__(self) -> None:
                super().__init__(books)

        run_state_machine_as_test(
            Machine,
            settings=settings(
                max_examples=20,
                stateful_step_count=25,
                derandomize=True,
                deadline=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
