CREATE INDEX idx_order_search_platform_order ON order_search (platform_order_id);
CREATE INDEX idx_order_search_pending        ON order_search (sold_at DESC) WHERE status IN ('pending', 'processing');
CREATE INDEX idx_order_search_platform       ON order_search (platform_id, sold_at DESC);
