CREATE INDEX idx_recent_items_status_created_at ON recent_items (status, created_at DESC);
