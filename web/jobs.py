"""The jobs routes: get, wait, result, list, cancel, delete, and the stored completion."""

import re
import time
from uuid import UUID

import orjson
from flask import Blueprint, Response, request

from gateway.billing.prices import format_usd
from gateway.calls import jobs
from gateway.calls.jobs import Deletion, JobFilter, JobView
from gateway.lanes import cancellation, endings
from gateway.lanes.cancellation import Cancellation, Cancelled
from models import ids
from models.ids import Prefix
from models.states import JobStatus
from web.auth import caller
from web.errors import ApiError, error_response
from web.serialisers import accepted_json, job_json, list_json
from web.state import State, state
from web.threads import in_background
from workers.bell import Actor

blueprint = Blueprint("jobs", __name__)

LONGEST_WAIT_SECONDS = 25
POLL_AFTER_SECONDS = 30
PAGE_DEFAULT, PAGE_MOST = 20, 100
IDS_MOST = 100
LANE = "batch"
DO_NOT_RETRY = {"x-should-retry": "false"}


@blueprint.get("/v1/jobs/<job_id>")
def get_job(job_id: str) -> Response:
    """The job; with `?wait=N` as soon as it is final, or after N seconds (at most 25)."""
    wait = min(_number("wait", 0, least=0), LONGEST_WAIT_SECONDS)
    job = _job(Prefix.JOB, job_id)
    if wait and not job.is_final:
        job = _wait(state(), job, wait)
    return _json(job_json(job))


@blueprint.get("/v1/jobs/<job_id>/result")
def get_result(job_id: str) -> Response:
    """Exactly the completion; 202 until there is one."""
    return _result(_job(Prefix.JOB, job_id))


@blueprint.get("/v1/chat/completions/<completion_id>")
def get_completion(completion_id: str) -> Response:
    """The stored completion of a job, so that an SDK's `retrieve` polls."""
    return _result(_job(Prefix.COMPLETION, completion_id))


@blueprint.get("/v1/jobs")
def list_jobs() -> Response:
    """The caller's jobs, a page at a time; `ids=a,b,c` for named ones."""
    named = request.args.get("ids")
    if named is not None:
        return _named(named.split(","))
    limit = _number("limit", PAGE_DEFAULT, least=1, most=PAGE_MOST)
    order = request.args.get("order", "desc")
    if order not in {"asc", "desc"}:
        raise ApiError(400, "'order' must be asc or desc.", param="order")
    page = state().readers.run(
        jobs.page,
        caller().account_id,
        # One more than asked for tells whether there is a next page.
        limit=limit + 1,
        wanted=JobFilter(_status(), _text("model"), _metadata()),
        after=_after(),
        ascending=order == "asc",
        with_result=_includes_result(),
    )
    shown = [job_json(job) for job in page[:limit]]
    return _json(list_json(shown, has_more=len(page) > limit))


@blueprint.post("/v1/jobs/<job_id>/cancel")
def cancel_job(job_id: str) -> Response:
    """Cancels at once what has not been cut yet; asks for the rest."""
    parts, job_uuid = state(), ids.parse(Prefix.JOB, job_id)
    if job_uuid is None:
        raise _not_found()
    cancelled: Cancelled = parts.readers.run(cancellation.cancel, caller().account_id, job_uuid)
    if cancelled.outcome is Cancellation.NOT_FOUND:
        raise _not_found()
    if cancelled.outcome is Cancellation.TOO_LATE:
        raise ApiError(409, "The job has ended already.", headers=DO_NOT_RETRY)
    if cancelled.outcome is Cancellation.DONE:
        in_background(parts.readers.run, endings.notify)
        in_background(parts.bell.ring, Actor.DELIVER_WEBHOOKS)
    if cancelled.abandoned_batch is not None:
        in_background(parts.bell.ring, Actor.CANCEL_BATCH, str(cancelled.abandoned_batch))
    return _json(job_json(_job(Prefix.JOB, job_id)))


@blueprint.delete("/v1/jobs/<job_id>")
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


def _job(prefix: Prefix, outside_id: str) -> JobView:
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
        parts.waiters.wait(job.id, left)
        job = _read(parts, job.id)
    return job


def _result(job: JobView) -> Response:
    if not job.is_final:
        response = _json(accepted_json(job), 202)
        response.headers["Retry-After"] = str(POLL_AFTER_SECONDS)
        response.headers["X-Lane"] = LANE
        return response
    if job.result is None or job.http_status is None:
        return error_response(404, "The job's texts have been deleted.", headers=DO_NOT_RETRY)
    if job.status is JobStatus.COMPLETED:
        response = Response(job.result, 200, mimetype="application/json")
        response.headers["X-Lane"] = LANE
        if job.charged_nanos is not None:
            response.headers["X-Cost-Usd"] = format_usd(job.charged_nanos)
        return response
    error = orjson.loads(job.result)
    return error_response(
        job.http_status,
        error["message"],
        error_type=error["type"],
        headers=DO_NOT_RETRY,
    )


def _named(names: list[str]) -> Response:
    if len(names) > IDS_MOST:
        raise ApiError(400, f"'ids' names {IDS_MOST} jobs at most.", param="ids")
    known = [job_id for name in names if (job_id := ids.parse(Prefix.JOB, name)) is not None]
    found = state().readers.run(
        jobs.get, caller().account_id, known, with_result=_includes_result()
    )
    return _json(list_json([job_json(job) for job in found], has_more=False))


def _number(name: str, default: int, *, least: int, most: int = 10**9) -> int:
    text = request.args.get(name)
    if text is None:
        return default
    if not re.fullmatch("[0-9]{1,9}", text) or not least <= int(text) <= most:
        raise ApiError(400, f"'{name}' must be a whole number from {least} to {most}.", param=name)
    return int(text)


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
        key = re.fullmatch(r"metadata\[(.+)\]", name, re.DOTALL)
        if key:
            wanted[key[1]] = _text(name) or ""
            if "\x00" in name:
                raise ApiError(400, "A key of 'metadata' must not hold a NUL.", param="metadata")
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


def _after() -> UUID | None:
    text = request.args.get("after")
    if text is None:
        return None
    after = ids.parse(Prefix.JOB, text)
    if after is None:
        raise ApiError(400, "'after' must be the id of a job.", param="after")
    return after


def _not_found() -> ApiError:
    return ApiError(404, "There is no such job.")


def _json(body: object, status: int = 200) -> Response:
    return Response(orjson.dumps(body), status, mimetype="application/json")
