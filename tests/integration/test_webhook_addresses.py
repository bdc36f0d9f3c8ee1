"""Every address that must not be called, by every way that a customer can name it."""

import socket
from collections.abc import Iterator, Sequence
from ipaddress import ip_address

import pytest

from gateway.net.guard import Dialler, Resolver
from gateway.webhooks.transport import GuardedTransport
from models.states import DeliveryStatus
from tests.integration.webhook_world import World, make_world
from tests.unit.test_guard import NOT_PUBLIC, SPACED_URLS, section

PUBLIC = "93.184.215.14"


def as_host(address: str) -> str:
    return f"[{address}]" if ip_address(address).version == 6 else address


REFUSED_URLS = [
    *section("refused urls"),
    *SPACED_URLS,
    *(f"https://{as_host(address)}/" for address in NOT_PUBLIC),
]
"""Wrong by themselves: no name server is asked."""
NAMES = {
    **{f"private-{n}.example": [address] for n, address in enumerate(NOT_PUBLIC)},
    **{f"mixed-{n}.example": [PUBLIC, address] for n, address in enumerate(NOT_PUBLIC)},
}
"""What the name server says of hosts that look well."""


@pytest.fixture
def world(database_url: str) -> Iterator[World]:
    with make_world(database_url) as made:
        yield made


def test_the_corpus_is_large() -> None:
    assert len({*REFUSED_URLS, *NAMES}) >= 300


def storable(url: str) -> bool:
    """Whether PostgreSQL's text could hold it, had it ever got there."""
    return "\x00" not in url and url.isascii()


def test_the_courier_refuses_the_whole_corpus_and_dials_nothing(world: World) -> None:
    """With the real connector: the run's audit hook forbids the outside, a listener the inside."""
    asked: list[str] = []

    def resolver(host: str, _port: int) -> Sequence[str]:
        asked.append(host)
        return NAMES[host]

    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        transport = GuardedTransport(Dialler(False, resolver))
        courier = world.make_courier(allow_private=False, transport=transport)
        wrong = [url for url in REFUSED_URLS if storable(url)]
        named = [f"https://{name}:{port}/" for name in NAMES]
        for literal in ("127.0.0.1", "127.1", "2130706433", "[::ffff:127.0.0.1]"):
            wrong.append(f"https://{literal}:{port}/")
        world.happen(*wrong, *named)
        assert courier.drain() == len(wrong) + len(named)
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()
    errors = [each.error for each in world.attempts()]
    assert len(errors) == len(wrong) + len(named) >= 300
    assert [error for error in errors if error is None or not error.startswith("refused: ")] == []
    assert sorted(asked) == sorted(NAMES)
    status = {each.url: each.status for each in world.deliveries()}
    assert {status[url] for url in wrong} == {DeliveryStatus.FAILED}
    assert {status[url] for url in named} == {DeliveryStatus.PENDING}


def test_a_name_that_changes_between_look_ups_is_dialled_only_where_it_was_public(
    world: World,
) -> None:
    dialled: list[str] = []
    told: dict[str, int] = {}

    def rebinding() -> Resolver:
        """Public when it is first asked for a name, this machine ever after."""

        def resolve(host: str, _port: int) -> Sequence[str]:
            told[host] = told.get(host, 0) + 1
            return [PUBLIC] if told[host] == 1 else ["127.0.0.1"]

        return resolve

    def connector(address: str, _port: int, _timeout_seconds: float) -> socket.socket:
        dialled.append(address)
        raise ConnectionRefusedError("nobody listens")

    transport = GuardedTransport(Dialler(False, rebinding(), connector))
    courier = world.make_courier(allow_private=False, transport=transport)
    world.happen(*[f"https://rebinding-{n}.example/" for n in range(20)])
    assert courier.drain() == 20
    assert dialled == [PUBLIC] * 20
    world.let_time_pass()
    assert courier.drain() == 20
    assert dialled == [PUBLIC] * 20
    assert set(told.values()) == {2}
    second = [each.error for each in world.attempts() if each.number == 2]
    assert second == ["refused: the host has an address that is not public"] * 20
