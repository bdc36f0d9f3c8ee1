"""Closes the way out of this machine while tests run."""

from ipaddress import ip_address


class OutsideConnectionError(RuntimeError):
    """A test tried to leave this machine. No OSError, so that nothing takes it for a bad line."""


def refuse_outside(event: str, arguments: tuple[object, ...]) -> None:
    """An audit hook: sockets reach this machine only, and names are not looked up outside."""
    if event in {"socket.connect", "socket.sendto"}:
        address = arguments[1]
        host = address[0] if isinstance(address, tuple) else None
    elif event == "socket.getaddrinfo":
        host = arguments[0]
    else:
        return
    name = host.decode() if isinstance(host, bytes) else host
    if isinstance(name, str) and not is_local(name):
        raise OutsideConnectionError(f"{event} to {name}")


def is_local(host: str) -> bool:
    """Whether a name or address is this machine's own."""
    if host in {"", "localhost"}:
        return True
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified
