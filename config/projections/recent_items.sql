-- Items of the last 30 days. They expire by the clock.
-- After: (mv_recent_items).
SELECT id, status, category, created_at, location_point
FROM items
WHERE is_deleted = FALSE
  AND created_at > (now() - interval '30 days')
