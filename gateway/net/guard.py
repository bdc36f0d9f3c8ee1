"""The address guard: which URLs and addresses may be called on a customer's word.

`check_url` refuses at intake what is wrong in any case; `Dialler` decides at the moment of the
call, by the addresses that the name then has, and connects to an address it has checked, so that
a second answer of the name server can change nothing.
"""

import re
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from queue import Empty, SimpleQueue

import httpx

Address = IPv4Address | IPv6Address
Resolver = Callable[[str, int], Sequence[str]]
"""(host, port) -> addresses as text; raises OSError where there are none."""
Connector = Callable[[str, int, float], socket.socket]
"""(address, port, timeout_seconds) -> a connected socket."""
LookUp = Callable[[], list[str]]
Patience = Callable[[float, LookUp], list[str]]
"""(timeout_seconds, what to call) -> what it returns; raises TimeoutError when the time is up."""

URL_MAX_BYTES = 2048  # A PostgreSQL index entry holds some 2,700.
_ADDRESSES_TRIED_MAX = 4

# IANA IPv4 Special-Purpose Address Registry (RFC 6890), and what lies beyond unicast.
_REFUSED_V4 = tuple(
    IPv4Network(network)
    for network in (
        "0.0.0.0/8",  # this network (RFC 791)
        "10.0.0.0/8",  # private (RFC 1918)
        "100.64.0.0/10",  # shared by carriers (RFC 6598); one cloud's metadata service
        "127.0.0.0/8",  # loopback (RFC 1122)
        "169.254.0.0/16",  # link-local (RFC 3927); most clouds' metadata services
        "172.16.0.0/12",  # private (RFC 1918)
        "192.0.0.0/24",  # protocol assignments (RFC 6890)
        "192.0.2.0/24",  # documentation (RFC 5737)
        "192.31.196.0/24",  # AS112 (RFC 7535)
        "192.52.193.0/24",  # multicast tunnelling (RFC 7450)
        "192.88.99.0/24",  # 6to4 relays (RFC 7526)
        "192.168.0.0/16",  # private (RFC 1918)
        "192.175.48.0/24",  # AS112 (RFC 7534)
        "198.18.0.0/15",  # benchmarking (RFC 2544)
        "198.51.100.0/24",  # documentation (RFC 5737)
        "203.0.113.0/24",  # documentation (RFC 5737)
        "224.0.0.0/4",  # multicast (RFC 5771)
        "240.0.0.0/4",  # reserved (RFC 1112), broadcast (RFC 919)
        # A public number that is Azure's own platform service inside Azure.
        "168.63.129.16/32",
    )
)

# The only space that IANA hands out (RFC 4291, RFC 3587). Outside it lie ::1, unique local
# (fc00::/7), link-local (fe80::/10), site-local (fec0::/10), multicast (ff00::/8), discard-only
# (100::/64), segment routing (5f00::/16) and local-use NAT64 (64:ff9b:1::/48).
_GLOBAL_UNICAST = IPv6Network("2000::/3")

# IANA IPv6 Special-Purpose Address Registry (RFC 6890): what is not public within that space.
_REFUSED_V6 = tuple(
    IPv6Network(network)
    for network in (
        "2001::/23",  # protocol assignments (RFC 2928): benchmarking, ORCHID and others
        "2001:db8::/32",  # documentation (RFC 3849)
        "2620:4f:8000::/48",  # AS112 (RFC 7534)
        "3ffe::/16",  # the 6bone, given back (RFC 3701)
        "3fff::/20",  # documentation (RFC 9637)
    )
)

# IPv6 networks whose addresses lead to IPv4 ones: (shift, mask to xor) of each one inside.
_WRAPPERS: tuple[tuple[IPv6Network, tuple[tuple[int, int], ...]], ...] = (
    (IPv6Network("::/96"), ((0, 0),)),  # IPv4-compatible (RFC 4291, 2.5.5.1)
    (IPv6Network("::ffff:0:0/96"), ((0, 0),)),  # IPv4-mapped (RFC 4291, 2.5.5.2)
    (IPv6Network("::ffff:0:0:0/96"), ((0, 0),)),  # IPv4-translated (RFC 2765)
    (IPv6Network("64:ff9b::/96"), ((0, 0),)),  # NAT64 (RFC 6052)
    (IPv6Network("2002::/16"), ((80, 0),)),  # 6to4 (RFC 3056)
    # Teredo (RFC 4380): the server, and the client with its bits inverted.
    (IPv6Network("2001::/32"), ((64, 0), (0, 0xFFFF_FFFF))),
)
_ISATAP_INTERFACES = (0x0000_5EFE, 0x0200_5EFE)  # RFC 5214, 6.1

_AUTHORITY = re.compile(r"(https?)://([^/?#]*)", re.IGNORECASE)
_LABEL = re.compile(r"[a-z0-9_-]{1,63}")
_NUMBER = re.compile(r"0x[0-9a-f]*|[0-9]+")


class RefusedAddress(ValueError):
    """A URL, host or address that must not be called. The message is fit for the customer."""


def is_public(ip: Address) -> bool:
    """Whether an address, and each IPv4 address wrapped in it, is on the public internet."""
    if isinstance(ip, IPv4Address):
        return not any(ip in network for network in _REFUSED_V4)
    if ip.scope_id is not None:
        return False
    bits = int(ip)
    for network, inner in _WRAPPERS:
        if ip in network:
            return all(is_public(_inner(bits >> shift ^ mask)) for shift, mask in inner)
    if bits >> 32 & 0xFFFF_FFFF in _ISATAP_INTERFACES and not is_public(_inner(bits)):
        return False
    return ip in _GLOBAL_UNICAST and not any(ip in network for network in _REFUSED_V6)


