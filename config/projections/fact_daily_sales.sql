-- The fact table of completed sales: order → stock → product, by day, brand, category and platform.
-- After: Analytics Data Warehouse (fact_daily_sales).
SELECT
    o.sold_at::date                     AS sale_date,
    p.brand_id,
    p.category_id,
    pl.id                               AS platform_id,
    count(DISTINCT o.id)                AS total_orders,
    sum(o.gross_sale)                   AS gross_revenue,
    sum(o.platform_fee + o.shipping_cost) AS total_costs,
    sum(o.net_profit)                   AS net_profit,
    avg(o.roi)                          AS avg_roi
FROM sales."order" o
JOIN inventory.stock s ON o.inventory_item_id = s.id
JOIN catalog.product p ON s.product_id = p.id
JOIN platform.marketplace pl ON o.platform_id = pl.id
WHERE o.status = 'completed'
GROUP BY 1, 2, 3, 4
