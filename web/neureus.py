"""The `/ai` routes, as Neureus's reference has them: the calls of `/v1` in other words.

Not there: routing by task (`auto`), compression of prompts and their statistics. What asks for
those is refused with a 400 that names it.
"""

import re
from typing import Annotated

from flask import Blueprint, Response, request
from pydantic import Field
from werkzeug.datastructures import Headers

from gateway.calls.errors import InvalidField
from gateway.providers.dialect import Endpoint
from models.ids import Prefix
from models.states import JobStatus
from web.answers import stored_response
from web.auth import widget_key
from web.call_schemas import ACCEPTED_HEADERS, CALL_ERRORS, CALL_HEADERS, NOW_HEADERS
from web.calls import respond
from web.documented import EVENTS, Answer, Parameter, documented
from web.jobs import RESULT_ERRORS, find_job, result
from web.neureus_schemas import (
    NeureusAccepted,
    NeureusChatAnswer,
    NeureusChatCall,
    NeureusEmbeddingsAnswer,
    NeureusEmbeddingsCall,
    NeureusResult,
)
from web.neureus_words import NEUREUS, answer, job_names

blueprint = Blueprint("neureus", __name__)

SOURCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,63}", re.ASCII)
_PARAMETERS = (
    *CALL_HEADERS,
    Parameter(
        "x-neureus-surface",
        Annotated[str, Field(pattern=f"^({SOURCE.pattern})?$")],
        "What you call the place that the call comes from; up to 64 letters, digits and `._:/-`.",
        "header",
    ),
)
_ACCEPTED = Answer(
    "Accepted as a job.",
    NeureusAccepted,
    headers=ACCEPTED_HEADERS,
    links={"get_neureus_job": ("job_id", "$response.body#/jobId")},
)


@blueprint.post("/ai/chat")
@documented(
    "AI",
    {
        200: Answer(
            'The answer; with `stream`, `{"delta": {"content": "…"}, "done": false}` as '
            'server-sent events, the last one `{"done": true, "logId", "inputTokens", '
            '"outputTokens", "costUsd", "finishReason"}`.',
            NeureusChatAnswer,
            more=(EVENTS,),
            headers=NOW_HEADERS,
        ),
        202: _ACCEPTED,
    },
    errors=CALL_ERRORS,
    parameters=_PARAMETERS,
    body=NeureusChatCall,
)
def neureus_chat() -> Response:
    """A chat, now or as a job; at once and never as a job with a publishable key."""
    key, source = widget_key(), check_headers(request.headers)
    if source is None and key is not None:
        source = key.terms.agent_id
    return respond(Endpoint.CHAT_COMPLETIONS, NEUREUS, source)


@blueprint.post("/ai/embeddings")
@documented(
    "AI",
    {200: Answer("The vectors.", NeureusEmbeddingsAnswer, headers=NOW_HEADERS), 202: _ACCEPTED},
    errors=CALL_ERRORS,
    parameters=_PARAMETERS,
    body=NeureusEmbeddingsCall,
)
def neureus_embeddings() -> Response:
    """Embeddings, now or as a job."""
    return respond(Endpoint.EMBEDDINGS, NEUREUS, check_headers(request.headers))


@blueprint.get("/ai/batch/<job_id>")
@documented(
    "AI",
    {
        200: Answer("The answer.", NeureusResult, headers=("X-Lane", "X-Cost-Usd")),
        202: Answer("The job has not ended.", NeureusAccepted, headers=("Retry-After", "X-Lane")),
    },
    errors=(400, *RESULT_ERRORS),
)
def get_neureus_job(job_id: str) -> Response:
    """What became of a job: the same as it was first answered, until its answer is there."""
    job = find_job(Prefix.JOB, job_id)
    more = {"status": JobStatus.COMPLETED.value, **job_names(job_id)}
    return stored_response(answer(result(job), more))


def check_headers(headers: Headers) -> str | None:
    """What the caller calls the place that the call comes from.

    Raises InvalidField for that, and for what the headers ask for that is not there.
    """
    for option in headers.get("x-neureus-options", "").split(","):
        name, _, value = option.strip().partition("=")
        if name and value.lower() != "false":
            raise InvalidField(
                "x-neureus-options",
                "'x-neureus-options' is not available: prompts are sent on as they are.",
            )
    if headers.get("x-neureus-debug", "false").lower() != "false":
        raise InvalidField(
            "x-neureus-debug", "'x-neureus-debug' is not available: nothing is preprocessed."
        )
    source = headers.get("x-neureus-surface") or None
    if source is not None and not SOURCE.fullmatch(source):
        raise InvalidField(
            "x-neureus-surface",
            "'x-neureus-surface' must be 1 to 64 letters, digits and any of '._:/-'.",
        )
    return source
