"""What result lines come to: the job's end and its price, worked out before any row is locked.

Of a line's job only what never changes is read here, so that all of this can be done while the
chunk before is still being written. Whether the line counts, the locks decide.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import Engine

from gateway.billing.ledger import Charge
from gateway.billing.pricing import PriceBook, amounts
from gateway.catalogue.rates import PriceSnapshot
from gateway.catalogue.usage import Usage
from gateway.lanes import endings
from gateway.lanes.endings import Ending
from gateway.lanes.records import BatchRecord, custom_id, split_custom_id
from gateway.providers.dialect import LineOutcome, LineResult
from models.bulk import UuidArray, fetch_rows, hex_array
from models.session import transaction

log = logging.getLogger(__name__)

LARGEST_COUNT = 2**31 - 1
"""Tokens that a settlement's column can hold, and far more than any call can use."""


class Answer(NamedTuple):
    """How a line ended, and the end that this is for its job; None if it is to try again."""

    outcome: LineOutcome
    ending: Ending | None

    @property
    def cost_nanos(self) -> int:
        """What the provider charges for it, as far as is known."""
        charge = None if self.ending is None else self.ending.charge
        return 0 if charge is None or charge.amounts is None else charge.amounts.cost_nanos


class Chunk(NamedTuple):
    """What some lines of a file come to: the jobs that they name, and the batch's answers.

    By job, for none is in a batch twice.
    """

    job_ids: UuidArray
    answers: Mapping[UUID, Answer]


class _Line(NamedTuple):
    """What a line's job was accepted with."""

    job_id: UUID
    round: int
    model: str
    price_id: str
    markup_bps: int


_LINES = """
    SELECT jobs.id, lines.round, jobs.model, jobs.price_id, jobs.markup_bps
    FROM lines JOIN jobs ON jobs.id = lines.job_id
    WHERE lines.batch_id = %(batch_id)s AND lines.job_id = ANY(%(job_ids)s::uuid[])
"""


def work_out(
    engine: Engine, prices: PriceBook, batch: BatchRecord, lines: Sequence[LineResult]
) -> Chunk:
    """The answers to lines of the batch; the first counts where a name comes twice."""
    results: dict[str, LineResult] = {}
    for result in lines:
        results.setdefault(result.custom_id, result)
    named = filter(None, map(split_custom_id, results))
    job_ids = hex_array(job_id for job_id, _ in named)
    with transaction(engine) as session:
        found = fetch_rows(session, _LINES, {"batch_id": batch.id, "job_ids": job_ids})
        known = list(map(_Line._make, found))
        snapshots = prices.load(session, {line.price_id for line in known})
    answers = dict(_answers(batch, known, results, snapshots))
    unknown, repeated = len(results) - len(answers), len(lines) - len(results)
    if unknown or repeated:
        strange = {"unknown": unknown, "repeated": repeated}
        log.warning("batch.strange_lines", extra={"batch_id": str(batch.id), **strange})
    return Chunk(job_ids, answers)


def _answers(
    batch: BatchRecord,
    lines: Iterable[_Line],
    results: Mapping[str, LineResult],
    snapshots: Mapping[str, PriceSnapshot],
) -> Iterable[tuple[UUID, Answer]]:
    for line in lines:
        result = results.get(custom_id(line.job_id, line.round))
        if result is not None:
            yield line.job_id, Answer(result.outcome, _ending(batch, line, result, snapshots))


def _ending(
    batch: BatchRecord, line: _Line, result: LineResult, snapshots: Mapping[str, PriceSnapshot]
) -> Ending | None:
    if result.outcome is LineOutcome.SUCCEEDED:
        assert result.body is not None
        charge = _charge(batch, line, result.usage, snapshots[line.price_id])
        return endings.completed(line.job_id, line.model, result.body, charge)
    if result.outcome is LineOutcome.REJECTED:
        return endings.rejected(line.job_id, result.error or "The provider refused it.")
    return None


def _charge(
    batch: BatchRecord, line: _Line, usage: Usage | None, snapshot: PriceSnapshot
) -> Charge:
    """What an answer costs; without amounts if its usage was not told or cannot be true."""
    if usage is not None and max(usage.input_total, usage.output, usage.reasoning) > LARGEST_COUNT:
        usage = None
    return Charge(
        hold_id=line.job_id,
        lane="batch",
        provider=batch.provider,
        model=batch.model,
        price_id=line.price_id,
        markup_bps=line.markup_bps,
        usage=usage or Usage(),
        amounts=None if usage is None else amounts(usage, snapshot, "batch", line.markup_bps),
        batch_id=batch.id,
    )
