"""A call that is being made becomes a job: the same call, under the same hold."""

from sqlalchemy import text
from sqlalchemy.orm import Session

from gateway.calls import idempotency
from gateway.calls.intake import Intake, Submission

_KEEP_HOLD = text(
    """
    UPDATE holds SET expires_at = NULL
    WHERE id = :job_id AND status = 'open' AND expires_at IS NOT NULL RETURNING id
    """
)
# It is at its provider since it came.
_UNDER_WAY = text(
    "UPDATE jobs SET status = 'in_progress', submitted_at = created_at WHERE id = :job_id"
)


class HoldGone(Exception):
    """The call's hold has been resolved: it is over, and no job can come of it."""


def become_job(session: Session, submission: Submission) -> None:
    """Writes the job of a call whose ceiling is held under the job's id. Raises HoldGone.

    Keys before holds, as in everything that locks both.
    """
    if submission.keyed is not None:
        idempotency.answer(session, submission.keyed, submission.answer)
    if session.execute(_KEEP_HOLD, {"job_id": submission.job_id}).first() is None:
        raise HoldGone
    Intake().write(session, [submission])
    session.execute(_UNDER_WAY, {"job_id": submission.job_id})
