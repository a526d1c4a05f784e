CREATE INDEX idx_item_buckets_recent ON item_buckets (created_at DESC);
