"""No function of the gateway reads or writes customers' rows without saying whose.

Found by reading the source: which functions that are given a session or an engine speak of a
table with customers' rows, in SQL or by its class, themselves or through another function of
their module. They take the account, or are listed here with the reason why not.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from models.schema import TABLES

ROOT = Path(__file__).resolve().parents[2]
OWNED_BY_ANOTHER_ROW = {
    "delivery_attempts",
    "deliveries",
    "job_bodies",
    "job_results",
    "key_spending",
    "lines",
    "standard_runs",
}
"""Customers' rows that name their owner by the row that they belong to."""
OWNED = OWNED_BY_ANOTHER_ROW | {
    table.__tablename__ for table in TABLES if "account_id" in table.__table__.columns
}
CLASSES = {table.__name__: table.__tablename__ for table in TABLES}
DATABASE_TYPES = {"Session", "Engine", "Connection", "Works"}

FOR_ALL_ACCOUNTS = {
    "gateway/lanes/": "takes what is due, whoever's it is",
    "gateway/reconciliation/": "compares all that was used with what providers say",
    "gateway/analytics/gauges.py": "counts for the operator",
    "gateway/analytics/low_balance.py:tell": "looks at every threshold",
    "gateway/analytics/partitions.py": "makes and drops whole days",
    "gateway/billing/audit.py": "verifies all the books",
    "gateway/billing/export.py": "writes out all the books, for the operator",
    "gateway/calls/retention.py": "takes what is old, whoever's it is",
    "gateway/webhooks/claims.py": "takes the deliveries that are due",
    "gateway/webhooks/health.py": "is told of an endpoint by its deliveries",
    "gateway/webhooks/parcels.py": "reads the deliveries that were claimed",
    "gateway/webhooks/retention.py": "takes what is old, whoever's it is",
    "gateway/access/credentials.py:destroy_unused": "takes what is old, whoever's it is",
}
"""What serves all accounts at once: a folder, a module or a function, and why that is right."""
OWNER_IS_GIVEN = {
    "gateway/access/accounts.py:create": "makes the account",
    "gateway/access/credentials.py:current_of": "the accounts are the argument",
    "gateway/access/credentials.py:find": "a lane names account and version in its reference",
    "gateway/access/keys.py:identify": "finds out whose the key is",
    "gateway/access/keys_admin.py:note_uses": "of keys that were just identified",
    "gateway/access/keys_admin.py:owner_of": "finds out whose the key is, for the operator",
    "gateway/access/widget_keys.py:by_digest": "finds out whose the key is",
    "gateway/access/widget_keys.py:owner": "finds out whose the key is, for the operator",
    "gateway/billing/balances.py:lock": "the accounts are the argument",
    "gateway/billing/daily_usage.py:add": "each use names its account",
    "gateway/billing/daily_usage.py:priced": "the settlement names its account",
    "gateway/billing/ledger.py:book_unbilled_cost": "the house's own money",
    "gateway/billing/ledger.py:resolve": "each hold names its account",
    "gateway/billing/ledger.py:settle": "each hold names its account",
    "gateway/billing/ledger.py:void": "each hold names its account",
    "gateway/billing/raising.py:raise_holds": "each hold names its account",
    "gateway/billing/settlements.py:write": "each charge names its account",
    "gateway/billing/spending.py:add": "a key has one account",
    "gateway/billing/suspense.py:charge": "each settlement names its account",
    "gateway/billing/suspense.py:give_back": "each settlement names its account",
    "gateway/calls/conversion.py:become_job": "the submission names its account",
    "gateway/calls/idempotency.py:answer": "the keyed call names its account",
    "gateway/calls/idempotency.py:claim": "each keyed call names its account",
    "gateway/calls/idempotency.py:forget": "each keyed call names its account",
    "gateway/calls/intake.py:Intake.accept": "each submission names its account",
    "gateway/calls/intake.py:Intake.write": "each submission names its account",
    "gateway/calls/request_log.py:write": "each record names its account",
    "gateway/webhooks/endpoints.py:unknown": "asks of pairs of account and endpoint",
    "gateway/webhooks/events.py:record": "each event names its account",
}
"""Functions that are given rows, or keys, which have an account of their own."""
OPERATORS = re.compile(r"(.*_)?commands\.py|metrics\.py")
"""The files of the web door that serve the operator, not a customer."""
DOOR_MAY_CALL = {
    "gateway/access/credentials.py:current_of",
    "gateway/access/keys.py:identify",
    "gateway/access/keys_admin.py:note_uses",
    "gateway/access/widget_keys.py:by_digest",
    "gateway/billing/ledger.py:settle",
    "gateway/billing/ledger.py:void",
    "gateway/calls/conversion.py:become_job",
    "gateway/calls/idempotency.py:answer",
    "gateway/calls/idempotency.py:claim",
    "gateway/calls/idempotency.py:forget",
    "gateway/calls/request_log.py:write",
    "gateway/lanes/runs.py:adopt",
    "gateway/lanes/runs.py:adopted",
    "gateway/lanes/runs.py:renew",
    "gateway/lanes/runs.py:standing",
    "gateway/lanes/runs.py:put_off",
}
"""What the web door calls without an account: it finds the account out, writes down together what
many callers have done, or goes on with a call of the caller's own that it has just begun."""


