-- One row for each stock item from the five tables that hold its parts.
-- After: Schema Redundancy (consolidate_inventory.sql). The tables stay as they are.
SELECT
    s.id,
    s.product_id,
    s.supplier_id,
    s.status,
    s.quantity,
    coalesce(sf.purchase_price, s.purchase_price)   AS purchase_price,
    sf.sale_price,
    sf.fees,
    sl.status                                       AS lifecycle_status,
    sl.changed_at                                   AS state_changed_at,
    sm.views,
    sm.days_listed,
    coalesce(sr.reserved_qty, 0)                    AS reserved_qty,
    sr.reserved_by,
    sr.expires_at                                   AS reservation_expires
FROM inventory.stock s
LEFT JOIN inventory.stock_financial sf ON sf.stock_id = s.id
LEFT JOIN inventory.stock_lifecycle sl ON sl.stock_id = s.id
LEFT JOIN inventory.stock_metrics sm ON sm.stock_id = s.id
LEFT JOIN inventory.stock_reservation sr ON sr.stock_id = s.id
