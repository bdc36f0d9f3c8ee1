"""A TCP proxy before PostgreSQL that can be told to fail as networks and servers do."""

import contextlib
import socket
import socketserver
import threading
from typing import Self
from urllib.parse import unquote

CHUNK_BYTES = 65_536
ANSWER_SECONDS = 10.0


class DatabaseProxy:
    """Passes connections on to a PostgreSQL that listens on a Unix socket.

    `cut` closes every connection and refuses new ones until `mend`. `cut_reply_to` closes the
    connection that next sends those bytes, when the server has acted on them and before anybody
    hears its answer.
    """

    def __init__(self, database_url: str) -> None:
        database, _, query = database_url.rpartition("/")[2].partition("?")
        directory = unquote(query.removeprefix("host="))
        self._upstream = f"{directory}/.s.PGSQL.5432"
        self._lock = threading.Lock()
        self._links: set[_Link] = set()
        self._is_cut = False
        self._fatal: bytes | None = None
        proxy = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                proxy._serve(self.request)

        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        port = self._server.server_address[1]
        self.url = f"postgresql://postgres@127.0.0.1:{port}/{database}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.cut()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def cut(self) -> None:
        """The database is away."""
        with self._lock:
            self._is_cut = True
            links = list(self._links)
        for link in links:
            link.cut()

    def mend(self) -> None:
        """The database is there again."""
        with self._lock:
            self._is_cut = False

    def cut_reply_to(self, words: bytes) -> None:
        """The next message that holds these words is acted on and never answered."""
        with self._lock:
            self._fatal = words

    @property
    def is_armed(self) -> bool:
        """Whether the words of `cut_reply_to` have not come yet."""
        return self._fatal is not None

    def _serve(self, client: socket.socket) -> None:
        with socket.socket(socket.AF_UNIX) as upstream:
            upstream.connect(self._upstream)
            link = _Link(client, upstream)
            with self._lock:
                if self._is_cut:
                    return
                self._links.add(link)
            answers = threading.Thread(target=link.pass_answers)
            answers.start()
            while data := _receive(client):
                link.pass_on(data, is_last=self._is_fatal(data))
            with self._lock:
                self._links.discard(link)
            link.cut()
            answers.join()

    def _is_fatal(self, data: bytes) -> bool:
        with self._lock:
            if self._fatal is None or self._fatal not in data:
                return False
            self._fatal = None
            return True


class _Link:
    """One client's connection and its own to the server."""

    def __init__(self, client: socket.socket, upstream: socket.socket) -> None:
        self._client = client
        self._upstream = upstream
        self._muted = threading.Event()
        self._answered = threading.Event()

    def pass_on(self, data: bytes, *, is_last: bool) -> None:
        if is_last:
            self._muted.set()
        with contextlib.suppress(OSError):
            self._upstream.sendall(data)
        if is_last:
            self._answered.wait(ANSWER_SECONDS)
            self.cut()

    def pass_answers(self) -> None:
        while data := _receive(self._upstream):
            if self._muted.is_set():
                self._answered.set()
                continue
            with contextlib.suppress(OSError):
                self._client.sendall(data)
        self._answered.set()
        self.cut()

    def cut(self) -> None:
        for each in (self._client, self._upstream):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


def _receive(source: socket.socket) -> bytes:
    try:
        return source.recv(CHUNK_BYTES)
    except OSError:
        return b""
