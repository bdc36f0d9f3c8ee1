"""What the database says after the fact, as tests of provider batches ask for it."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import Engine, Row, text

from gateway.billing import audit
from models.session import transaction


@dataclass
class Records:
    """Reads of one database, and raw writes where a test plays fate."""

    engine: Engine

    def rows(self, query: str, **parameters: Any) -> Sequence[Row[Any]]:
        with self.engine.connect() as connection:
            return connection.execute(text(query), parameters).all()

    def run(self, statement: str, **parameters: Any) -> None:
        with transaction(self.engine) as session:
            session.execute(text(statement), parameters)

    def batch(self, batch_id: UUID) -> Row[Any]:
        """The row, and in how many seconds it is due."""
        (row,) = self.rows(
            "SELECT *, extract(epoch FROM due_at - now())::float AS due_in "
            "FROM provider_batches WHERE id = :id",
            id=batch_id,
        )
        return row

    def batch_model(self, batch_id: UUID) -> str:
        """The model of the batch's lane."""
        model: str = self.rows(
            "SELECT model FROM lanes JOIN provider_batches AS b ON b.lane_id = lanes.id "
            "WHERE b.id = :id",
            id=batch_id,
        )[0].model
        return model

    def job(self, job_id: UUID) -> Row[Any]:
        """The row with its result, its hold and its settlement."""
        (row,) = self.rows(
            "SELECT jobs.*, job_results.http_status, job_results.body AS result, "
            "holds.status AS hold, settlements.charged_nanos, settlements.unpriced "
            "FROM jobs LEFT JOIN job_results ON job_results.job_id = jobs.id "
            "LEFT JOIN holds ON holds.id = jobs.id "
            "LEFT JOIN settlements ON settlements.id = jobs.id WHERE jobs.id = :id",
            id=job_id,
        )
        return row

    def error(self, job_id: UUID) -> dict[str, Any]:
        """What a job that ended without an answer tells."""
        error: dict[str, Any] = json.loads(self.job(job_id).result)
        return error

    def jobs(self) -> Counter[str]:
        """How many jobs there are in each state."""
        rows = self.rows("SELECT status, count(*) AS jobs FROM jobs GROUP BY status")
        return Counter({row.status: row.jobs for row in rows})

    def lines(self) -> Counter[str]:
        """How many lines there are in each state."""
        rows = self.rows("SELECT status, count(*) AS lines FROM lines GROUP BY status")
        return Counter({row.status: row.lines for row in rows})

    def batch_states(self) -> Counter[str]:
        """How many provider batches there are in each state."""
        rows = self.rows("SELECT status, count(*) AS n FROM provider_batches GROUP BY status")
        return Counter({row.status: row.n for row in rows})

    def moved(self) -> Counter[str]:
        """Nano-USD transferred, by kind; deposits left out."""
        rows = self.rows(
            "SELECT kind, sum(amount_nanos)::bigint AS nanos FROM transfers "
            "WHERE kind <> 'deposit' GROUP BY kind"
        )
        return Counter({row.kind: row.nanos for row in rows})

    def events(self) -> Counter[str]:
        """How many events there are of each type."""
        rows = self.rows("SELECT type, count(*) AS events FROM events GROUP BY type")
        return Counter({row.type: row.events for row in rows})

    def check_books(self) -> None:
        """Every invariant of the ledger holds."""
        report = audit.verify(self.engine)
        assert report.violations == []
        assert report.is_clean
