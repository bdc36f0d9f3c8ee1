"""What ends a job costs less: triggers after the row, room beside holds, one index fewer."""

from alembic import op

revision = "0004"
down_revision = "0003"

PAIRS = {
    "jobs": "cancelling>cancelled cancelling>completed cancelling>expired cancelling>failed "
    "in_progress>cancelled in_progress>cancelling in_progress>completed in_progress>expired "
    "in_progress>failed in_progress>queued queued>cancelled queued>cancelling queued>completed "
    "queued>expired queued>failed queued>in_progress queued>submitted submitted>cancelling "
    "submitted>completed submitted>expired submitted>failed submitted>in_progress "
    "submitted>queued",
    "provider_batches": "formed>done formed>uploading in_doubt>done in_doubt>formed "
    "in_doubt>submitted in_progress>done in_progress>formed in_progress>ingesting ingesting>done "
    "submitted>done submitted>formed submitted>in_progress submitted>ingesting submitting>done "
    "submitting>formed submitting>in_doubt submitting>submitted uploading>done uploading>formed "
    "uploading>submitting",
    "lines": "open>failed open>late open>returned open>succeeded open>withdrawn",
    "holds": "open>posted open>voided",
    "deliveries": "delivered>pending failed>pending pending>delivered pending>failed",
}


def upgrade() -> None:
    # Each by itself, and fit to be repeated: whoever held the lock of one table while it waited for
    # that of another would meet traffic that takes them the other way round.
    with op.get_context().autocommit_block():
        for table, pairs in PAIRS.items():
            # In the place of the trigger of the same name: no row goes unchecked in between.
            op.execute(
                f"CREATE OR REPLACE TRIGGER check_transition AFTER UPDATE OF status ON {table} "
                "FOR EACH ROW WHEN (OLD.status IS DISTINCT FROM NEW.status "
                "AND position(' ' || OLD.status || '>' || NEW.status || ' ' "
                f"IN ' {pairs} ') = 0) EXECUTE FUNCTION refuse_transition()"
            )
        # No row is touched: pages that are written from here on are filled less.
        op.execute("ALTER TABLE holds SET (fillfactor = 45)")
        # Nothing reads by it.
        op.execute("DROP INDEX IF EXISTS ix_request_log_account")
