"""The life of a batch as the dialects speak it, over handler functions."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.providers.dialect import (
    Ambiguous,
    Broken,
    Rejected,
    Unavailable,
)
from tests.unit.recorder import BOTH, CHAT, CREDENTIALS, Json, Recorder, no, ok, speaking

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)


def batch_of(name: str, number: int = 1, at: datetime = NOON, ended: bool = False) -> Json:
    if name == "openai":
        return {
            "id": f"batch_{number}",
            "status": "completed" if ended else "in_progress",
            "created_at": int(at.timestamp()),
            "metadata": {"offpeak_batch": f"pbatch_{number}"},
        }
    return {
        "id": f"msgbatch_{number}",
        "processing_status": "ended" if ended else "in_progress",
        "created_at": at.isoformat(),
    }


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    path = tmp_path / "spool"
    path.write_bytes(b'{"custom_id":"r-1"}\n' * 50_000)
    return path


# Uploads and creations.


def test_an_upload_is_a_multipart_form_of_known_length(spool: Path) -> None:
    recorder = Recorder(ok({"id": "file-1"}))
    dialect = speaking("openai", recorder)
    assert dialect.upload(CREDENTIALS["openai"], spool, "pbatch_1.jsonl") == "file-1"
    request = recorder.requests[0]
    body = request.content
    assert request.headers["content-length"] == str(len(body))
    boundary = request.headers["content-type"].removeprefix("multipart/form-data; boundary=")
    purpose, file = body.split(f"--{boundary}\r\n".encode())[1:]
    assert purpose == b'Content-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
    head, _, content = file.partition(b"\r\n\r\n")
    assert b'name="file"; filename="pbatch_1.jsonl"' in head
    assert content == spool.read_bytes() + f"\r\n--{boundary}--\r\n".encode()


def test_a_file_name_that_could_leave_its_header_is_refused(spool: Path) -> None:
    with pytest.raises(ValueError, match="file name"):
        speaking("openai", Recorder()).upload(CREDENTIALS["openai"], spool, 'x"\r\n.jsonl')


def test_anthropic_uploads_nothing(spool: Path) -> None:
    dialect, credential = speaking("anthropic", Recorder()), CREDENTIALS["anthropic"]
    assert dialect.upload(credential, spool, "x.jsonl") is None
    assert dialect.find_upload(credential, "x.jsonl") is None
    dialect.delete_file(credential, "x")


def test_an_interrupted_upload_is_found_by_its_name_page_by_page() -> None:
    files = [{"id": f"file-{n}", "filename": f"{n}.jsonl"} for n in range(3)]
    recorder = Recorder(
        ok({"data": files[:2], "has_more": True, "last_id": "file-1"}),
        ok({"data": files[2:], "has_more": False}),
    )
    assert speaking("openai", recorder).find_upload(CREDENTIALS["openai"], "2.jsonl") == "file-2"
    assert recorder.routes == [
        "GET /v1/files?purpose=batch&order=desc&limit=1000",
        "GET /v1/files?purpose=batch&order=desc&limit=1000&after=file-1",
    ]


def test_a_file_that_was_never_uploaded_is_not_found() -> None:
    recorder = Recorder(ok({"data": [], "has_more": True}))
    assert speaking("openai", recorder).find_upload(CREDENTIALS["openai"], "2.jsonl") is None


def create(name: str, recorder: Recorder, spool: Path) -> Any:
    file_id = "file-1" if name == "openai" else None
    dialect = speaking(name, recorder)
    return dialect.create(CREDENTIALS[name], CHAT, "pbatch_1", file_id, spool)


def test_an_openai_creation_carries_our_reference(spool: Path) -> None:
    recorder = Recorder(ok(batch_of("openai")))
    report = create("openai", recorder, spool)
    assert (report.external_id, report.batch_ref) == ("batch_1", "pbatch_1")
    assert recorder.body() == {
        "input_file_id": "file-1",
        "endpoint": "/v1/chat/completions",
        "completion_window": "24h",
        "metadata": {"offpeak_batch": "pbatch_1"},
    }


def test_an_anthropic_creation_is_the_spool_as_it_lies(spool: Path) -> None:
    recorder = Recorder(ok(batch_of("anthropic")))
    assert create("anthropic", recorder, spool).external_id == "msgbatch_1"
    request = recorder.requests[0]
    assert recorder.routes == ["POST /v1/messages/batches"]
    assert request.content == spool.read_bytes()
    assert request.headers["content-length"] == str(spool.stat().st_size)
    assert "transfer-encoding" not in request.headers


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize(
    "outcome",
    [
        no(500),
        no(529),
        httpx.Response(200, content=b'{"id": "batch_'),
        httpx.Response(200, content=b"{}"),
        httpx.ReadTimeout("x"),
        httpx.RemoteProtocolError("x"),
        httpx.WriteError("x"),
    ],
)
def test_a_creation_that_may_have_happened_is_ambiguous_and_not_repeated(
    name: str, outcome: httpx.Response | Exception, spool: Path
) -> None:
    recorder = Recorder(outcome)
    with pytest.raises(Ambiguous):
        create(name, recorder, spool)
    assert len(recorder.requests) == 1


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize("outcome", [no(429), httpx.ConnectError("x"), no(400, "Cannot find file")])
def test_a_creation_that_did_not_happen_is_unavailable(
    name: str, outcome: httpx.Response | Exception, spool: Path
) -> None:
    with pytest.raises(Unavailable):
        create(name, Recorder(outcome), spool)


@pytest.mark.parametrize(
    "outcome", [httpx.ReadTimeout("x"), no(502), httpx.Response(200, content=b"{}")]
)
def test_an_upload_that_may_have_happened_is_ambiguous(
    outcome: httpx.Response | Exception, spool: Path
) -> None:
    with pytest.raises(Ambiguous):
        speaking("openai", Recorder(outcome)).upload(CREDENTIALS["openai"], spool, "x.jsonl")


# Looking after batches.


@pytest.mark.parametrize("name", BOTH)
def test_a_batch_that_the_provider_does_not_know_is_none(name: str) -> None:
    dialect, credential = speaking(name, Recorder(no(404), no(400))), CREDENTIALS[name]
    assert dialect.get_batch(credential, "gone") is None
    with pytest.raises(Rejected):
        dialect.get_batch(credential, "refused")


def test_ids_cannot_leave_their_place_in_a_path() -> None:
    recorder = Recorder(ok(batch_of("openai")))
    speaking("openai", recorder).get_batch(CREDENTIALS["openai"], "../files?x=1")
    assert recorder.routes == ["GET /v1/batches/..%2Ffiles%3Fx%3D1"]


@pytest.mark.parametrize(("name", "cursor"), [("openai", "after"), ("anthropic", "after_id")])
def test_listing_stops_where_batches_are_older_than_asked_for(name: str, cursor: str) -> None:
    ages = [timedelta(minutes=minutes) for minutes in (1, 9, 14, 16, 30)]
    batches = [batch_of(name, number, NOON - age) for number, age in enumerate(ages)]
    pages = [batches[:2], batches[2:4], batches[4:]]
    recorder = Recorder(*(ok({"data": p, "has_more": True, "last_id": p[-1]["id"]}) for p in pages))
    since = NOON - timedelta(minutes=10)
    listed = speaking(name, recorder).list_batches(CREDENTIALS[name], since)
    # Five minutes of grace for two clocks that differ.
    assert [report.external_id for report in listed] == [batch["id"] for batch in batches[:3]]
    assert len(recorder.routes) == 2
    assert recorder.routes[1].endswith(f"&{cursor}={batches[1]['id']}")


@pytest.mark.parametrize("name", BOTH)
def test_a_list_that_never_ends_is_broken(name: str) -> None:
    page = {"data": [batch_of(name)], "has_more": True, "last_id": "same"}
    dialect = speaking(name, Recorder(ok(page), ok(page), ok(page)))
    with pytest.raises(Broken):
        list(dialect.list_batches(CREDENTIALS[name], NOON))


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize("status", [400, 409])
def test_cancelling_what_has_ended_is_no_error(name: str, status: int) -> None:
    recorder = Recorder(no(status), ok(batch_of(name, ended=True)))
    speaking(name, recorder).cancel_batch(CREDENTIALS[name], "b")
    assert [route.split()[0] for route in recorder.routes] == ["POST", "GET"]
    assert recorder.routes[0].endswith("/batches/b/cancel")


@pytest.mark.parametrize("name", BOTH)
def test_a_refusal_to_cancel_what_still_runs_is_an_error(name: str) -> None:
    with pytest.raises(Rejected):
        speaking(name, Recorder(no(400), ok(batch_of(name)))).cancel_batch(CREDENTIALS[name], "b")
    with pytest.raises(Unavailable):
        speaking(name, Recorder(no(503))).cancel_batch(CREDENTIALS[name], "b")


RESULT_ROUTES = {
    "openai": "GET /v1/files/f-1/content",
    "anthropic": "GET /v1/messages/batches/f-1/results",
}


@pytest.mark.parametrize("name", BOTH)
def test_a_download_is_streamed_to_its_file(name: str, tmp_path: Path) -> None:
    content = b"line\n" * 300_000
    recorder = Recorder(httpx.Response(200, content=content))
    speaking(name, recorder).download(CREDENTIALS[name], "f-1", tmp_path / "out")
    assert recorder.routes == [RESULT_ROUTES[name]]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out").read_bytes() == content


class CutShort(httpx.SyncByteStream):
    def __iter__(self) -> Any:
        yield b"some"
        raise httpx.RemoteProtocolError("peer closed connection")


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (lambda: httpx.Response(200, stream=CutShort()), Broken),
        (lambda: httpx.Response(200, headers={"Content-Length": "9"}, content=b"some"), Broken),
        (lambda: no(404), Rejected),
        (lambda: no(503), Unavailable),
        (lambda: httpx.ReadTimeout("x"), Unavailable),
    ],
)
@pytest.mark.parametrize("name", BOTH)
def test_a_download_that_failed_leaves_nothing_behind(
    name: str,
    answer: Callable[[], httpx.Response | Exception],
    kind: type[Exception],
    tmp_path: Path,
) -> None:
    with pytest.raises(kind):
        speaking(name, Recorder(answer())).download(CREDENTIALS[name], "f-1", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_deleting_a_file_that_is_gone_is_no_error() -> None:
    recorder = Recorder(ok({"id": "f", "deleted": True}), no(404), no(500))
    dialect, credential = speaking("openai", recorder), CREDENTIALS["openai"]
    dialect.delete_file(credential, "f")
    dialect.delete_file(credential, "f")
    with pytest.raises(Unavailable):
        dialect.delete_file(credential, "f")
