-- What is on the shelf, for each product.
-- After: composite indexes ("Show active stock for product X").
SELECT
    p.id                                                    AS product_id,
    p.sku,
    p.name                                                  AS product_name,
    b.name                                                  AS brand_name,
    c.name                                                  AS category_name,
    count(*)                                                AS stock_items,
    sum(s.quantity)                                         AS total_quantity,
    sum(s.quantity) FILTER (WHERE s.status = 'in_stock')    AS available_quantity,
    sum(s.quantity) FILTER (WHERE s.status = 'reserved')    AS reserved_quantity,
    min(s.purchase_price)                                   AS min_cost,
    max(s.purchase_price)                                   AS max_cost,
    avg(s.purchase_price)                                   AS avg_cost
FROM inventory.stock s
JOIN catalog.product p ON p.id = s.product_id
LEFT JOIN catalog.brand b ON b.id = p.brand_id
LEFT JOIN catalog.category c ON c.id = p.category_id
WHERE s.status <> 'sold'
GROUP BY p.id, p.sku, p.name, b.name, c.name
