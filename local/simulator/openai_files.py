"""OpenAI's file routes, under `/v1/files`."""

from pathlib import Path
from typing import Any, Final

from flask import Blueprint, Response, request
from werkzeug.datastructures import FileStorage

from local.simulator.errors import ApiError, invalid
from local.simulator.paging import limit_of, page_after
from local.simulator.store import BATCH_FILE_LIFE_SECONDS, Store, StoredFile
from local.simulator.web import current_key, download, json_response

MAX_FILE_BYTES: Final = 512 * 1024 * 1024
MAX_BATCH_FILE_BYTES: Final = 200 * 1024 * 1024
_PURPOSES: Final = ("assistants", "batch", "fine-tune", "vision", "user_data", "evals")
EXPIRES_AFTER_SECONDS: Final = range(3600, 2_592_001)


class FileRoutes:
    """Upload, list, look at, download and delete."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def add_to(self, routes: Blueprint) -> None:
        for rule, name, view, method in (
            ("/files", "file_upload", self.upload, "POST"),
            ("/files", "file_list", self.list_files, "GET"),
            ("/files/<file_id>", "file_get", self.get, "GET"),
            ("/files/<file_id>", "file_delete", self.delete, "DELETE"),
            ("/files/<file_id>/content", "file_content", self.content, "GET"),
        ):
            routes.add_url_rule(rule, name, view, methods=[method])

    def upload(self) -> Response:
        purpose, file = request.form.get("purpose"), request.files.get("file")
        if purpose not in _PURPOSES:
            raise invalid(f"'{purpose}' is not one of {list(_PURPOSES)} - 'purpose'", "purpose")
        if file is None or not file.filename:
            raise invalid("'file' is a required property", "file", "missing_required_parameter")
        if purpose == "batch" and not file.filename.endswith(".jsonl"):
            raise invalid("Invalid file format for Batch API. Must be .jsonl")
        life_seconds = _life_seconds(purpose)
        arrived = self._arrived(file, purpose)
        stored = self._store.add_file(current_key(), file.filename, purpose, arrived, life_seconds)
        return json_response(_shown(stored))

    def _arrived(self, file: FileStorage, purpose: str) -> Path:
        """The upload on disk; werkzeug has spooled it there while it came in."""
        path = self._store.scratch_path()
        file.save(path)
        limit_bytes = MAX_BATCH_FILE_BYTES if purpose == "batch" else MAX_FILE_BYTES
        if path.stat().st_size > limit_bytes:
            path.unlink()
            raise invalid("File is too large.")
        return path

    def list_files(self) -> Response:
        limit = limit_of(request.args.get("limit"), 10_000, 10_000)
        purpose, order = request.args.get("purpose"), request.args.get("order", "desc")
        if order not in ("asc", "desc"):
            raise invalid("Invalid 'order': asc or desc.", "order", "invalid_value")
        files = [
            stored
            for stored in self._store.files.values()
            if stored.key == current_key() and purpose in (None, stored.purpose)
        ]
        ordered = files if order == "asc" else files[::-1]
        page, has_more = page_after(ordered, limit, request.args.get("after"), "after")
        return json_response(
            {
                "object": "list",
                "data": [_shown(stored) for stored in page],
                "first_id": page[0].id if page else None,
                "last_id": page[-1].id if page else None,
                "has_more": has_more,
            }
        )

    def get(self, file_id: str) -> Response:
        return json_response(_shown(self._file(file_id)))

    def content(self, file_id: str) -> Response:
        stored = self._file(file_id)
        return download(self._store.file_path(stored.id), "application/octet-stream")

    def delete(self, file_id: str) -> Response:
        self._store.delete_file(self._file(file_id))
        return json_response({"id": file_id, "object": "file", "deleted": True})

    def _file(self, file_id: str) -> StoredFile:
        stored = self._store.file(current_key(), file_id)
        if stored is None:
            raise ApiError(404, f"No such File object: {file_id}", param="id")
        return stored


def _life_seconds(purpose: str) -> int | None:
    anchor = request.form.get("expires_after[anchor]")
    seconds = request.form.get("expires_after[seconds]")
    if anchor is None and seconds is None:
        return BATCH_FILE_LIFE_SECONDS if purpose == "batch" else None
    wanted = int(seconds) if seconds and seconds.isascii() and seconds.isdigit() else 0
    if anchor != "created_at" or wanted not in EXPIRES_AFTER_SECONDS:
        message = "Invalid 'expires_after': anchor 'created_at', 3600 to 2592000 seconds."
        raise invalid(message, "expires_after")
    return wanted


def _shown(stored: StoredFile) -> dict[str, Any]:
    return {
        "id": stored.id,
        "object": "file",
        "bytes": stored.size_bytes,
        "created_at": int(stored.created_at),
        "expires_at": stored.expires_at,
        "filename": stored.filename,
        "purpose": stored.purpose,
        "status": "processed",
        "status_details": None,
    }
