"""The least that a Flask proxy can do: `gunicorn "benchmarks.overhead.bare_flask:create_app(URL)"`.

No key, no money, no log: an `httpx.Client` of one connection each, on a stack, newest first.
"""

from collections.abc import Iterator

import httpx
from flask import Flask, Response, request


def create_app(upstream_url: str) -> Flask:
    """A proxy of every POST below `/v1` to that base URL."""
    app = Flask(__name__)
    idle: list[httpx.Client] = []

    @app.post("/v1/<path:path>")
    def forward(path: str) -> Response:
        client = idle.pop() if idle else httpx.Client(timeout=60, trust_env=False)
        body = request.get_data()
        headers = {"Content-Type": "application/json"}
        sent = client.build_request("POST", f"{upstream_url}/{path}", content=body, headers=headers)
        answer = client.send(sent, stream=True)

        def chunks() -> Iterator[bytes]:
            try:
                yield from answer.iter_raw()
            finally:
                answer.close()
                idle.append(client)

        content_type = answer.headers["Content-Type"]
        if content_type.startswith("text/event-stream"):
            return Response(chunks(), answer.status_code, content_type=content_type)
        return Response(b"".join(chunks()), answer.status_code, content_type=content_type)

    return app
