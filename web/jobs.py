"""The jobs routes: get, wait, result, list, cancel, delete, and the stored completion."""

import re
import time
from typing import Annotated, Literal
from uuid import UUID

import orjson
from flask import Blueprint, Response, request
from pydantic import Field

from gateway.billing.prices import format_usd
from gateway.calls import jobs
from gateway.calls.idempotency import Stored
from gateway.calls.jobs import Deletion, JobFilter, JobView
from gateway.lanes import cancellation, endings
from gateway.lanes.cancellation import Cancellation
from models import ids
from models.ids import Prefix
from models.states import JobStatus
from web.answers import stored_response
from web.auth import caller
from web.documented import Answer, Parameter, documented
from web.errors import ApiError
from web.objects import Accepted, DeletedJob, Job, JobPage, Result, Storable
from web.parameters import AFTER_JOB, LIMIT, number, page_after, page_limit
from web.serialisers import accepted_json, job_json, list_json
from web.state import State, state
from web.threads import in_background
from workers.bell import Actor

blueprint = Blueprint("jobs", __name__)

LONGEST_WAIT_SECONDS = 25
POLL_AFTER_SECONDS = 30
IDS_MOST = 100
DO_NOT_RETRY = {"x-should-retry": "false"}

MetadataQuery = Annotated[
    dict[Annotated[str, Field(pattern=r"^[^\x00\[\]]+$")], Storable],
    Field(json_schema_extra={"additionalProperties": False}),
]
"""Brackets are how some write a list or an object, which no value is."""
INCLUDE = Parameter(
    "include",
    list[Literal["result"]],
    "`result`: completed jobs are shown with theirs.",
    style={"style": "form", "explode": True},
)
RESULT = {
    200: Answer("Exactly what the provider answered.", Result, headers=("X-Lane", "X-Cost-Usd")),
    202: Answer("The job has not ended.", Accepted, headers=("Retry-After", "X-Lane")),
}
RESULT_ERRORS = (404, 409, 502, 504)
"""Of the service, and the job's own if it ended otherwise."""


@blueprint.get("/v1/jobs/<job_id>")
@documented(
    "Jobs",
    {200: Answer("The job, whatever became of it.", Job)},
    parameters=(
        Parameter(
            "wait",
            Annotated[int, Field(ge=0, le=999_999_999)],
            "Answer as soon as the job has ended, or after so many seconds (25 at most).",
        ),
    ),
)
def get_job(job_id: str) -> Response:
    """The job; with `?wait=N` as soon as it is final, or after N seconds (at most 25)."""
    wait = min(number("wait", 0, least=0), LONGEST_WAIT_SECONDS)
    job = find_job(Prefix.JOB, job_id)
    if wait and not job.is_final:
        job = _wait(state(), job, wait)
    return _json(job_json(job))


@blueprint.get("/v1/jobs/<job_id>/result")
@documented("Jobs", RESULT, errors=(400, *RESULT_ERRORS))
def get_result(job_id: str) -> Response:
    """Exactly the completion; 202 until there is one."""
    return stored_response(result(find_job(Prefix.JOB, job_id)))


@blueprint.get("/v1/chat/completions/<completion_id>")
@documented("Calls", RESULT, errors=(400, *RESULT_ERRORS))
def get_completion(completion_id: str) -> Response:
    """The stored completion of a job, so that an SDK's `retrieve` polls."""
    return stored_response(result(find_job(Prefix.COMPLETION, completion_id)))


@blueprint.get("/v1/jobs")
@documented(
    "Jobs",
    {200: Answer("A page.", JobPage)},
    errors=(404,),
    parameters=(
        Parameter("status", JobStatus, "Only jobs of this status."),
        Parameter("model", Storable, "Only jobs of this model, by the name that it was asked by."),
        Parameter(
            "metadata",
            MetadataQuery,
            "Only jobs with these pairs: `metadata[key]=value`.",
            style={"style": "deepObject", "explode": True},
        ),
        AFTER_JOB,
        LIMIT,
        Parameter("order", Literal["asc", "desc"], "By age; `desc`, newest first, unless said."),
        Parameter(
            "ids",
            Annotated[list[str], Field(max_length=IDS_MOST)],
            "Just these jobs, separated by commas; what is unknown is left out.",
            style={"style": "form", "explode": False},
        ),
        INCLUDE,
    ),
)
def list_jobs() -> Response:
    """The caller's jobs, a page at a time; `ids=a,b,c` for named ones."""
    named = request.args.get("ids")
    limit, after = page_limit(), page_after(Prefix.JOB, "job")
    wanted = JobFilter(_status(), _text("model"), _metadata())
    order = request.args.get("order", "desc")
    if order not in {"asc", "desc"}:
        raise ApiError(400, "'order' must be asc or desc.", param="order")
    if named is not None:
        return _named(named.split(","))
    page = state().readers.run(
        jobs.page,
        caller().account_id,
        # One more than asked for tells whether there is a next page.
        limit=limit + 1,
        wanted=wanted,
        after=after,
        ascending=order == "asc",
        with_result=_includes_result(),
    )
    shown = [job_json(job) for job in page[:limit]]
    return _json(list_json(shown, has_more=len(page) > limit))