@dataclass(frozen=True)
class Query:
    """A public function or method that is given a database and speaks of customers' tables."""

    path: str
    name: str
    tables: frozenset[str]
    arguments: frozenset[str]
    names_account: bool

    @property
    def place(self) -> str:
        return f"{self.path}:{self.name}"


class Module:
    """What one file's functions say, with what they refer to in it."""

    def __init__(self, path: str, source: str) -> None:
        self.path = path
        tree = ast.parse(source)
        self.functions: dict[str, ast.FunctionDef] = {}
        self.values: dict[str, ast.AST] = {}
        for node in tree.body:
            if isinstance(node, ast.FunctionDef):
                self.functions[node.name] = node
            elif isinstance(node, ast.ClassDef):
                for each in node.body:
                    if isinstance(each, ast.FunctionDef):
                        self.functions[f"{node.name}.{each.name}"] = each
            elif isinstance(node, ast.Assign):
                for target in node.targets:
                    if isinstance(target, ast.Name):
                        self.values[target.id] = node.value

    def queries(self) -> Iterator[Query]:
        for name, function in self.functions.items():
            is_public = not any(part.startswith("_") for part in name.split("."))
            if is_public and takes_database(function):
                words = " ".join(self._words(function, set()))
                tables = {each for each in OWNED if re.search(rf"\b{each}\b", words)}
                if tables:
                    arguments = frozenset(each.arg for each in required(function))
                    names_account = "account_id" in words
                    yield Query(self.path, name, frozenset(tables), arguments, names_account)

    def _words(self, node: ast.AST, seen: set[str]) -> Iterator[str]:
        """All SQL and all tables' classes that a node mentions, or what it refers to does."""
        inside = list(ast.walk(node))
        texts = docstrings(node)
        for each in inside:
            if isinstance(each, ast.Constant) and isinstance(each.value, str):
                if each not in texts:
                    yield from statements(each.value)
            elif (isinstance(each, ast.Attribute) and each.attr == "account_id") or (
                isinstance(each, ast.keyword) and each.arg == "account_id"
            ):
                yield "account_id"
            elif isinstance(each, ast.Name):
                yield from self._refers(each.id, seen)
            if isinstance(each, ast.Attribute) and isinstance(each.value, ast.Name):
                yield from self._refers(each.attr, seen)

    def _refers(self, name: str, seen: set[str]) -> Iterator[str]:
        if name in CLASSES:
            yield CLASSES[name]
        if name in seen:
            return
        seen.add(name)
        for known in (self.values, self.functions):
            if name in known:
                yield from self._words(known[name], seen)
        for method in self.functions:
            if method.endswith(f".{name}") and method not in seen:
                seen.add(method)
                yield from self._words(self.functions[method], seen)


def statements(text: str) -> Iterator[str]:
    """A text, if it is SQL or a piece of it rather than words that somebody reads."""
    if "account_id" in text or re.search(r"\b(FROM|JOIN|INTO|UPDATE|WHERE|SELECT)\b", text):
        yield text


