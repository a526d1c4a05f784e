-- Transactions of the deprecated table that have no counterpart in sales."order": empty when the migration is complete.
-- After: Dual Transaction Tables.
SELECT t.id, t.external_id, t.amount, t.booked_at
FROM financial.transaction t
WHERE NOT EXISTS (
    SELECT 1 FROM sales."order" o WHERE o.external_id = t.external_id
)
