"""The first schema."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None

TRIGGERS = (
    """
CREATE TABLE request_log_default PARTITION OF request_log DEFAULT
""",
    """
CREATE OR REPLACE FUNCTION refuse_transition() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% may not go from % to %', TG_TABLE_NAME, OLD.status, NEW.status
        USING ERRCODE = 'check_violation';
END $$
""",
    "CREATE TRIGGER check_transition BEFORE UPDATE OF status ON jobs FOR EACH ROW WHEN "
    "(OLD.status IS DISTINCT FROM NEW.status AND position(' ' || OLD.status || '>' || "
    "NEW.status || ' ' IN ' cancelling>cancelled cancelling>completed cancelling>expired "
    "cancelling>failed in_progress>cancelled in_progress>cancelling in_progress>completed "
    "in_progress>expired in_progress>failed in_progress>queued queued>cancelled "
    "queued>cancelling queued>completed queued>expired queued>failed queued>in_progress "
    "queued>submitted submitted>cancelling submitted>completed submitted>expired "
    "submitted>failed submitted>in_progress submitted>queued ') = 0) EXECUTE FUNCTION "
    "refuse_transition()",
    "CREATE TRIGGER check_transition BEFORE UPDATE OF status ON provider_batches FOR EACH "
    "ROW WHEN (OLD.status IS DISTINCT FROM NEW.status AND position(' ' || OLD.status || "
    "'>' || NEW.status || ' ' IN ' formed>done formed>uploading in_doubt>done "
    "in_doubt>formed in_doubt>submitted in_progress>done in_progress>formed "
    "in_progress>ingesting ingesting>done submitted>done submitted>formed "
    "submitted>in_progress submitted>ingesting submitting>done submitting>formed "
    "submitting>in_doubt submitting>submitted uploading>done uploading>formed "
    "uploading>submitting ') = 0) EXECUTE FUNCTION refuse_transition()",
    "CREATE TRIGGER check_transition BEFORE UPDATE OF status ON lines FOR EACH ROW WHEN "
    "(OLD.status IS DISTINCT FROM NEW.status AND position(' ' || OLD.status || '>' || "
    "NEW.status || ' ' IN ' open>failed open>late open>returned open>succeeded "
    "open>withdrawn ') = 0) EXECUTE FUNCTION refuse_transition()",
    "CREATE TRIGGER check_transition BEFORE UPDATE OF status ON holds FOR EACH ROW WHEN "
    "(OLD.status IS DISTINCT FROM NEW.status AND position(' ' || OLD.status || '>' || "
    "NEW.status || ' ' IN ' open>posted open>voided ') = 0) EXECUTE FUNCTION "
    "refuse_transition()",
    "CREATE TRIGGER check_transition BEFORE UPDATE OF status ON deliveries FOR EACH ROW "
    "WHEN (OLD.status IS DISTINCT FROM NEW.status AND position(' ' || OLD.status || '>' "
    "|| NEW.status || ' ' IN ' delivered>pending failed>pending pending>delivered "
    "pending>failed ') = 0) EXECUTE FUNCTION refuse_transition()",
    """
CREATE OR REPLACE FUNCTION check_settlements() RETURNS trigger LANGUAGE plpgsql
SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off AS $$
BEGIN
    IF EXISTS (
        SELECT 1 FROM written WHERE NOT EXISTS (
            SELECT 1 FROM holds WHERE holds.id = written.id AND holds.status = 'posted')
    ) THEN
        RAISE EXCEPTION 'a settlement is of a hold that has been posted'
            USING ERRCODE = 'foreign_key_violation';
    END IF;
    RETURN NULL;
END $$
""",
    "CREATE TRIGGER check_settlements AFTER INSERT ON settlements REFERENCING NEW TABLE "
    "AS written FOR EACH STATEMENT EXECUTE FUNCTION check_settlements()",
    """
CREATE OR REPLACE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'rows of % are neither changed nor deleted', TG_TABLE_NAME
        USING ERRCODE = 'integrity_constraint_violation';
