"""A test client that holds every answer against what is documented of its route."""

from typing import Any

from flask import Flask
from flask.testing import FlaskClient
from werkzeug.exceptions import HTTPException
from werkzeug.test import TestResponse

from web.auth import OPEN_ROUTES
from web.documented import EVENTS, JSON, operation_of
from web.errors import is_flat
from web.neureus_schemas import FlatError
from web.objects import Error
from web.openapi import statuses


class DocumentedClient(FlaskClient):
    """Raises AssertionError for a status, media type or JSON body that is not documented."""

    def open(self, *args: Any, **kwargs: Any) -> TestResponse:
        """The answer, as it came."""
        response = super().open(*args, **kwargs)
        check_answer(self.application, response)
        return response


def check_answer(app: Flask, response: TestResponse) -> None:
    """Raises AssertionError if the answer's route says otherwise; unknown routes say nothing."""
    asked = response.request
    try:
        rule, _ = app.url_map.bind("localhost").match(asked.path, asked.method, return_rule=True)
    except HTTPException:
        return
    operation = operation_of(app.view_functions[rule.endpoint])
    # Every route of ours is documented, which is tested elsewhere; a test may add its own.
    if operation is None or asked.method == "OPTIONS":
        return
    status, keyed = response.status_code, rule.rule not in OPEN_ROUTES
    assert status in statuses(operation, rule, keyed=keyed), (asked.method, rule.rule, status)
    # What comes in pieces is left to who asked for it.
    if asked.method == "HEAD" or response.content_length is None:
        return
    answer = operation.answers.get(status)
    if answer is None or (status == 503 and answer.model is None):
        shape = FlatError if is_flat(rule.rule) else Error
        shape.model_validate_json(response.data, strict=True)
        return
    media_types = {*answer.more, *([answer.media_type] if answer.model is not None else [])}
    assert response.mimetype in media_types or not response.data, (rule.rule, response.mimetype)
    if answer.model is not None and response.mimetype == JSON and answer.media_type != EVENTS:
        read = answer.model.model_validate_json(response.data, strict=True)
        # What a model does not know it leaves out.
        assert read.model_dump(mode="json", exclude_unset=True) == response.get_json(), rule.rule
