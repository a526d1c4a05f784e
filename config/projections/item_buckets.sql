-- Items by geohash prefix and category, to look for matches among neighbours only.
-- After: (item_buckets).
SELECT left(geohash, 6) AS geohash6, category, id AS item_id, created_at
FROM items
WHERE geohash IS NOT NULL AND NOT is_deleted
