"""What holds for every route, actor and query, found by walking them."""

import ast
import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import dramatiq
import pytest
from dramatiq.brokers.stub import StubBroker
from flask import Flask
from sqlalchemy.orm import Session

from gateway.calls import jobs
from local.supervisor import read_procfile
from schedulers.timetable import timetable
from settings import Settings
from web import create_app
from web.auth import OPEN_ROUTES
from web.errors import TYPES
from workers.bell import QUEUES, Actor

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = Settings.model_validate(
    {
        "database_url": "postgresql://postgres@127.0.0.1:1/nowhere",
        "redis_url": "redis://127.0.0.1:1/0",
        "secret_key": "s" * 32,
        "encryption_key": "e" * 32,
    }
)
MINUTE_MILLISECONDS = 60_000


@pytest.fixture(scope="module")
def app() -> Flask:
    return create_app(SETTINGS)


def _requests(app: Flask) -> Iterator[tuple[str, str]]:
    """Every method of every route, with something in its arguments' places."""
    for rule in app.url_map.iter_rules():
        path = re.sub(r"<[^>]+>", "x", rule.rule)
        for method in sorted(rule.methods or ()):
            yield method, path


def test_every_route_but_the_open_ones_needs_a_key(app: Flask) -> None:
    client = app.test_client()
    tried = set()
    for method, path in _requests(app):
        if path not in OPEN_ROUTES:
            # The database is away: whatever got past the missing key would answer otherwise.
            assert client.open(path, method=method).status_code == 401, (method, path)
            tried.add(path)
    assert {"/v1/chat/completions", "/v1/embeddings", "/v1/models", "/v1/jobs"} <= tried


def test_every_open_route_exists_and_is_open(app: Flask) -> None:
    client = app.test_client()
    rules = {rule.rule for rule in app.url_map.iter_rules()}
    assert rules >= OPEN_ROUTES
    for path in OPEN_ROUTES:
        assert client.get(path).status_code != 401


def test_no_route_ends_with_a_slash_or_redirects(app: Flask) -> None:
    assert not [rule.rule for rule in app.url_map.iter_rules() if rule.rule.endswith("/")]
    assert not app.url_map.merge_slashes


def test_every_status_of_the_contract_has_its_type() -> None:
    assert TYPES == {
        400: "bad_request",
        401: "unauthorized",
        402: "insufficient_funds",
        403: "forbidden",
        404: "not_found",
        409: "conflict",
        413: "payload_too_large",
        422: "unprocessable",
        429: "rate_limit_exceeded",
        500: "internal_error",
        502: "upstream_error",
        503: "unavailable",
        504: "upstream_timeout",
    }


@pytest.fixture(scope="module")
def actors() -> dict[str, ast.Call]:
    """The decorator of every actor, by its name; read, for importing them needs a broker."""
    tree = ast.parse((ROOT / "workers" / "actors.py").read_text())
    return {
        node.name: decorator
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
        for decorator in node.decorator_list
        if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "dramatiq.actor"
    }


def test_every_actor_states_its_queue_its_retries_and_its_time_limit(
    actors: dict[str, ast.Call],
) -> None:
    assert set(actors) == {actor.value for actor in Actor}
    for name, decorator in actors.items():
        stated = {keyword.arg: keyword.value for keyword in decorator.keywords}
        assert stated.keys() >= {"queue_name", "max_retries", "time_limit"}, name
        assert ast.literal_eval(stated["max_retries"]) == 0, name


def test_every_actor_is_a_few_statements() -> None:
    tree = ast.parse((ROOT / "workers" / "actors.py").read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            assert len(node.body) <= 6, node.name


def test_every_actor_is_rung_on_its_queue_and_every_queue_is_consumed() -> None:
    before = dramatiq.broker.global_broker
    # Actors want a broker when they are imported, if nobody has imported them before.
    dramatiq.set_broker(StubBroker())
    module = importlib.import_module("workers.actors")
    dramatiq.broker.global_broker = before
    declared = [each for each in vars(module).values() if isinstance(each, dramatiq.Actor)]
    assert {actor.actor_name: actor.queue_name for actor in declared} == {
        actor.value: queue for actor, queue in QUEUES.items()
    }
    for actor in declared:
        assert actor.options["max_retries"] == 0
        assert actor.options["time_limit"] >= MINUTE_MILLISECONDS
    # A worker that names no queue consumes all of them.
    command = read_procfile(ROOT / "Procfile")["worker"].split()
    assert "workers.actors" in command
    named = _queues_of(command)
    assert not named or named >= set(QUEUES.values())


def _queues_of(command: list[str]) -> set[str]:
    """The queues that a dramatiq command line restricts itself to."""
    for option in ("--queues", "-Q"):
        if option in command:
            following = command[command.index(option) + 1 :]
            return {word for word in following if not word.startswith("-")}
    return set()


def test_everything_on_the_timetable_is_an_actor_and_comes_round() -> None:
    entries = timetable(SETTINGS)
    assert len({entry.actor for entry in entries}) == len(entries)
    assert {entry.actor for entry in entries} <= set(QUEUES)
    assert all(entry.every_seconds > 0 for entry in entries)


def test_every_query_about_jobs_takes_the_account() -> None:
    queries = [
        function
        for _, function in inspect.getmembers(jobs, inspect.isfunction)
        if function.__module__ == jobs.__name__
        and Session in [each.annotation for each in inspect.signature(function).parameters.values()]
    ]
    assert {query.__name__ for query in queries} >= {"get", "page", "delete_texts"}
    for query in queries:
        parameter = inspect.signature(query).parameters.get("account_id")
        assert parameter is not None, query.__name__
        assert parameter.default is inspect.Parameter.empty


def _modules(*folders: str) -> Iterator[tuple[Path, ast.Module]]:
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield path, ast.parse(path.read_text())


def test_the_house_reads_no_environment() -> None:
    for path, tree in _modules("gateway"):
        read = [
            ast.unparse(node)
            for node in ast.walk(tree)
            if (isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv"))
            or (isinstance(node, ast.Name) and node.id in ("environ", "getenv"))
        ]
        assert read == [], path


def test_nothing_is_imported_inside_a_function() -> None:
    folders = ("gateway", "models", "settings", "web", "workers", "schedulers", "local")
    for path, tree in _modules(*folders):
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                inside = [
                    each.lineno
                    for each in ast.walk(node)
                    if isinstance(each, ast.Import | ast.ImportFrom)
                ]
                assert inside == [], path


def test_no_module_is_longer_than_a_sitting() -> None:
    folders = ("gateway", "models", "settings", "web", "workers", "schedulers", "local")
    for folder in folders:
        for path in (ROOT / folder).rglob("*.py"):
            if "versions" not in path.parts:
                assert len(path.read_text().splitlines()) <= 400, path
