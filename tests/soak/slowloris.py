"""Slow callers at the web door: many sockets, each with a request that never comes to its end."""

import contextlib
import socket
import threading
from collections.abc import Iterator, Sequence
from urllib.parse import urlsplit

SOCKETS_EACH = 100
DRIP_SECONDS = 1.0
DIAL_SECONDS = 2.0
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: slow\r\nX-Slow: "


@contextlib.contextmanager
def dripping(urls: Sequence[str]) -> Iterator[int]:
    """Holds sockets to each address while the block runs, a byte a second; how many there are."""
    sockets = [each for url in urls for each in _dial(url)]
    over = threading.Event()
    thread = threading.Thread(target=_drip, args=(sockets, over), name="slowloris")
    thread.start()
    try:
        yield len(sockets)
    finally:
        over.set()
        thread.join()
        for each in sockets:
            each.close()


def _dial(url: str) -> Iterator[socket.socket]:
    """As many as the process lets in; none if it is down."""
    address = urlsplit(url)
    for _ in range(SOCKETS_EACH):
        try:
            made = socket.create_connection((address.hostname, address.port), DIAL_SECONDS)
            made.sendall(HEAD)
        except OSError:
            return
        yield made


def _drip(sockets: Sequence[socket.socket], over: threading.Event) -> None:
    while not over.wait(DRIP_SECONDS):
        for each in sockets:
            with contextlib.suppress(OSError):  # The server had enough of it, as it may.
                each.send(b"a", socket.MSG_DONTWAIT)
