"""The least that accepting a call can cost: `gunicorn "benchmarks.bare_insert:create_app(URL)"`.

Each call is parsed and becomes one row in a transaction of its own. No key, no money, no log.
"""

import json
from uuid import uuid4

import psycopg
from flask import Flask, Response, request

TABLE = "CREATE TABLE IF NOT EXISTS bare_calls (id uuid PRIMARY KEY, body bytea NOT NULL)"


def create_app(database_url: str) -> Flask:
    """An app with one view; the newest of its idle connections is used first."""
    app = Flask(__name__)
    idle: list[psycopg.Connection[tuple[object, ...]]] = []

    @app.post("/v1/chat/completions")
    def accept() -> Response:
        body = request.get_data()
        json.loads(body)
        connection = idle.pop() if idle else psycopg.connect(database_url)
        call_id = uuid4()
        connection.execute("INSERT INTO bare_calls VALUES (%s, %s)", [call_id, body])
        connection.commit()
        idle.append(connection)
        answer = json.dumps({"id": call_id.hex, "status": "queued"})
        return Response(answer, 202, mimetype="application/json")

    return app
