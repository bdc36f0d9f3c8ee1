"""Downloaded result files, read a bounded number of lines at a time."""

import logging
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from gateway.providers.dialect import Broken, LineResult

log = logging.getLogger(__name__)

T = TypeVar("T")

CHUNK_LINES = 2000
"""PostgreSQL makes a slot for each of the first few hundred rows of a COPY, and each takes longer
than the one before: twice as many lines to a chunk take off most of what that costs a line."""
CHUNK_BYTES = 4_000_000
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def read_chunks(path: Path, parse: Callable[[bytes], LineResult]) -> Iterator[list[LineResult]]:
    """The readable lines of a downloaded file, a bounded number at a time.

    The others are counted and logged.
    """
    unreadable = size = 0
    chunk: list[LineResult] = []
    with path.open("rb") as file:
        for line in file:
            content = line.removeprefix(BYTE_ORDER_MARK).strip()
            if not content:
                continue
            try:
                chunk.append(parse(content))
            except Broken:
                unreadable += 1
            size += len(content)
            if len(chunk) >= CHUNK_LINES or size >= CHUNK_BYTES:
                yield chunk
                chunk, size = [], 0
    if chunk:
        yield chunk
    if unreadable:
        log.error("batch.unreadable_lines", extra={"lines": unreadable, "alert": True})


def ahead(items: Iterator[T]) -> Generator[T, None, None]:
    """The same items, each made by a thread while the one before it is in use."""
    with ThreadPoolExecutor(1, thread_name_prefix="ahead") as thread:
        following = thread.submit(next, items, None)
        while (item := following.result()) is not None:
            following = thread.submit(next, items, None)
            yield item