def docstrings(node: ast.AST) -> set[ast.AST]:
    """The constants that are documentation."""
    return {each.value for each in ast.walk(node) if isinstance(each, ast.Expr)}


def required(function: ast.FunctionDef) -> list[ast.arg]:
    """The arguments that a caller has to give."""
    spec = function.args
    positional = [*spec.posonlyargs, *spec.args]
    if spec.defaults:
        positional = positional[: -len(spec.defaults)]
    named = [
        each
        for each, default in zip(spec.kwonlyargs, spec.kw_defaults, strict=True)
        if default is None
    ]
    return [*positional, *named]


def takes_database(function: ast.FunctionDef) -> bool:
    """Whether it is given a session, an engine, or what holds one."""
    spec = function.args
    return any(
        isinstance(each.annotation, ast.Name) and each.annotation.id in DATABASE_TYPES
        for each in [*spec.posonlyargs, *spec.args, *spec.kwonlyargs]
    )


@cache
def queries() -> list[Query]:
    return [
        query
        for path in sorted((ROOT / "gateway").rglob("*.py"))
        for query in Module(str(path.relative_to(ROOT)), path.read_text()).queries()
    ]


def is_for_all(query: Query) -> bool:
    return any(query.place.startswith(place) for place in FOR_ALL_ACCOUNTS)


def test_every_query_takes_the_account_or_says_why_not() -> None:
    found = queries()
    nameless = {
        query.place
        for query in found
        if "account_id" not in query.arguments and not is_for_all(query)
    }
    assert nameless == OWNER_IS_GIVEN.keys()
    assert len(found) > len(nameless) + 30
    places = [query.place for query in found]
    for place in FOR_ALL_ACCOUNTS:
        assert any(each.startswith(place) for each in places), place


def test_what_is_given_an_account_asks_for_its_rows_only() -> None:
    for query in queries():
        if "account_id" in query.arguments:
            assert query.names_account, query.place


def test_the_web_door_calls_nothing_that_does_not_take_its_callers_account() -> None:
    nameless = {query.place for query in queries() if "account_id" not in query.arguments}
    called = {
        place
        for path in sorted((ROOT / "web").glob("*.py"))
        if not OPERATORS.fullmatch(path.name)
        for place in gateway_functions(ast.parse(path.read_text()))
        if place in nameless
    }
    assert called == DOOR_MAY_CALL


def gateway_functions(tree: ast.Module) -> Iterator[str]:
    """The places of all functions of the gateway that a module mentions."""
    modules: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("gateway"):
            path = (node.module or "").replace(".", "/")
            for alias in node.names:
                yield f"{path}.py:{alias.name}"
                modules[alias.asname or alias.name] = f"{path}/{alias.name}.py"
        elif (
            isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id in modules
        ):
            yield f"{modules[node.value.id]}:{node.attr}"


FORGETFUL = """
_ALL = text("SELECT id FROM jobs WHERE status = :status")
def by_status(session: Session, status: str) -> list[UUID]:
    return _read(session, status)
def _read(session, status):
    return session.scalars(_ALL, {"status": status})
def mine(session: Session, account_id: UUID, status: str) -> list[UUID]:
    return _read(session, status)
def of_class(session: Session) -> list[Hold]:
    return session.scalars(select(Hold))
def careful(session: Session, account_id: UUID) -> list[Hold]:
    return session.scalars(select(Hold).where(Hold.account_id == account_id))
def elsewhere(session: Session) -> None:
    "Reads what is FROM jobs in name only."
    session.execute(text("SELECT 1 FROM lanes"))
"""


def test_one_that_forgets_the_account_is_found() -> None:
    found = {query.name: query for query in Module("x.py", FORGETFUL).queries()}
    assert found.keys() == {"by_status", "mine", "of_class", "careful"}
    assert {name for name, query in found.items() if "account_id" in query.arguments} == {
        "mine",
        "careful",
    }
    assert [name for name, query in found.items() if query.names_account] == ["careful"]
