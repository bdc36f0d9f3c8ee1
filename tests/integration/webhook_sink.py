"""A webhook receiver on this machine, for tests: it notes what comes and answers by script."""

import threading
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Script = Callable[[BaseHTTPRequestHandler], None]
"""Answers one request."""


@dataclass(frozen=True, slots=True)
class Received:
    """One POST as the sink saw it; header names in lower case."""

    target: str
    headers: dict[str, str]
    body: bytes


class Sink:
    """Answers each path by `scripts[path]`, of which the last is repeated; 204 without any."""

    def __init__(self) -> None:
        self.scripts: dict[str, list[Script]] = {}
        self.most_at_once: defaultdict[str, int] = defaultdict(int)
        self._received: defaultdict[str, list[Received]] = defaultdict(list)
        self._at_once: defaultdict[str, int] = defaultdict(int)
        self._lock = threading.Lock()
        self._released = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = False
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def url(self, target: str) -> str:
        """The URL of a path on this sink."""
        return f"http://127.0.0.1:{self._server.server_address[1]}{target}"

    def at(self, path: str) -> list[Received]:
        """What has come to a path so far, with whatever query."""
        with self._lock:
            return list(self._received[path])

    def hang(self, handler: BaseHTTPRequestHandler) -> None:
        """A script: no answer until the sink closes."""
        self._released.wait(30.0)
        handler.close_connection = True

    def close(self) -> None:
        """Ends what hangs, and the server."""
        self._released.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        sink = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                sink._serve(self)

            def log_message(self, *_arguments: object) -> None:
                """Quiet: the tests' assertions tell what came."""

        return Handler

    def _serve(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers["Content-Length"]))
        headers = {name.lower(): value for name, value in handler.headers.items()}
        path = handler.path.partition("?")[0]
        with self._lock:
            self._received[path].append(Received(handler.path, headers, body))
            self._at_once[path] += 1
            self.most_at_once[path] = max(self.most_at_once[path], self._at_once[path])
            script = self.scripts.get(path, [answer(204)])
            step = script.pop(0) if len(script) > 1 else script[0]
        try:
            step(handler)
        except OSError:
            handler.close_connection = True  # the other side hung up, as some tests mean it to
        finally:
            with self._lock:
                self._at_once[path] -= 1


def answer(status: int, body: bytes = b"", **headers: str) -> Script:
    """A script: one whole answer. `retry_after="5"` becomes the header retry-after."""

    def step(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        if status != 204:
            handler.send_header("content-length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    return step