END $$
""",
    "CREATE TRIGGER refuse_change BEFORE UPDATE OR DELETE ON audit_log FOR EACH STATEMENT "
    "EXECUTE FUNCTION refuse_change()",
)


def upgrade() -> None:
    op.create_table(
        "accounts",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("webhook_secret", sa.LargeBinary(), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_accounts")),
    )
    op.create_table(
        "audit_log",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("account_id", sa.Uuid(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("target_id", sa.Text(), nullable=False),
        sa.Column("changes", postgresql.JSONB(), nullable=False),
        sa.Column(
            "actor_kind",
            sa.Enum(
                "api_key",
                "operator",
                name="actor_kind",
                native_enum=False,
                create_constraint=True,
                length=32,
            ),
            nullable=False,
        ),
        sa.Column("actor_key_id", sa.Uuid(), nullable=True),
        sa.Column("actor_name", sa.Text(), nullable=True),
        sa.Column("remote_address", sa.Text(), nullable=True),
        sa.Column("request_id", sa.Text(), nullable=True),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.CheckConstraint(
            "(actor_kind = 'api_key') = (actor_key_id IS NOT NULL)", name=op.f("ck_audit_log_key")
        ),
        sa.CheckConstraint(
            "(actor_kind = 'operator') = (actor_name IS NOT NULL)",
            name=op.f("ck_audit_log_operator"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit_log")),
    )
    op.create_index("ix_audit_log_account", "audit_log", ["account_id", "id"], unique=False)
    op.create_table(
        "batch_cancellations",
        sa.Column("batch_id", sa.Uuid(), nullable=False),
        sa.Column("overdue", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column(
            "due_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False
        ),
        sa.Column("asked_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("batch_id", name=op.f("pk_batch_cancellations")),
    )
    op.create_index(
        "ix_batch_cancellations_due",
        "batch_cancellations",
        ["due_at"],
        unique=False,
        postgresql_where=sa.text("asked_at IS NULL"),
    )
    op.create_table(
        "daily_usage",
        sa.Column("account_id", sa.Uuid(), nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("key_id", sa.Uuid(), nullable=False),
        sa.Column("provider", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("lane", sa.Text(), nullable=False),
        sa.Column(
            "surface",
            sa.Enum(
                "sync",
                "async",
                name="surface",
                native_enum=False,
                create_constraint=True,
                length=32,
            ),
            nullable=False,
        ),
        sa.Column("calls", sa.BigInteger(), nullable=False),
        sa.Column("unpriced_calls", sa.BigInteger(), nullable=False),
        sa.Column("input_uncached", sa.BigInteger(), nullable=False),
        sa.Column("cache_read", sa.BigInteger(), nullable=False),
        sa.Column("cache_write", sa.BigInteger(), nullable=False),
        sa.Column("output", sa.BigInteger(), nullable=False),
        sa.Column("reasoning", sa.BigInteger(), nullable=False),
        sa.Column("held_nanos", sa.BigInteger(), nullable=False),
        sa.Column("paid_nanos", sa.BigInteger(), nullable=False),
        sa.Column("list_nanos", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint(
            "account_id",
            "day",
            "key_id",
            "provider",
            "model",
            "lane",
            "surface",
            name=op.f("pk_daily_usage"),
        ),
        postgresql_with={"fillfactor": "50"},
    )
    op.create_table(
        "events",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("account_id", sa.Uuid(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("job_id", sa.Uuid(), nullable=True),
        sa.Column("data", postgresql.JSONB(), nullable=True),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.CheckConstraint("(job_id IS NULL) = (data IS NOT NULL)", name=op.f("ck_events_subject")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_events")),
    )
    op.create_table(
        "holds",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("account_id", sa.Uuid(), nullable=False),
        sa.Column("key_id", sa.Uuid(), nullable=False),
        sa.Column("amount_nanos", sa.BigInteger(), nullable=False),
        sa.Column(
            "status",
            sa.Enum(
                "open",
                "posted",
                "voided",
                name="status",
                native_enum=False,
                create_constraint=True,
                length=32,
            ),
            nullable=False,
        ),
        sa.Column(
            "held_on",
            sa.Date(),
            server_default=sa.text("(now() AT TIME ZONE 'UTC')::date"),
            nullable=False,
        ),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("resolved_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "(status = 'open') = (resolved_at IS NULL)", name=op.f("ck_holds_resolved")
        ),
        sa.CheckConstraint("amount_nanos >= 0", name=op.f("ck_holds_amount")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_holds")),
    )
    op.create_index(
        "ix_holds_expiring",
        "holds",
        ["expires_at"],
        unique=False,
        postgresql_where=sa.text("status = 'open' AND expires_at IS NOT NULL"),
    )
    op.create_index(
        "ix_holds_open",
        "holds",
        ["account_id"],
        unique=False,
        postgresql_where=sa.text("status = 'open'"),
    )
    op.create_table(
        "idempotency_keys",
        sa.Column("account_id", sa.Uuid(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("body_digest", sa.LargeBinary(), nullable=False),
        sa.Column("hold_id", sa.Uuid(), nullable=False),
        sa.Column("http_status", sa.SmallInteger(), nullable=True),
        sa.Column("headers", postgresql.JSONB(), nullable=True),
        sa.Column("response", sa.LargeBinary(), nullable=True),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.CheckConstraint(
            "(response IS NULL) = (http_status IS NULL)", name=op.f("ck_idempotency_keys_answered")
        ),
        sa.PrimaryKeyConstraint("account_id", "key", name=op.f("pk_idempotency_keys")),
    )
    op.create_index("ix_idempotency_keys_created", "idempotency_keys", ["created_at"], unique=False)
    op.create_index(
        "ix_idempotency_keys_in_flight",
        "idempotency_keys",
        ["hold_id"],
        unique=False,
        postgresql_where=sa.text("response IS NULL"),
    )
    op.create_table(
        "job_bodies",
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("job_id", name=op.f("pk_job_bodies")),
    )
    op.create_table(
        "job_results",
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("http_status", sa.SmallInteger(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("job_id", name=op.f("pk_job_results")),
    )
    op.create_table(
        "jobs",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("account_id", sa.Uuid(), nullable=False),
        sa.Column("key_id", sa.Uuid(), nullable=False),
        sa.Column("lane_id", sa.Integer(), nullable=False),
        sa.Column(
            "status",
            sa.Enum(
                "queued",
                "submitted",
                "in_progress",
                "cancelling",
                "completed",
                "failed",
                "cancelled",
                "expired",
                name="status",
                native_enum=False,
                create_constraint=True,
                length=32,
            ),
            nullable=False,
        ),
        sa.Column("endpoint", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("custom_id", sa.Text(), nullable=True),
        sa.Column("source", sa.Text(), nullable=True),
        sa.Column("metadata", postgresql.JSONB(), nullable=True),
        sa.Column("webhook", postgresql.JSONB(), nullable=True),
        sa.Column("customer_batch_id", sa.Uuid(), nullable=True),
        sa.Column("batch_id", sa.Uuid(), nullable=True),
        sa.Column("round", sa.SmallInteger(), server_default="0", nullable=False),
        sa.Column("failures", sa.SmallInteger(), server_default="0", nullable=False),
        sa.Column("body_bytes", sa.Integer(), nullable=False),
        sa.Column("embedding_inputs", sa.Integer(), server_default="0", nullable=False),
        sa.Column("standard_nanos", sa.BigInteger(), nullable=False),
        sa.Column("max_cost_nanos", sa.BigInteger(), nullable=True),
        sa.Column("escalate", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("price_id", sa.Text(), nullable=False),
        sa.Column("markup_bps", sa.Integer(), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column("submitted_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("cancelling_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("completed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("deadline_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("texts_deleted", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.CheckConstraint(
            "(status IN ('cancelled', 'completed', 'expired', 'failed')) = (completed_at IS NOT NULL)",
            name=op.f("ck_jobs_completed"),
        ),
        sa.CheckConstraint(
            "status <> 'submitted' OR batch_id IS NOT NULL", name=op.f("ck_jobs_batch")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_jobs")),
        postgresql_with={"fillfactor": "70"},
    )
    op.create_index("ix_jobs_account", "jobs", ["account_id", "id"], unique=False)
    op.create_index(
        "ix_jobs_deadline",
        "jobs",
        ["deadline_at"],
        unique=False,
        postgresql_where=sa.text("completed_at IS NULL"),
    )
    op.create_index(
        "ix_jobs_retention",
        "jobs",
        ["completed_at"],
        unique=False,
        postgresql_where=sa.text("completed_at IS NOT NULL AND NOT texts_deleted"),
    )
    op.create_index(
        "ix_jobs_waiting",
        "jobs",
        ["lane_id", "account_id", "id"],
        unique=False,
        postgresql_where=sa.text("batch_id IS NULL AND completed_at IS NULL"),
    )
    op.create_table(
        "key_spending",
        sa.Column("key_id", sa.Uuid(), nullable=False),
        sa.Column(
            "period",
            sa.Enum(
                "day", "month", name="period", native_enum=False, create_constraint=True, length=32
            ),
            nullable=False,
        ),
        sa.Column("starts_on", sa.Date(), nullable=False),
        sa.Column("amount_nanos", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("key_id", "period", "starts_on", name=op.f("pk_key_spending")),
        postgresql_with={"fillfactor": "50"},
    )
    op.create_table(
        "lanes",
        sa.Column("id", sa.Integer(), sa.Identity(always=False), nullable=False),
        sa.Column("provider", sa.Text(), nullable=False),
        sa.Column("credential", sa.Text(), nullable=False),
        sa.Column("endpoint", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_lanes")),
        sa.UniqueConstraint(
            "provider",
            "credential",
            "endpoint",
            "model",
            name=op.f("uq_lanes_provider_credential_endpoint_model"),
        ),
    )
    op.create_table(
        "lines",
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("round", sa.SmallInteger(), nullable=False),
        sa.Column("batch_id", sa.Uuid(), nullable=False),
        sa.Column(
            "status",
            sa.Enum(
                "open",
                "succeeded",
                "failed",
                "returned",
                "late",
                "withdrawn",
                name="status",
                native_enum=False,
                create_constraint=True,
                length=32,
            ),
            nullable=False,
        ),
        sa.PrimaryKeyConstraint("job_id", "round", name=op.f("pk_lines")),
        postgresql_with={"fillfactor": "50"},
    )
    op.create_index("ix_lines_batch", "lines", ["batch_id", "job_id"], unique=False)
    op.create_table(
        "prices",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("snapshot", postgresql.JSONB(), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_prices")),
    )
    op.create_table(
        "reconciliations",
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("provider", sa.Text(), nullable=False),
        sa.Column(
            "source",
            sa.Enum(
                "batches",
                "meter",
                "reports",
                name="source",
                native_enum=False,
                create_constraint=True,
                length=32,
            ),
            nullable=False,
        ),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("provider_requests", sa.Integer(), nullable=True),
        sa.Column("provider_input_tokens", sa.BigInteger(), nullable=True),
        sa.Column("provider_output_tokens", sa.BigInteger(), nullable=True),
        sa.Column("provider_nanos", sa.BigInteger(), nullable=False),
        sa.Column("explained_nanos", sa.BigInteger(), nullable=False),
        sa.Column("in_flight_nanos", sa.BigInteger(), nullable=False),
        sa.Column("orphaned_nanos", sa.BigInteger(), nullable=False),
        sa.Column("unexplained_nanos", sa.BigInteger(), nullable=False),
        sa.Column("excess_nanos", sa.BigInteger(), nullable=False),
        sa.Column("unexplained_requests", sa.Integer(), nullable=False),
        sa.Column("is_final", sa.Boolean(), nullable=False),
        sa.Column(
            "checked_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.CheckConstraint(
            "explained_nanos >= 0 AND in_flight_nanos >= 0 AND orphaned_nanos >= 0 AND unexplained_nanos >= 0 AND excess_nanos >= 0 AND unexplained_requests >= 0",
            name=op.f("ck_reconciliations_amounts"),
        ),
        sa.CheckConstraint(
            "provider_nanos = explained_nanos + in_flight_nanos + orphaned_nanos + unexplained_nanos",
            name=op.f("ck_reconciliations_classes"),
        ),
        sa.PrimaryKeyConstraint(
            "day", "provider", "source", "subject", name=op.f("pk_reconciliations")
        ),
    )
    op.create_index(
        "ix_reconciliations_unexplained",
        "reconciliations",
        ["day"],
        unique=False,
        postgresql_where=sa.text(
            "unexplained_nanos > 0 OR excess_nanos > 0 OR unexplained_requests > 0"
        ),
    )
    op.create_table(
        "request_log",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("account_id", sa.Uuid(), nullable=False),
        sa.Column("key_id", sa.Uuid(), nullable=False),
        sa.Column("surface", sa.Text(), nullable=False),
        sa.Column("endpoint", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("provider", sa.Text(), nullable=True),
        sa.Column("lane", sa.Text(), nullable=False),
        sa.Column("http_status", sa.SmallInteger(), nullable=False),
        sa.Column("attempts", sa.SmallInteger(), nullable=False),
        sa.Column("input_uncached", sa.Integer(), nullable=False),
        sa.Column("cache_read", sa.Integer(), nullable=False),
        sa.Column("cache_write", sa.Integer(), nullable=False),
        sa.Column("output", sa.Integer(), nullable=False),
        sa.Column("reasoning", sa.Integer(), nullable=False),
        sa.Column("charged_nanos", sa.BigInteger(), nullable=True),
        sa.Column("cost_nanos", sa.BigInteger(), nullable=True),
        sa.Column("latency_milliseconds", sa.Integer(), nullable=False),
        sa.Column("first_token_milliseconds", sa.Integer(), nullable=True),
        sa.Column("source", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", "created_at", name=op.f("pk_request_log")),
        postgresql_partition_by="RANGE (created_at)",
    )
    op.create_index(
        "ix_request_log_account", "request_log", ["account_id", "created_at"], unique=False
    )
    op.create_table(
        "settlements",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("account_id", sa.Uuid(), nullable=False),
        sa.Column("key_id", sa.Uuid(), nullable=False),
        sa.Column("lane", sa.Text(), nullable=False),
        sa.Column("provider", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("price_id", sa.Text(), nullable=False),
        sa.Column("markup_bps", sa.Integer(), nullable=False),
        sa.Column("unpriced", sa.Boolean(), nullable=False),
        sa.Column("input_uncached", sa.Integer(), server_default="0", nullable=False),
        sa.Column("cache_read", sa.Integer(), server_default="0", nullable=False),
        sa.Column("cache_write_short", sa.Integer(), server_default="0", nullable=False),
        sa.Column("cache_write_long", sa.Integer(), server_default="0", nullable=False),
        sa.Column("output", sa.Integer(), server_default="0", nullable=False),
        sa.Column("reasoning", sa.Integer(), server_default="0", nullable=False),
        sa.Column("cost_nanos", sa.BigInteger(), nullable=True),
        sa.Column("charged_nanos", sa.BigInteger(), nullable=True),
        sa.Column("list_nanos", sa.BigInteger(), nullable=True),
        sa.Column("batch_id", sa.Uuid(), nullable=True),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.CheckConstraint(
            "(charged_nanos IS NULL) = unpriced AND (cost_nanos IS NULL) = unpriced AND (list_nanos IS NULL) = unpriced",
            name=op.f("ck_settlements_priced"),
        ),
        sa.CheckConstraint(
            "input_uncached >= 0 AND cache_read >= 0 AND cache_write_short >= 0 AND cache_write_long >= 0 AND output >= 0 AND reasoning >= 0",
            name=op.f("ck_settlements_tokens"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_settlements")),
    )
    op.create_index(
        "ix_settlements_created",
        "settlements",
        ["created_at"],
        unique=False,
        postgresql_using="brin",
        postgresql_with={"autosummarize": "on"},
    )
    op.create_index(
        "ix_settlements_unpriced",
        "settlements",
        ["created_at"],
        unique=False,
        postgresql_where=sa.text("unpriced"),
    )
    op.create_table(
        "standard_runs",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("lane_id", sa.Integer(), nullable=False),
        sa.Column(
            "reason",
            sa.Enum(
                "deadline",
                "wait",
                name="reason",
                native_enum=False,
                create_constraint=True,
                length=32,
            ),
            nullable=False,
        ),
        sa.Column("epoch", sa.Integer(), server_default="0", nullable=False),
        sa.Column("leased_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column(
            "due_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False
        ),
        sa.Column("attempts", sa.SmallInteger(), server_default="0", nullable=False),
        sa.Column("failures", sa.SmallInteger(), server_default="0", nullable=False),
        sa.Column("call_milliseconds", sa.Integer(), nullable=True),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_standard_runs")),
    )
    op.create_index(
        "ix_standard_runs_due",
        "standard_runs",
        ["due_at"],
        unique=False,
        postgresql_where=sa.text("ended_at IS NULL"),
    )
    op.create_index(
        "ix_standard_runs_lane",
        "standard_runs",
        ["lane_id", "id"],
        unique=False,
        postgresql_where=sa.text("call_milliseconds IS NOT NULL"),
    )
    op.create_table(
        "ticks",
        sa.Column("task", sa.Text(), nullable=False),
        sa.Column("slot", sa.BigInteger(), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.PrimaryKeyConstraint("task", "slot", name=op.f("pk_ticks")),
    )
    op.create_table(
        "transfers",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column(
            "kind",
            sa.Enum(
                "deposit",
                "charge",
                "overrun_loss",
                "suspense",
                "suspense_return",
                "suspense_charge",
                "provider_cost",
                "unbilled_cost",
                name="kind",
                native_enum=False,
                create_constraint=True,
                length=32,
            ),
            nullable=False,
        ),
        sa.Column(
            "debit",
            sa.Enum(
                "customer",
                "cash_in",
                "revenue",
                "provider_cost",
                "suspense",
                "loss",
                name="debit",
                native_enum=False,
                create_constraint=True,
                length=32,
            ),
            nullable=False,
        ),
        sa.Column(
            "credit",
            sa.Enum(
                "customer",
                "cash_in",
                "revenue",
                "provider_cost",
                "suspense",
                "loss",
                name="credit",
                native_enum=False,
                create_constraint=True,
                length=32,
            ),
            nullable=False,
        ),
        sa.Column("account_id", sa.Uuid(), nullable=True),
        sa.Column("hold_id", sa.Uuid(), nullable=True),
        sa.Column("batch_id", sa.Uuid(), nullable=True),
        sa.Column("amount_nanos", sa.BigInteger(), nullable=False),
        sa.Column("note", sa.Text(), nullable=True),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.CheckConstraint(
            "(debit = 'customer' OR credit = 'customer') = (account_id IS NOT NULL)",
            name=op.f("ck_transfers_customer"),
        ),
        sa.CheckConstraint(
            "(kind = 'deposit' AND debit = 'cash_in' AND credit = 'customer') OR (kind = 'charge' AND debit = 'customer' AND credit = 'revenue') OR (kind = 'overrun_loss' AND debit = 'loss' AND credit = 'revenue') OR (kind = 'suspense' AND debit = 'customer' AND credit = 'suspense') OR (kind = 'suspense_return' AND debit = 'suspense' AND credit = 'customer') OR (kind = 'suspense_charge' AND debit = 'suspense' AND credit = 'revenue') OR (kind = 'provider_cost' AND debit = 'revenue' AND credit = 'provider_cost') OR (kind = 'unbilled_cost' AND debit = 'loss' AND credit = 'provider_cost')",
            name=op.f("ck_transfers_sides"),
        ),
        sa.CheckConstraint("amount_nanos > 0", name=op.f("ck_transfers_amount")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_transfers")),
    )
    op.create_index("ix_transfers_account", "transfers", ["account_id", "id"], unique=False)
    op.create_index(
        "ix_transfers_unbilled",
        "transfers",
        ["batch_id", "id"],
        unique=False,
        postgresql_where=sa.text("kind = 'unbilled_cost'"),
    )
    op.create_index(
        "uq_transfers_aftermath",
        "transfers",
        ["hold_id", "kind"],
        unique=True,
        postgresql_where=sa.text("kind IN ('overrun_loss', 'suspense_return', 'suspense_charge')"),
    )
    op.create_index(
        "uq_transfers_resolution",
        "transfers",
        ["hold_id"],
        unique=True,
        postgresql_where=sa.text("kind IN ('charge', 'suspense')"),
    )
    op.create_table(
        "api_keys",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("account_id", sa.Uuid(), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("previous_digest", sa.LargeBinary(), nullable=True),
        sa.Column("previous_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("preview", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column(
            "scopes",
            postgresql.ARRAY(sa.Text()),
            server_default=sa.text("'{inference,jobs:read,billing:read}'"),
            nullable=False,
        ),
        sa.Column("models", postgresql.ARRAY(sa.Text()), nullable=True),
        sa.Column("requests_per_minute", sa.Integer(), nullable=True),
        sa.Column("daily_nanos", sa.BigInteger(), nullable=True),
        sa.Column("monthly_nanos", sa.BigInteger(), nullable=True),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_used_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "scopes <@ ARRAY['inference', 'jobs:read', 'billing:read', 'admin']",
            name=op.f("ck_api_keys_scopes"),
        ),
        sa.CheckConstraint(
            "(previous_digest IS NULL) = (previous_until IS NULL)",
            name=op.f("ck_api_keys_previous_digest"),
        ),
        sa.ForeignKeyConstraint(
            ["account_id"], ["accounts.id"], name=op.f("fk_api_keys_account_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_keys")),
        sa.UniqueConstraint("digest", name=op.f("uq_api_keys_digest")),
        sa.UniqueConstraint("previous_digest", name=op.f("uq_api_keys_previous_digest")),
    )
    op.create_index(op.f("ix_api_keys_account_id"), "api_keys", ["account_id"], unique=False)
    op.create_table(
        "balance_thresholds",
        sa.Column("account_id", sa.Uuid(), nullable=False),
        sa.Column("threshold_nanos", sa.BigInteger(), nullable=False),
        sa.Column("low_since", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("threshold_nanos > 0", name=op.f("ck_balance_thresholds_threshold")),
        sa.ForeignKeyConstraint(
            ["account_id"], ["accounts.id"], name=op.f("fk_balance_thresholds_account_id")
        ),
        sa.PrimaryKeyConstraint("account_id", name=op.f("pk_balance_thresholds")),
    )
    op.create_table(
        "balances",
        sa.Column("account_id", sa.Uuid(), nullable=False),
        sa.Column("credits_nanos", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("debits_nanos", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("held_nanos", sa.BigInteger(), server_default="0", nullable=False),
        sa.CheckConstraint(
            "credits_nanos - debits_nanos - held_nanos >= 0", name=op.f("ck_balances_available")
        ),
        sa.CheckConstraint("held_nanos >= 0", name=op.f("ck_balances_held")),
        sa.ForeignKeyConstraint(
            ["account_id"], ["accounts.id"], name=op.f("fk_balances_account_id")
        ),
        sa.PrimaryKeyConstraint("account_id", name=op.f("pk_balances")),
    )
    op.create_table(
        "data_keys",
        sa.Column("account_id", sa.Uuid(), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.ForeignKeyConstraint(
            ["account_id"], ["accounts.id"], name=op.f("fk_data_keys_account_id")
        ),
        sa.PrimaryKeyConstraint("account_id", name=op.f("pk_data_keys")),
    )
    op.create_table(
        "deliveries",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("event_id", sa.Uuid(), nullable=False),
        sa.Column("endpoint_id", sa.Uuid(), nullable=True),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("include_result", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column(
            "status",
            sa.Enum(
                "pending",
                "delivered",
                "failed",
                name="status",
                native_enum=False,
                create_constraint=True,
                length=32,
            ),
            nullable=False,
        ),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("attempts_before", sa.Integer(), server_default="0", nullable=False),
        sa.Column("epoch", sa.Integer(), server_default="0", nullable=False),
        sa.Column("leased_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column(
            "due_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False
        ),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["event_id"], ["events.id"], name=op.f("fk_deliveries_event_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_deliveries")),
    )
    op.create_index(
        "ix_deliveries_due",
        "deliveries",
        ["due_at"],
        unique=False,
        postgresql_where=sa.text("status = 'pending'"),
    )
    op.create_index(
        "ix_deliveries_due_url",
        "deliveries",
        ["url", "due_at"],
        unique=False,
        postgresql_where=sa.text("status = 'pending'"),
    )
    op.create_index(
        "ix_deliveries_endpoint",
        "deliveries",
        ["endpoint_id", "id"],
        unique=False,
        postgresql_where=sa.text("endpoint_id IS NOT NULL"),
    )
    op.create_index(
        "ix_deliveries_endpoint_pending",
        "deliveries",
        ["endpoint_id"],
        unique=False,
        postgresql_where=sa.text("status = 'pending' AND endpoint_id IS NOT NULL"),
    )
    op.create_index("ix_deliveries_event", "deliveries", ["event_id"], unique=False)
    op.create_index(
        "ix_deliveries_in_flight",
        "deliveries",
        ["url"],
        unique=False,
        postgresql_where=sa.text("status = 'pending' AND leased_until IS NOT NULL"),
    )
    op.create_table(
        "provider_batches",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("lane_id", sa.Integer(), nullable=False),
        sa.Column(
            "status",
            sa.Enum(
                "formed",
                "uploading",
                "submitting",
                "in_doubt",
                "submitted",
                "in_progress",
                "ingesting",
                "done",
                name="status",
                native_enum=False,
                create_constraint=True,
                length=32,
            ),
            nullable=False,
        ),
        sa.Column("epoch", sa.Integer(), server_default="0", nullable=False),
        sa.Column("leased_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column(
            "due_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False
        ),
        sa.Column("request_count", sa.Integer(), nullable=False),
        sa.Column("body_bytes", sa.BigInteger(), nullable=False),
        sa.Column("refusals", sa.SmallInteger(), server_default="0", nullable=False),
        sa.Column("crashes", sa.Integer(), server_default="0", nullable=False),
        sa.Column("input_file_id", sa.Text(), nullable=True),
        sa.Column("external_id", sa.Text(), nullable=True),
        sa.Column("result_files", postgresql.JSONB(), nullable=True),
        sa.Column("provider_status", sa.Text(), nullable=True),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column("intent_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("intent_ref", sa.Text(), nullable=True),
        sa.Column(
            "lost_intents",
            sa.ARRAY(sa.DateTime(timezone=True)),
            server_default="{}",
            nullable=False,
        ),
        sa.Column("submitted_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("in_progress_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("done_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "status NOT IN ('submitted', 'in_progress', 'ingesting') OR external_id IS NOT NULL",
            name=op.f("ck_provider_batches_external"),
        ),
        sa.CheckConstraint(
            "status NOT IN ('submitting', 'in_doubt') OR (intent_at IS NOT NULL AND intent_ref IS NOT NULL)",
            name=op.f("ck_provider_batches_intent"),
        ),
        sa.ForeignKeyConstraint(
            ["lane_id"], ["lanes.id"], name=op.f("fk_provider_batches_lane_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_provider_batches")),
    )
    op.create_index(
        "ix_provider_batches_due",
        "provider_batches",
        ["due_at"],
        unique=False,
        postgresql_where=sa.text("status <> 'done'"),
    )
    op.create_index("ix_provider_batches_lane", "provider_batches", ["lane_id", "id"], unique=False)
    op.create_index(
        "ix_provider_batches_lost",
        "provider_batches",
        ["lane_id"],
        unique=False,
        postgresql_where=sa.text("lost_intents <> '{}'"),
    )
    op.create_index(
        "uq_provider_batches_external",
        "provider_batches",
        ["external_id", "lane_id"],
        unique=True,
        postgresql_where=sa.text("external_id IS NOT NULL"),
    )
    op.create_table(
        "provider_keys",
        sa.Column("account_id", sa.Uuid(), nullable=False),
        sa.Column("provider", sa.Text(), nullable=False),
        sa.Column("generation", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("reference", sa.Text(), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=True),
        sa.Column("preview", sa.Text(), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column("rotated_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("replaced_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "sealed IS NOT NULL OR replaced_at IS NOT NULL", name=op.f("ck_provider_keys_sealed")
        ),
        sa.ForeignKeyConstraint(
            ["account_id"], ["accounts.id"], name=op.f("fk_provider_keys_account_id")
        ),
        sa.PrimaryKeyConstraint(
            "account_id", "provider", "generation", name=op.f("pk_provider_keys")
        ),
        sa.UniqueConstraint(
            "provider", "reference", name=op.f("uq_provider_keys_provider_reference")
        ),
    )
    op.create_index(
        "ix_provider_keys_replaced",
        "provider_keys",
        ["replaced_at"],
        unique=False,
        postgresql_where=sa.text("replaced_at IS NOT NULL AND sealed IS NOT NULL"),
    )
    op.create_index(
        "uq_provider_keys_current",
        "provider_keys",
        ["account_id", "provider"],
        unique=True,
        postgresql_where=sa.text("replaced_at IS NULL"),
    )
    op.create_table(
        "webhook_endpoints",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("account_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("event_types", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("include_result", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("secret", sa.LargeBinary(), nullable=False),
        sa.Column("secret_hint", sa.Text(), nullable=False),
        sa.Column("old_secret", sa.LargeBinary(), nullable=True),
        sa.Column("old_secret_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("failing_since", sa.DateTime(timezone=True), nullable=True),
        sa.Column("disabled_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("disabled_reason", sa.Text(), nullable=True),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column(
            "updated_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.CheckConstraint(
            "(disabled_at IS NULL) = (disabled_reason IS NULL)",
            name=op.f("ck_webhook_endpoints_disabled"),
        ),
        sa.CheckConstraint(
            "(old_secret IS NULL) = (old_secret_until IS NULL)",
            name=op.f("ck_webhook_endpoints_old_secret"),
        ),
        sa.ForeignKeyConstraint(
            ["account_id"], ["accounts.id"], name=op.f("fk_webhook_endpoints_account_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_webhook_endpoints")),
    )
    op.create_index(
        "ix_webhook_endpoints_account", "webhook_endpoints", ["account_id", "id"], unique=False
    )
    op.create_table(
        "widget_keys",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("account_id", sa.Uuid(), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("preview", sa.Text(), nullable=False),
        sa.Column("agent_id", sa.Text(), nullable=True),
        sa.Column("allowed_origins", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("models", postgresql.ARRAY(sa.Text()), nullable=True),
        sa.Column("requests_per_minute", sa.Integer(), nullable=False),
        sa.Column("visitor_requests_per_minute", sa.Integer(), nullable=False),
        sa.Column("daily_nanos", sa.BigInteger(), nullable=False),
        sa.Column("monthly_nanos", sa.BigInteger(), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "daily_nanos >= 0 AND monthly_nanos >= 0", name=op.f("ck_widget_keys_caps")
        ),
        sa.CheckConstraint(
            "requests_per_minute > 0", name=op.f("ck_widget_keys_requests_per_minute")
        ),
        sa.CheckConstraint(
            "visitor_requests_per_minute > 0",
            name=op.f("ck_widget_keys_visitor_requests_per_minute"),
        ),
        sa.ForeignKeyConstraint(
            ["account_id"], ["accounts.id"], name=op.f("fk_widget_keys_account_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_widget_keys")),
        sa.UniqueConstraint("digest", name=op.f("uq_widget_keys_digest")),
    )
    op.create_index(op.f("ix_widget_keys_account_id"), "widget_keys", ["account_id"], unique=False)
    op.create_table(
        "delivery_attempts",
        sa.Column("delivery_id", sa.Uuid(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column(
            "started_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("http_status", sa.Integer(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("excerpt", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(
            ["delivery_id"], ["deliveries.id"], name=op.f("fk_delivery_attempts_delivery_id")
        ),
        sa.PrimaryKeyConstraint("delivery_id", "number", name=op.f("pk_delivery_attempts")),
    )
    op.create_table(
        "orphan_batches",
        sa.Column("external_id", sa.Text(), nullable=False),
        sa.Column("batch_id", sa.Uuid(), nullable=False),
        sa.Column(
            "due_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False
        ),
        sa.Column("cost_nanos", sa.BigInteger(), nullable=True),
        sa.Column(
            "found_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False
        ),
        sa.Column("booked_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["batch_id"], ["provider_batches.id"], name=op.f("fk_orphan_batches_batch_id")
        ),
        sa.PrimaryKeyConstraint("external_id", name=op.f("pk_orphan_batches")),
    )
    op.create_index(
        "ix_orphan_batches_due",
        "orphan_batches",
        ["due_at"],
        unique=False,
        postgresql_where=sa.text("booked_at IS NULL"),
    )
    for trigger in TRIGGERS:
        op.execute(trigger)