@blueprint.post("/v1/jobs/<job_id>/cancel")
@documented("Jobs", {200: Answer("The job now.", Job)}, errors=(409,))
def cancel_job(job_id: str) -> Response:
    """Cancels at once what has not been cut yet; asks for the rest."""
    parts, job_uuid = state(), ids.parse(Prefix.JOB, job_id)
    if job_uuid is None:
        raise _not_found()
    outcome: Cancellation = parts.readers.run(cancellation.cancel, caller().account_id, job_uuid)
    if outcome is Cancellation.NOT_FOUND:
        raise _not_found()
    if outcome is Cancellation.TOO_LATE:
        raise ApiError(409, "The job has ended already.", headers=DO_NOT_RETRY)
    if outcome is Cancellation.DONE:
        in_background(parts.readers.run, endings.notify)
        in_background(parts.bell.ring, Actor.DELIVER_WEBHOOKS)
    if outcome is Cancellation.ASKED:
        in_background(parts.bell.ring, Actor.CANCEL_BATCHES)
    return _json(job_json(find_job(Prefix.JOB, job_id)))


@blueprint.delete("/v1/jobs/<job_id>")
@documented("Jobs", {200: Answer("They are gone.", DeletedJob)}, errors=(409,))
def delete_job(job_id: str) -> Response:
    """Removes the texts of a job that has ended; the job and its bill stay."""
    job_uuid = ids.parse(Prefix.JOB, job_id)
    if job_uuid is None:
        raise _not_found()
    deletion = state().readers.run(jobs.delete_texts, caller().account_id, job_uuid)
    if deletion is Deletion.NOT_FOUND:
        raise _not_found()
    if deletion is Deletion.TOO_EARLY:
        raise ApiError(409, "The job has not ended yet.", headers=DO_NOT_RETRY)
    return _json({"id": job_id, "object": "job", "deleted": True})


def find_job(prefix: Prefix, outside_id: str) -> JobView:
    """The caller's job of that id; raises the 404."""
    job_id = ids.parse(prefix, outside_id)
    if job_id is None:
        raise _not_found()
    return _read(state(), job_id)


def _read(parts: State, job_id: UUID) -> JobView:
    found = parts.readers.run(jobs.get, caller().account_id, [job_id])
    if not found:
        raise _not_found()
    return found[0]


def _wait(parts: State, job: JobView, seconds: int) -> JobView:
    until = time.monotonic() + seconds
    while not job.is_final and (left := until - time.monotonic()) > 0:
        if parts.waiters.dismissed:
            break
        parts.waiters.wait(job.id, left)
        job = _read(parts, job.id)
    return job


def result(job: JobView) -> Stored:
    """Exactly the completion, or 202 and what was answered first; raises how else it ended."""
    if not job.is_final:
        headers = {"Retry-After": str(POLL_AFTER_SECONDS), "X-Lane": job.lane}
        return Stored(202, headers, orjson.dumps(accepted_json(job)))
    if job.result is None or job.http_status is None:
        raise ApiError(404, "The job's texts have been deleted.", headers=DO_NOT_RETRY)
    if job.status is not JobStatus.COMPLETED:
        error = orjson.loads(job.result)
        raise ApiError(
            job.http_status, error["message"], error_type=error["type"], headers=DO_NOT_RETRY
        )
    headers = {"X-Lane": job.lane}
    if job.charged_nanos is not None:
        headers["X-Cost-Usd"] = format_usd(job.charged_nanos)
    return Stored(200, headers, job.result)


def _named(names: list[str]) -> Response:
    if len(names) > IDS_MOST:
        raise ApiError(400, f"'ids' names {IDS_MOST} jobs at most.", param="ids")
    known = [job_id for name in names if (job_id := ids.parse(Prefix.JOB, name)) is not None]
    found = state().readers.run(
        jobs.get, caller().account_id, known, with_result=_includes_result()
    )
    return _json(list_json([job_json(job) for job in found], has_more=False))


def _text(name: str) -> str | None:
    text = request.args.get(name)
    if text is not None and "\x00" in text:
        raise ApiError(400, f"'{name}' must not hold a NUL.", param=name)
    return text


def _includes_result() -> bool:
    included = [*request.args.getlist("include"), *request.args.getlist("include[]")]
    if any(each != "result" for each in included):
        raise ApiError(400, "'include' may be result.", param="include")
    return bool(included)


def _metadata() -> dict[str, str]:
    """The pairs that `metadata[key]=value` asks for."""
    wanted: dict[str, str] = {}
    for name in request.args:
        key = re.fullmatch(r"metadata\[([^\x00\[\]]+)\]", name)
        if key:
            wanted[key[1]] = _text(name) or ""
        elif name == "metadata" or name.startswith("metadata["):
            raise ApiError(400, "Ask for metadata as 'metadata[key]=value'.", param="metadata")
    return wanted


def _status() -> JobStatus | None:
    text = request.args.get("status")
    if text is None:
        return None
    try:
        return JobStatus(text)
    except ValueError:
        known = ", ".join(JobStatus)
        raise ApiError(400, f"'status' must be one of {known}.", param="status") from None


def _not_found() -> ApiError:
    return ApiError(404, "There is no such job.")


def _json(body: object, status: int = 200) -> Response:
    return Response(orjson.dumps(body), status, mimetype="application/json")
