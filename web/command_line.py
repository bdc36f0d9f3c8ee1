"""What the operator commands are made of: their arguments, and how they answer."""

import getpass
import os
from collections.abc import Sequence
from decimal import InvalidOperation
from typing import Any
from uuid import UUID

import click
import orjson
from flask import current_app

from gateway.access.audit_log import Actor
from gateway.billing.prices import parse_usd
from models import ids
from models.audit import ActorKind
from models.ids import Prefix
from web.state import EXTENSION, State

json_option = click.option("--json", "as_json", is_flag=True, help="Answer as one line of JSON.")


class Usd(click.ParamType[int]):
    """A positive amount of USD, read exactly."""

    name = "usd"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        """Nano-USD."""
        if isinstance(value, int):
            return value
        try:
            nanos = parse_usd(str(value))
        except (ValueError, InvalidOperation) as error:
            self.fail(f"{value!r} is not an amount of USD: {error}", param, ctx)
        if nanos <= 0:
            self.fail("the amount must be more than 0", param, ctx)
        return nanos


class OutsideId(click.ParamType[UUID]):
    """An id with its prefix."""

    name = "id"

    def __init__(self, prefix: Prefix) -> None:
        self._prefix = prefix

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> UUID:
        """The UUID behind it."""
        parsed = ids.parse(self._prefix, str(value))
        if parsed is None:
            self.fail(f"{value!r} is not an id that begins with {self._prefix}", param, ctx)
        return parsed


def process_state() -> State:
    """The parts of the process that the command runs in."""
    found: State = current_app.extensions[EXTENSION]
    return found


def say(answer: dict[str, object], as_json: bool) -> None:
    """Prints an answer, a line a field, or all of it as one line of JSON."""
    if as_json:
        click.echo(orjson.dumps(answer).decode())
        return
    for name, value in answer.items():
        click.echo(f"{name}: {value}")


def say_list(
    name: str, objects: Sequence[dict[str, Any]], columns: Sequence[str], as_json: bool
) -> None:
    """Prints a list: these columns of each object in a line, or all of it as one line of JSON."""
    if as_json:
        say({name: objects}, as_json)
        return
    for each in objects:
        click.echo("  ".join(_word(each[column]) for column in columns))


def _word(value: Any) -> str:
    if isinstance(value, dict):
        return " ".join(f"{name}={_word(each)}" for name, each in value.items() if each is not None)
    return "-" if value is None or value == "" else str(value)


def operator() -> Actor:
    """Who types the command, by the name of their user on this machine."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError, ImportError):
        # A container's user may have no name.
        name = f"uid {os.getuid()}"
    return Actor(ActorKind.OPERATOR, name=name)
