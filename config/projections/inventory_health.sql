-- Stock that is not sold, by brand and category.
-- After: Analytics Data Warehouse (inventory_health).
-- The average shelf time looks at the clock, so this projection is recomputed as a whole, on changes and on a schedule.
SELECT
    p.brand_id,
    p.category_id,
    count(s.id)                                                  AS total_units,
    sum(CASE WHEN s.status = 'in_stock' THEN 1 ELSE 0 END)       AS available_units,
    sum(CASE WHEN s.listed_stockx THEN 1 ELSE 0 END)             AS listed_stockx_count,
    avg(extract(day FROM now() - s.purchase_date))               AS avg_shelf_days,
    sum(s.purchase_price)                                        AS total_inventory_value
FROM inventory.stock s
JOIN catalog.product p ON s.product_id = p.id
WHERE s.status <> 'sold'
GROUP BY 1, 2
