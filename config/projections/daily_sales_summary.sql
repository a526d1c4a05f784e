-- Sales of the last two years by day and platform, for dashboards. Days leave by the clock.
-- After: Materialized Views (daily_sales_summary).
SELECT
    o.sold_at::date      AS day,
    o.platform_id,
    count(*)             AS order_count,
    sum(o.gross_sale)    AS total_revenue,
    sum(o.net_profit)    AS total_profit,
    avg(o.gross_sale)    AS avg_order_value,
    avg(o.roi)           AS avg_roi
FROM sales."order" o
WHERE o.sold_at >= CURRENT_DATE - interval '2 years'
GROUP BY 1, 2