def _inner(bits: int) -> IPv4Address:
    return IPv4Address(bits & 0xFFFF_FFFF)


def check_url(url: str, *, allow_private: bool) -> None:
    """Raises RefusedAddress for a URL that no name server's answer could make acceptable.

    With `allow_private` plain http and private addresses pass; the rest must hold all the same.
    """
    if not url.isprintable() or " " in url or "\\" in url:
        raise RefusedAddress("the URL holds a space, a backslash or a control character")
    if len(url.encode()) > URL_MAX_BYTES:
        raise RefusedAddress(f"the URL is longer than {URL_MAX_BYTES} bytes")
    authority = _AUTHORITY.match(url)
    if authority is None or (authority[1].lower() == "http" and not allow_private):
        raise RefusedAddress("the URL must begin with https://")
    if "@" in authority[2]:
        raise RefusedAddress("the URL must not hold a user name or password")
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise RefusedAddress("the URL is not valid") from error
    if parsed.port is not None and not 1 <= parsed.port <= 65535:
        raise RefusedAddress("the URL's port is out of range")
    _check_host(host_of(parsed), allow_private)


def host_of(url: httpx.URL) -> str:
    """The host in ASCII (IDNA), without brackets and without the root's dot."""
    return url.raw_host.decode("ascii").removesuffix(".")


def _check_host(host: str, allow_private: bool) -> None:
    if not host:
        raise RefusedAddress("the URL has no host")
    literal = _literal(host)
    if literal is not None:
        if not allow_private and not is_public(literal):
            raise RefusedAddress("the host is not a public address")
        return
    labels = host.split(".")
    if len(host) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise RefusedAddress("the host is not a valid name")
    if not allow_private and (len(labels) == 1 or labels[-1] == "localhost"):
        raise RefusedAddress("the host must be a full public name")


def _literal(host: str) -> Address | None:
    """The address that a host spells out, in any spelling that a resolver takes for one.

    As in the URL standard, a host whose last label is a number is an address or an error: short,
    decimal, octal and hexadecimal forms (`127.1`, `2130706433`, `0177.1`, `0x7f.1`) are read the
    way that getaddrinfo reads them.
    """
    if "%" in host:
        raise RefusedAddress("the host must not hold a per cent sign")
    try:
        if ":" in host:
            return IPv6Address(host)
        if _NUMBER.fullmatch(host.rpartition(".")[2]):
            return IPv4Address(socket.inet_aton(host))
    except (OSError, ValueError) as error:
        raise RefusedAddress("the host is not a valid address") from error
    return None


def resolve(host: str, port: int) -> list[str]:
    """The system's answer for a name, in the system's order of preference."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found))


def connect(address: str, port: int, timeout_seconds: float) -> socket.socket:
    """A TCP connection to an address given as digits: nothing is looked up."""
    connection = socket.create_connection((address, port), timeout=timeout_seconds)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def in_thread(timeout_seconds: float, look_up: LookUp) -> list[str]:
    """Calls in a thread of its own, left behind when it is late: getaddrinfo has no time-out."""
    answers: SimpleQueue[list[str] | Exception] = SimpleQueue()

    def answer() -> None:
        try:
            answers.put(look_up())
        except (OSError, UnicodeError) as error:
            answers.put(error)

    threading.Thread(target=answer, name="resolve", daemon=True).start()
    try:
        given = answers.get(timeout=timeout_seconds)
    except Empty:
        raise TimeoutError from None
    if isinstance(given, Exception):
        raise given
    return given


@dataclass(frozen=True, slots=True)
class Dialler:
    """Connects to a host whose addresses are all public, or all that `allow_private` lets by."""

    allow_private: bool
    resolver: Resolver = resolve
    connector: Connector = connect
    patience: Patience = in_thread

    def dial(self, host: str, port: int, timeout_seconds: float) -> socket.socket:
        """Looks up, checks, connects; all of it within the time.

        Raises RefusedAddress, before anything is dialled, if any address of the host is not
        public; OSError (TimeoutError when the time is up) if none of the first few answers.
        """
        ends_at = time.monotonic() + timeout_seconds
        addresses = self._checked(host, port, timeout_seconds)[:_ADDRESSES_TRIED_MAX]
        failure = OSError("the host has no address")
        for position, address in enumerate(addresses):
            remaining = ends_at - time.monotonic()
            if remaining <= 0.0:
                raise TimeoutError("timed out") from failure
            try:
                # A share each, so that a dead address leaves time for the next.
                return self.connector(address, port, remaining / (len(addresses) - position))
            except OSError as error:
                failure = error
        raise failure

    def _checked(self, host: str, port: int, timeout_seconds: float) -> list[str]:
        literal = _literal(host)
        if literal is not None:
            addresses = [str(literal)]
        else:
            addresses = self._looked_up(host, port, timeout_seconds)
        if not self.allow_private and not all(is_public(ip_address(text)) for text in addresses):
            raise RefusedAddress("the host has an address that is not public")
        return addresses

    def _looked_up(self, host: str, port: int, timeout_seconds: float) -> list[str]:
        try:
            return self.patience(timeout_seconds, lambda: list(self.resolver(host, port)))
        except TimeoutError:
            raise TimeoutError("the name server did not answer in time") from None
        except (OSError, UnicodeError) as error:
            raise OSError("the host name could not be resolved") from error
