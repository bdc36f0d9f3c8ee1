"""A TCP proxy before PostgreSQL that can be told to fail as networks and servers do."""

import socket
import socketserver
import threading
from typing import Self
from urllib.parse import unquote

CHUNK_BYTES = 65_536
LINGER_SECONDS = 0.2


class DatabaseProxy:
    """Passes connections on to a PostgreSQL that listens on a Unix socket.

    `cut` closes every connection and refuses new ones until `mend`. `cut_reply_to` closes the
    connection that next sends those bytes, once the server has had the time to act on them and
    before its answer is passed on.
    """

    def __init__(self, database_url: str) -> None:
        database, _, query = database_url.rpartition("/")[2].partition("?")
        directory = unquote(query.removeprefix("host="))
        self._upstream = f"{directory}/.s.PGSQL.5432"
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._is_cut = False
        self._fatal: bytes | None = None
        proxy = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                proxy._serve(self.request)

        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
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
            gone = list(self._open)
        for each in gone:
            _shut(each)

    def mend(self) -> None:
        """The database is there again."""
        with self._lock:
            self._is_cut = False

    def cut_reply_to(self, words: bytes) -> None:
        """The next message that holds these words is acted on and never answered."""
        with self._lock:
            self._fatal = words

    def _serve(self, client: socket.socket) -> None:
        with socket.socket(socket.AF_UNIX) as upstream:
            with self._lock:
                if self._is_cut:
                    return
                self._open |= {client, upstream}
            try:
                upstream.connect(self._upstream)
                back = threading.Thread(target=_pass_on, args=(upstream, client))
                back.start()
                self._pass_up(client, upstream)
            finally:
                with self._lock:
                    self._open -= {client, upstream}
                _shut(client)
                _shut(upstream)
                back.join()

    def _pass_up(self, client: socket.socket, upstream: socket.socket) -> None:
        while data := _receive(client):
            with self._lock:
                strikes = self._fatal is not None and self._fatal in data
                if strikes:
                    self._fatal = None
            if strikes:
                # The client hears nothing from here on, but the server gets its message.
                _shut(client)
                upstream.sendall(data)
                _wait_for_answer(upstream)
                return
            upstream.sendall(data)


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    while data := _receive(source):
        try:
            target.sendall(data)
        except OSError:
            return
    _shut(target)


def _receive(source: socket.socket) -> bytes:
    try:
        return source.recv(CHUNK_BYTES)
    except OSError:
        return b""


def _wait_for_answer(upstream: socket.socket) -> None:
    threading.Event().wait(LINGER_SECONDS)
    _shut(upstream)


def _shut(each: socket.socket) -> None:
    try:
        each.shutdown(socket.SHUT_RDWR)
    except OSError:
        return
