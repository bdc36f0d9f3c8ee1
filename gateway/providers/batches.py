"""What listing, creating and cancelling batches have in common, whoever the provider is."""

from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timedelta

from gateway.providers.dialect import (
    Ambiguous,
    BatchReport,
    BatchState,
    Broken,
    ProviderError,
    Rejected,
    Unavailable,
)
from gateway.providers.fields import JsonObject, items, mapping, text

_CLOCK_SKEW = timedelta(minutes=5)
_OVER = frozenset({BatchState.CANCELLING, BatchState.ENDED, BatchState.FAILED})


def every_item(page: Callable[[str | None], JsonObject]) -> Iterator[JsonObject]:
    """All items of a paged list; `page` fetches what follows the given id, None being the start."""
    cursor: str | None = None
    while True:
        answer = page(cursor)
        data = [mapping(item) for item in items(answer.get("data"))]
        yield from data
        if not data or answer.get("has_more") is not True:
            return
        following = text(answer.get("last_id")) or text(data[-1].get("id"))
        if following is None or following == cursor:
            raise Broken("a list says that it has more and not where")
        cursor = following


def not_older(reports: Iterable[BatchReport], moment: datetime) -> Iterator[BatchReport]:
    """Of a list that is newest first, what is not older than `moment` by either one's clock."""
    oldest = moment - _CLOCK_SKEW
    for report in reports:
        if report.created_at < oldest:
            return
        yield report


def read_created(read: Callable[[JsonObject], BatchReport], answer: JsonObject) -> BatchReport:
    """The report on a batch just created. It exists even if its object cannot be read."""
    try:
        return read(answer)
    except Broken as error:
        raise Ambiguous(error.message) from error


def cancel_unless_over(
    cancel: Callable[[], object], look: Callable[[], BatchReport | None]
) -> None:
    """Cancels; a refusal counts as done if the batch is over or on its way there.

    Providers do not document with which status they refuse to cancel what has ended.
    """
    try:
        cancel()
    except (Rejected, Unavailable) as refusal:
        if refusal.status not in (400, 409, 422) or not _is_over(look()):
            raise


def _is_over(report: BatchReport | None) -> bool:
    return report is not None and report.state in _OVER


def is_gone(error: ProviderError) -> bool:
    """Whether the provider says that it has no such thing, or no longer."""
    return error.status in (404, 410)
