"""Holds in one round trip: a function that grants them all, or none."""

from alembic import op

revision = "0003"
down_revision = "0002"

HOLD_ALL = """
CREATE OR REPLACE FUNCTION hold_all(
    hold_ids uuid[], account_ids uuid[], key_ids uuid[], amounts bigint[], expiries timestamptz[],
    today date, daily_cap bigint, monthly_cap bigint
) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    all_fit boolean;
BEGIN
    WITH asked AS (
        SELECT account_id, sum(amount) AS amount
        FROM unnest(account_ids, amounts) AS asked (account_id, amount) GROUP BY account_id
    ), locked AS (
        SELECT account_id, credits_nanos - debits_nanos - held_nanos AS available FROM balances
        WHERE account_id = ANY(account_ids) ORDER BY account_id FOR UPDATE
    )
    SELECT bool_and(amount <= coalesce(available, -1)) INTO all_fit
    FROM asked LEFT JOIN locked USING (account_id);
    IF NOT all_fit THEN
        RETURN false;
    END IF;
    WITH asked AS (
        SELECT key_id, sum(amount)::bigint AS amount
        FROM unnest(key_ids, amounts) AS asked (key_id, amount) GROUP BY key_id
    ), added AS (
        INSERT INTO key_spending AS spending (key_id, period, starts_on, amount_nanos)
        SELECT key_id, period, starts_on, amount FROM asked CROSS JOIN (
            VALUES ('day', today), ('month', date_trunc('month', today)::date)
        ) AS periods (period, starts_on)
        ON CONFLICT (key_id, period, starts_on)
        DO UPDATE SET amount_nanos = spending.amount_nanos + excluded.amount_nanos
        RETURNING amount_nanos <= coalesce((
            SELECT CASE spending.period WHEN 'day' THEN coalesce(daily_nanos, daily_cap)
                   ELSE coalesce(monthly_nanos, monthly_cap) END
            FROM api_keys WHERE api_keys.id = spending.key_id
        ), (
            SELECT CASE spending.period WHEN 'day' THEN daily_nanos ELSE monthly_nanos END
            FROM widget_keys WHERE widget_keys.id = spending.key_id
        ), amount_nanos) AS fits
    )
    SELECT bool_and(fits) INTO all_fit FROM added;
    IF NOT all_fit THEN
        UPDATE key_spending SET amount_nanos = amount_nanos - asked.amount
        FROM (
            SELECT key_id, sum(amount)::bigint AS amount
            FROM unnest(key_ids, amounts) AS asked (key_id, amount) GROUP BY key_id
        ) AS asked
        WHERE key_spending.key_id = asked.key_id AND (period, starts_on) IN (
            ('day', today), ('month', date_trunc('month', today)::date));
        RETURN false;
    END IF;
    UPDATE balances SET held_nanos = held_nanos + asked.amount
    FROM (
        SELECT account_id, sum(amount)::bigint AS amount
        FROM unnest(account_ids, amounts) AS asked (account_id, amount) GROUP BY account_id
    ) AS asked
    WHERE balances.account_id = asked.account_id;
    INSERT INTO holds (id, account_id, key_id, amount_nanos, status, held_on, expires_at)
    SELECT hold_id, account_id, key_id, amount, 'open', today, expires_at
    FROM unnest(hold_ids, account_ids, key_ids, amounts, expiries)
        AS asked (hold_id, account_id, key_id, amount, expires_at);
    RETURN true;
END $$
"""


def upgrade() -> None:
    op.execute(HOLD_ALL)
